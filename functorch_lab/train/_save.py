# SPDX-License-Identifier: Apache-2.0
"""A tree in a file, and back."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree as trees
from functorch_lab.train import _format, _structure
from functorch_lab.train._files import written
from functorch_lab.train._structure import Mismatch, Place, UnknownNode

_PLAIN = (Tensor, torch.nn.Parameter)


class _Stored(NamedTuple):
    """A file's tree: its structure, and for each leaf its paths and its place."""

    structure: Any
    places: list[Place]
    specs: list[_format.Spec]


def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a tree of tensors into one safetensors file.

    The file is complete on the disk before it takes the name `path`: whatever happens
    meanwhile, there is the old file or the new one. It holds the tree's structure and a
    checksum of every tensor; `restore` reads it, and any reader of safetensors finds
    the tensors under torch's flat names, as `encoder.0.weight` (under bracket paths
    where two of those would be the same). Tensors are detached; where they share
    memory, each is written by itself.

    Args:
        path: the file; its folder exists. What was there is replaced.
        tree: any tree of tensors: parameters, a `TrainState`, one tensor.
        metadata: what is to be kept with it, as JSON can hold it.

    Raises:
        TypeError: a leaf is no tensor, or of a kind that the format lacks (sparse,
            quantised, on the meta device, complex128); a key of a dict is neither
            string nor number; JSON cannot hold the metadata. Nothing is written.
        ValueError: there is a `None` in the tree.
        OSError: the file cannot be written: no such folder, a folder of that name, no
            permission, no space. What was there before is there still.

    Example:
        >>> import tempfile, torch
        >>> from functorch_lab import train
        >>> params = {"encoder": [{"weight": torch.tensor([2.0, 3.0])}]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train.save(f"{folder}/params.safetensors", params)
        ...     train.restore(f"{folder}/params.safetensors")
        {'encoder': [{'weight': tensor([2., 3.])}]}
    """
    noted = _noted({} if metadata is None else metadata)
    leaves: list[Any] = []
    structure = _structure.record(tree, leaves)
    places = _structure.places(structure)
    for leaf, place in zip(leaves, places, strict=True):
        _check_leaf(leaf, place.bracket or "the root")
    names = _names(places)
    whole = json.dumps({"tree": structure, "names": names}, separators=(",", ":"))
    with _told("save", path, "a file that can be written"), written(path) as file:
        tensors = dict(zip(names, leaves, strict=True))
        _format.write(file, tensors, {"structure": whole, "metadata": noted})


def restore(
    path: str | os.PathLike[str],
    like: Any = None,
    *,
    pattern: str | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Reads a tree that `save` wrote; every bit is checked before it is used.

    The leaves are new tensors in memory of their own and require no gradient.

    Args:
        path: the file.
        like: a tree of the same structure, shapes and dtypes: the result is built as
            this one is, each leaf on its device (on the CPU for one on the meta device,
            as `eval_shape` gives them). Classes count by their fields, not by name.
            Without it, the tree is built as the file tells: dicts, lists, tuples, and
            those named tuples and `tree.dataclass` whose modules are loaded.
        pattern: a glob over dotted paths, as for `tree.select`: only the leaves that
            match are read. The others are those of `like`, the very tensors, and may
            differ from the file's in any way; without `like` they are holes `()`.
        device: where the leaves that are read go instead.

    Raises:
        ValueError: the file is truncated, corrupted, of another kind or of another
            format; it and `like` differ, in which the first path is named; it holds a
            node whose class is not loaded; no leaf matches the pattern; there is no
            such device.
        TypeError: a leaf of `like` is no tensor.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile, torch
        >>> from functorch_lab import train
        >>> old = {"encoder": torch.tensor(2.0), "head": torch.tensor([3.0, 5.0])}
        >>> new = {"encoder": torch.tensor(0.0), "head": torch.tensor([7.0])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train.save(f"{folder}/old.safetensors", old)
        ...     train.restore(f"{folder}/old.safetensors", new, pattern="encoder*")
        {'encoder': tensor(2.), 'head': tensor([7.])}
    """
    chosen = None if device is None else _device(device)
    with _open(path) as file:
        _, stored = _contents(path, file)
        if like is not None:
            return _into(path, file, stored, like, pattern, chosen)
        wanted = _matching(stored.places, pattern)
        holes: list[Any] = [()] * len(stored.places)
        with _known(path):  # before anything is read
            _structure.build(stored.structure, holes)
        for i in wanted:
            holes[i] = _read(path, file, stored, i, chosen)
        return _structure.build(stored.structure, holes)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata that `save` was given; only the header is read.

    Raises:
        ValueError: as `restore`.
        OSError: the file cannot be read.
    """
    with _open(path) as file:
        header, _ = _contents(path, file)
        return json.loads(header.metadata["metadata"])


def _noted(metadata: Mapping[str, Any]) -> str:
    if not isinstance(metadata, Mapping):
        raise TypeError(
            "train.save: metadata: expected a dict, got a "
            f"{type(metadata).__name__}. Write metadata={{'name': value}}."
        )
    try:
        return json.dumps(dict(metadata))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"train.save: metadata: expected what JSON can hold, got: {error}. Put "
            "tensors into the tree."
        ) from None


def _check_leaf(leaf: Any, path: str) -> None:
    if leaf is None:
        raise ValueError(
            f"train.save: tree: expected tensors, got None at {path}. Write a hole as "
            "(), the empty tuple."
        )
    where = "train.save: tree: expected"
    if not isinstance(leaf, Tensor):
        raise TypeError(
            f"{where} tensors, got a {type(leaf).__name__} at {path}. Make a number a "
            "tensor (torch.tensor), give other values as metadata=."
        )
    # A donated tensor raises here, with its own words.
    if leaf.layout != torch.strided:
        got, remedy = f"a {leaf.layout} tensor", "Save tensor.to_dense()"
    elif leaf.is_quantized:
        got, remedy = f"a {leaf.dtype} tensor", "Save tensor.dequantize()"
    elif leaf.device.type == "meta":
        got, remedy = "a meta tensor", "Save tensors that have values"
    elif type(leaf) not in _PLAIN or _is_traced(leaf):
        got, remedy = f"a {type(leaf).__name__}", "Save outside of grad, vmap and jit"
    elif leaf.dtype not in _format.DTYPES.values():
        got, remedy = f"a {leaf.dtype} tensor", "The format has none: convert it"
    else:
        return
    raise TypeError(
        f"{where} dense tensors with values, got {got} at {path}. {remedy}."
    )


def _is_traced(leaf: Tensor) -> bool:
    torch_c: Any = torch._C
    return torch_c._functorch.is_functorch_wrapped_tensor(leaf)


def _names(places: Sequence[Place]) -> list[str]:
    """Torch's flat names, or bracket paths where those cannot serve as names."""
    names = [place.dotted for place in places]
    try:
        fit = "".join(names).isprintable() and "__metadata__" not in names
    except UnicodeError:
        fit = False
    if fit and len(set(names)) == len(names):
        return names
    return [place.bracket for place in places]


def _contents(
    path: str | os.PathLike[str], file: BinaryIO
) -> tuple[_format.Header, _Stored]:
    """What is in a file; a file that is too short or too long is refused."""
    try:
        header = _format.read_header(file)
    except _format.Refused as refused:
        raise _refusal(path, str(refused)) from None
    whole = json.loads(header.metadata["structure"])
    with _known(path):
        places = _structure.places(whole["tree"])
    specs = [header.specs[name] for name in whole["names"]]
    size = os.fstat(file.fileno()).st_size
    if size > header.size:
        raise _refusal(path, f"a file with {size - header.size} bytes more")
    if size < header.size:
        paths = [
            place.bracket or "the root"
            for spec, place in zip(specs, places, strict=True)
            if spec.stop > size
        ]
        raise _refusal(
            path,
            f"a truncated file: {size} bytes of {header.size}, the first tensor that "
            f"is not whole is at {paths[0]}",
        )
    return header, _Stored(whole["tree"], places, specs)


def _read(
    path: str | os.PathLike[str],
    file: BinaryIO,
    stored: _Stored,
    number: int,
    device: torch.device | None,
) -> Tensor:
    leaf = _format.read(file, stored.specs[number])
    if leaf is None:
        at = stored.places[number].bracket or "the root"
        raise _refusal(
            path, f"a corrupted file: the tensor at {at} does not match its checksum"
        )
    return leaf if device is None else leaf.to(device)


def _into(
    path: str | os.PathLike[str],
    file: BinaryIO,
    stored: _Stored,
    like: Any,
    pattern: str | None,
    device: torch.device | None,
) -> Any:
    """The file's leaves in a tree like another."""
    leaves: list[Any] = []
    structure = _structure.record(like, leaves)
    places = _structure.places(structure)
    for leaf, place in zip(leaves, places, strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"train.restore: like: expected tensors, got a {type(leaf).__name__} "
                f"at {place.bracket or 'the root'}. Pass a tree such as was saved."
            )
    pairs = (
        _structure.pairs(structure, stored.structure)
        if pattern is None
        else _pairs_at(places, stored.places, pattern)
    )
    sources = {}
    for pair in pairs:
        found = pair
        if not isinstance(pair, Mismatch):
            at, ours, theirs = pair
            found = _difference(at, leaves[ours], stored.specs[theirs])
            sources[places[ours].bracket] = theirs
        if isinstance(found, Mismatch):
            raise ValueError(
                f"train.restore: {os.fspath(path)} and like differ at {found.path}: "
                f"expected {found.expected}, got {found.got}. Pass a tree such as was "
                "saved, or pattern= for a part of it."
            )

    def fill(at: str, leaf: Tensor) -> Tensor:
        if at not in sources:
            return leaf
        own = torch.device("cpu") if leaf.device.type == "meta" else leaf.device
        return _read(path, file, stored, sources[at], device or own)

    return trees.map_with_path(fill, like)


def _difference(path: str, expected: Tensor, got: _format.Spec) -> Mismatch | None:
    first = tuple(expected.shape), str(expected.dtype).removeprefix("torch.")
    second = got.shape, str(got.dtype).removeprefix("torch.")
    if first == second:
        return None
    return Mismatch(
        path or "the root", f"{first[1]} {first[0]}", f"{second[1]} {second[0]}"
    )


def _pairs_at(
    ours: Sequence[Place], theirs: Sequence[Place], pattern: str
) -> Iterator[Any]:
    """`_structure.pairs`, of the leaves that match a pattern in either tree."""
    first = {ours[i].bracket: i for i in _matching(ours, pattern, of="like")}
    second = {theirs[i].bracket: i for i in _matching(theirs, pattern)}
    for path in first | second:
        if path in first and path in second:
            yield path, first[path], second[path]
        else:
            words = [f"{'a' if path in it else 'no'} tensor" for it in (first, second)]
            yield Mismatch(path or "the root", *words)


def _matching(
    places: Sequence[Place], pattern: str | None, of: str = "the file"
) -> list[int]:
    if pattern is None:
        return list(range(len(places)))
    found = [
        i
        for i, place in enumerate(places)
        if fnmatch.fnmatchcase(place.dotted, pattern)
    ]
    if not found:
        known = ", ".join(place.dotted for place in places[:5])
        raise ValueError(
            "train.restore: pattern: expected a glob over dotted paths, got "
            f"{pattern!r}, which matches no leaf of {of}. It has {known or 'none'}"
            f"{', ...' if len(places) > 5 else ''}."
        )
    return found


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"train.restore: device: expected one of this machine, got {device!r}: "
            f"{str(error).splitlines()[0]}. Leave it out for the CPU."
        ) from None


@contextlib.contextmanager
def _known(path: str | os.PathLike[str]) -> Iterator[None]:
    """Words for a class that is not loaded."""
    try:
        yield
    except UnknownNode as node:
        raise ValueError(
            f"train.restore: path: expected nodes that this process knows, got "
            f"{node.what} at {node.path} in {os.fspath(path)}. Import the module that "
            "defines it, or pass like=."
        ) from None


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    with (
        _told("restore", path, "a file that can be read"),
        Path(path).open("rb") as file,
    ):
        yield file


@contextlib.contextmanager
def _told(where: str, path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Words for an error of the system."""
    folder = Path(path).parent
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(None, "it is a folder")
        yield
    except OSError as error:
        if not folder.is_dir():
            got, remedy = "there is no such folder", f"Make {folder} first"
        else:
            got, remedy = error.strerror or str(error), "Pass another path"
        raise OSError(
            f"train.{where}: path: expected {expected}, got {os.fspath(path)}: {got}. "
            f"{remedy}."
        ) from error


def _refusal(path: str | os.PathLike[str], got: str) -> ValueError:
    return ValueError(
        f"train.restore: path: expected a file that train.save wrote, got {got}: "
        f"{os.fspath(path)}."
    )
