# SPDX-License-Identifier: Apache-2.0
"""A tree in an open file: its structure, its leaves, and where they go in another."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import torch
from torch import Tensor

from functorch_lab.train import _format, _structure
from functorch_lab.train._files import told
from functorch_lab.train._structure import Mismatch, Place, UnknownNode

_CPU = torch.device("cpu")
_READERS = 4  # one reads, the others sum


class Stored:
    """What a file of `save` holds; every error speaks for `train.restore`."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._path, self._file, self._lock = path, file, Lock()
        try:
            header = _format.read_header(file)
        except _format.Refused as refused:
            raise self._refusal(str(refused)) from None
        self.metadata: dict[str, Any] = json.loads(header.metadata["metadata"])
        whole = json.loads(header.metadata["structure"])
        self.structure = whole["tree"]
        with self._known_nodes():
            self.places = _structure.places(self.structure)
        self.specs = [header.specs[name] for name in whole["names"]]
        self._check_size(os.fstat(file.fileno()).st_size, header.size)

    def build(self, leaves: Sequence[Any]) -> Any:
        """The file's own tree."""
        with self._known_nodes():
            return _structure.build(self.structure, leaves)

    def read(
        self, numbers: Iterable[int], devices: Iterable[torch.device]
    ) -> list[Tensor]:
        """These leaves, each on a device; refused if they do not match their sums."""
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self._read, numbers, devices))

    def matching(self, pattern: str | None) -> list[int]:
        """The numbers of the leaves that match."""
        if pattern is None:
            return list(range(len(self.places)))
        return _matching(self.places, pattern, "the file")

    def sources(
        self, like: Any, pattern: str | None
    ) -> dict[str, tuple[int, torch.device]]:
        """What the file has for `like`: by bracket path, its number here and a device.

        Raises:
            TypeError: a leaf of `like` is no tensor.
            ValueError: they differ; the first path where they do is named.
        """
        leaves: list[Any] = []
        structure = _structure.record(like, leaves, "restore: like")
        places = _structure.places(structure)
        for leaf, place in zip(leaves, places, strict=True):
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"train.restore: like: expected tensors, got a "
                    f"{type(leaf).__name__} at {place.bracket or 'the root'}. Pass a "
                    "tree such as was saved."
                )
        if pattern is None:
            pairs = _structure.pairs(structure, self.structure)
        else:
            pairs = _pairs_at(places, self.places, pattern)
        found = {}
        for pair in pairs:
            if isinstance(pair, Mismatch):
                raise self._difference(pair)
            path, ours, theirs = pair
            expected = leaves[ours].dtype, tuple(leaves[ours].shape)
            got = self.specs[theirs].dtype, self.specs[theirs].shape
            if expected != got:
                raise self._difference(Mismatch(path, _words(expected), _words(got)))
            device = leaves[ours].device
            found[path] = theirs, _CPU if device.type == "meta" else device
        return found

    def _read(self, number: int, device: torch.device) -> Tensor:
        leaf = _format.read(self._file, self.specs[number], self._lock)
        if leaf is None:
            at = self.places[number].bracket or "the root"
            raise self._refusal(
                f"a corrupted file, the tensor at {at} does not match its checksum"
            )
        return leaf.to(device)

    def _check_size(self, size: int, expected: int) -> None:
        if size > expected:
            raise self._refusal(f"a file with {size - expected} bytes too many")
        if size < expected:
            cut = [
                place.bracket or "the root"
                for spec, place in zip(self.specs, self.places, strict=True)
                if spec.stop > size
            ]
            raise self._refusal(
                f"a truncated file, {size} bytes of {expected}: the tensor at {cut[0]} "
                "is not whole"
            )

    def _difference(self, found: Mismatch) -> ValueError:
        return ValueError(
            f"train.restore: {self._path} and like differ at "
            f"{found.path or 'the root'}: expected {found.expected}, got {found.got}. "
            "Pass a tree such as was saved, or pattern= for a part of it."
        )

    def _refusal(self, got: str) -> ValueError:
        return ValueError(
            f"train.restore: path: expected a file that train.save wrote, got {got}: "
            f"{self._path}."
        )

    @contextlib.contextmanager
    def _known_nodes(self) -> Iterator[None]:
        try:
            yield
        except UnknownNode as node:
            raise ValueError(
                "train.restore: path: expected nodes that this process knows, got "
                f"{node.what} at {node.path or 'the root'} in {self._path}. Import the "
                "module that defines it, or pass like=."
            ) from None


@contextlib.contextmanager
def stored(path: str | os.PathLike[str]) -> Iterator[Stored]:
    """What is in a file, while it is open.

    Raises:
        TypeError: `path` is none.
        ValueError: the file is not one of `save`, or not all of it.
        OSError: it cannot be read.
    """
    with (
        told("train.restore", path, "a file that can be read"),
        Path(path).open("rb") as file,
    ):
        yield Stored(os.fspath(path), file)


def _pairs_at(
    ours: Sequence[Place], theirs: Sequence[Place], pattern: str
) -> Iterator[Any]:
    """`_structure.pairs`, of the leaves that match a pattern in either tree."""
    first = {ours[i].bracket: i for i in _matching(ours, pattern, "like")}
    second = {theirs[i].bracket: i for i in _matching(theirs, pattern, "the file")}
    for path in first | second:
        if path in first and path in second:
            yield path, first[path], second[path]
        else:
            words = [f"{'a' if path in it else 'no'} tensor" for it in (first, second)]
            yield Mismatch(path, *words)


def _matching(places: Sequence[Place], pattern: str, of: str) -> list[int]:
    found = [
        number
        for number, place in enumerate(places)
        if fnmatch.fnmatchcase(place.dotted, pattern)
    ]
    if not found:
        known = [place.dotted for place in places[:5]]
        known += ["..."] if len(places) > 5 else []
        raise ValueError(
            "train.restore: pattern: expected a glob over dotted paths, got "
            f"{pattern!r}, which matches no leaf of {of}. It has "
            f"{', '.join(known) or 'none'}."
        )
    return found


def _words(spec: tuple[torch.dtype, tuple[int, ...]]) -> str:
    return f"{str(spec[0]).removeprefix('torch.')} {spec[1]}"
