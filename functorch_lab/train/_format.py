# SPDX-License-Identifier: Apache-2.0
"""A safetensors file in which every bit counts.

The format: the header's length (8 bytes, little endian), the header (JSON: dtype, shape
and place of each tensor, and `__metadata__`, strings by name), the tensors' bytes. Ours
begins its metadata with the version, the header's CRC-32 and those of the tensors: what
a file says and what it holds is checked before it is used. The checksums come first, at
a fixed place, because they are written last: they are computed while the system writes.
Any reader of safetensors reads the file, see https://github.com/safetensors/safetensors.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

VERSION = 1
DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_BEGIN = b'{"__metadata__":{"functorch_lab":"'
_HEAD = re.compile(
    re.escape(_BEGIN) + rb'1","header":"([0-9a-f]{8})","tensors":"([0-9a-f]*)"'
)
_GROUP = 2**28  # bytes
_PARTS = 1024  # at most, in a call of the system
_CHUNK = 2**20  # bytes that are still in the cache when they are summed


class Refused(Exception):
    """Why a file is not read: what it is, and the remedy."""


class Spec(NamedTuple):
    """Where a tensor is in a file, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int
    checksum: str


class Header(NamedTuple):
    """What a file says of itself."""

    specs: dict[str, Spec]
    metadata: dict[str, str]
    size: int  # of the whole file, in bytes


def write(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes the tensors and makes sure that they are on the disk.

    Raises:
        RuntimeError: one of them was changed meanwhile.
    """
    before = _versions(tensors)
    # Wide dtypes first: each tensor is aligned to its own width.
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    described, start = {}, 0
    for name in names:
        leaf = tensors[name]
        stop = start + leaf.numel() * leaf.dtype.itemsize
        code, shape = _CODES[leaf.dtype], list(leaf.shape)
        described[name] = {"dtype": code, "shape": shape, "data_offsets": [start, stop]}
        start = stop
    file.write(_header(described, metadata, ["0" * 8] * len(names)))
    file.flush()
    # zlib frees the interpreter, and so does the system while it writes: a thread sums
    # what is being written.
    sums: list[Future[list[str]]] = []
    with ThreadPoolExecutor(1) as pool:
        for group in _groups([tensors[name] for name in names]):
            parts = [_memory(_plain(leaf)) for leaf in group]
            sums.append(pool.submit(_checksums, parts))
            _write_all(file, parts)
    checksums = [checksum for part in sums for checksum in part.result()]
    after = _versions(tensors)
    changed = [name for name in names if before[name] != after[name]]
    if changed:
        raise RuntimeError(
            "train.save: tree: expected tensors that stay as they are while they are "
            f"written, got {changed[0]}, which was changed meanwhile. Save a copy: "
            "tree.copy."
        )
    file.seek(0)
    file.write(_header(described, metadata, checksums))


def _versions(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How often each was changed in place, which inference tensors don't count."""
    return {
        name: 0 if leaf.is_inference() else leaf._version
        for name, leaf in tensors.items()
    }


def _groups(leaves: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Leaves that are copied to the CPU together, where they come from elsewhere."""
    group, held = [], 0
    for leaf in leaves:
        group.append(leaf)
        held += leaf.nbytes
        if held > _GROUP:
            yield group
            group, held = [], 0
    yield group


def _write_all(file: BinaryIO, parts: list[memoryview]) -> None:
    """Writes the parts in few calls: in each, the thread beside is undisturbed."""
    if not hasattr(os, "writev"):  # Windows
        file.writelines(parts)
        return
    rest = deque(part for part in parts if len(part))
    while rest:
        done = os.writev(file.fileno(), list(islice(rest, _PARTS)))
        while rest and done >= len(rest[0]):
            done -= len(rest.popleft())
        if done:
            rest[0] = rest[0][done:]


def _checksums(parts: Iterable[memoryview]) -> list[str]:
    return [f"{zlib.crc32(part):08x}" for part in parts]


def _header(
    described: Mapping[str, Any], metadata: Mapping[str, str], checksums: Iterable[str]
) -> bytes:
    own = {"functorch_lab": str(VERSION), "header": "0" * 8}
    own["tensors"] = "".join(checksums)
    whole = {"__metadata__": own | dict(metadata), **described}
    text = json.dumps(whole, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors
    whole_header = len(text).to_bytes(8, "little") + text
    return _with_checksum(whole_header, f"{zlib.crc32(whole_header):08x}".encode())


def _with_checksum(header: bytes, digits: bytes) -> bytes:
    found = _HEAD.match(header, 8)
    assert found is not None
    return header[: found.start(1)] + digits + header[found.end(1) :]


def read_header(file: BinaryIO) -> Header:
    """The header of a file, checked against its checksum.

    Raises:
        Refused: it is not one that `write` wrote, or not all of it.
    """
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    length = int.from_bytes(first, "little")
    begin = file.read(min(length, len(_BEGIN)))
    if len(first) < 8 or begin != _BEGIN:
        raise Refused(_foreign(file, size, length, begin))
    header = first + begin + file.read(max(min(length, size) - len(begin), 0))
    version = re.match(rb'\d+(?=")', header[8 + len(begin) :])
    if version and version[0] != b"%d" % VERSION:
        raise Refused(
            f"a file of format {version[0].decode()}, where this version of "
            f"functorch_lab reads format {VERSION}. Read it with the one that wrote it"
        )
    found = _HEAD.match(header, 8)
    if len(header) < 8 + length:
        raise Refused(f"a truncated file: its {size} bytes end within its header")
    zeros = _with_checksum(header, b"0" * 8) if found else b""
    if found is None or found[1] != f"{zlib.crc32(zeros):08x}".encode():
        raise Refused("a corrupted file: its header does not match its checksum")
    described = json.loads(header[8:])
    metadata = described.pop("__metadata__")
    sums = metadata["tensors"]
    specs, end = {}, 8 + length
    for i, (name, spec) in enumerate(described.items()):
        start, stop = (8 + length + offset for offset in spec["data_offsets"])
        checksum = sums[8 * i : 8 * i + 8]
        dtype, shape = DTYPES[spec["dtype"]], tuple(spec["shape"])
        specs[name] = Spec(dtype, shape, start, stop, checksum)
        end = stop
    return Header(specs, metadata, end)


def _foreign(file: BinaryIO, size: int, length: int, begin: bytes) -> str:
    if size == 0:
        return "an empty file"
    if begin and _BEGIN.startswith(begin):
        return f"a truncated file: its {size} bytes end within its header"
    file.seek(8)
    try:
        described = json.loads(file.read(length)) if length < size else None
    except (ValueError, RecursionError):
        described = None
    if isinstance(described, dict):
        return (
            "a safetensors file of other origin. Read it with "
            "safetensors.torch.load_file, and make a tree of it with "
            "tree.from_state_dict"
        )
    return "a file of another kind, or one whose first bytes are corrupted"


def read(file: BinaryIO, spec: Spec, lock: Lock) -> Tensor | None:
    """A tensor in memory of its own; None if it does not match its checksum.

    Several threads may read from one file: they take turns in reading, by the lock, and
    sum what they read at the same time.
    """
    result = torch.empty(spec.shape, dtype=spec.dtype, device="cpu")
    memory, checksum = _memory(result), 0
    for start in range(0, len(memory), _CHUNK):
        part = memory[start : start + _CHUNK]
        with lock:
            file.seek(spec.start + start)
            file.readinto(part)  # type: ignore[attr-defined]
        checksum = zlib.crc32(part, checksum)
    return result if f"{checksum:08x}" == spec.checksum else None


def _plain(leaf: Tensor) -> Tensor:
    """The values of a tensor as bytes in memory, in the order of its axes."""
    return leaf.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _memory(leaf: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, shared with it, which they keep alive."""
    count = leaf.numel() * leaf.dtype.itemsize
    if count == 0:
        return memoryview(b"")
    array = (ctypes.c_ubyte * count).from_address(leaf.data_ptr())
    array.tensor = leaf  # type: ignore[attr-defined]
    return memoryview(array).cast("B")
