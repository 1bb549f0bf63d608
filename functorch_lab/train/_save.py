# SPDX-License-Identifier: Apache-2.0
"""A tree in a file, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree as trees
from functorch_lab.train import _format, _structure
from functorch_lab.train._files import told, written
from functorch_lab.train._stored import stored
from functorch_lab.train._structure import Place

_PLAIN = (Tensor, torch.nn.Parameter)


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
        tree: any tree of tensors: parameters, a `TrainState`, one tensor. No other
            thread changes them meanwhile.
        metadata: what is to be kept with it, as JSON can hold it: keys come back as
            strings, tuples as lists.

    Raises:
        TypeError: a leaf is no tensor, or of a kind that the format lacks (sparse,
            quantised, on the meta device, complex128); a key of a dict is neither
            string nor number; JSON cannot hold the metadata. Nothing is written.
        ValueError: there is a `None` in the tree.
        RuntimeError: a tensor was changed in place while it was written.
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
    try:
        structure = _structure.record(tree, leaves, "save: tree")
        places = _structure.places(structure)
        names = _names(places)
        whole = json.dumps({"tree": structure, "names": names}, separators=(",", ":"))
    except RecursionError:
        raise ValueError(
            "train.save: tree: expected some hundred levels at most, got more. Keep a "
            "long list as a list, not as nested pairs."
        ) from None
    for leaf, place in zip(leaves, places, strict=True):
        _check_leaf(leaf, place.bracket or "the root")
    tensors = dict(zip(names, leaves, strict=True))
    with told("train.save", path, "a file that can be written"), written(path) as file:
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
        TypeError: a leaf of `like` is no tensor, or the pattern no string.
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
    if pattern is not None and not isinstance(pattern, str):
        raise TypeError(
            "train.restore: pattern: expected a glob over dotted paths, got a "
            f"{type(pattern).__name__}. Write e.g. pattern='encoder.*'."
        )
    chosen = None if device is None else _device(device)
    with stored(path) as file:
        if like is None:
            leaves: list[Any] = [()] * len(file.places)
            file.build(leaves)  # what it cannot build is told before anything is read
            numbers = file.matching(pattern)
            found = file.read(numbers, repeat(chosen or torch.device("cpu")))
            for number, leaf in zip(numbers, found, strict=True):
                leaves[number] = leaf
            return file.build(leaves)
        sources = file.sources(like, pattern)
        found = file.read(
            [number for number, _ in sources.values()],
            [chosen or own for _, own in sources.values()],
        )
        taken = dict(zip(sources, found, strict=True))
        return trees.map_with_path(taken.get, like)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata that `save` was given; only the header is read.

    Raises:
        ValueError: as `restore`.
        OSError: the file cannot be read.
    """
    with stored(path) as file:
        return file.metadata


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
    elif leaf.is_nested:
        got, remedy = "a nested tensor", "Save tensor.unbind(), a list of tensors"
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
    distinct = len(set(names)) == len(names) and "__metadata__" not in names
    if distinct and "".join(names).isprintable():
        return names
    return [place.bracket for place in places]


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"train.restore: device: expected one of this machine, got {device!r}: "
            f"{str(error).splitlines()[0].rstrip('.')}. Leave it out for the CPU."
        ) from None
