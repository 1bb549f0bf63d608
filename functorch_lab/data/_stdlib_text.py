# SPDX-License-Identifier: Apache-2.0
"""Text that every Python has: the source of its standard library."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from functorch_lab.data._checks import check_count
from functorch_lab.data._devices import present_device

# Tests, programs, generated tables and documents, and what an installation adds.
_FOLDERS = {
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
    *("encodings", "pydoc_data", "__pycache__", "site-packages", "dist-packages"),
}
_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize")


def stdlib_text(nbytes: int, *, device: torch.device | str | None = None) -> Tensor:
    """The first bytes of the source of Python's standard library, as one text.

    The `.py` files follow one another, ordered by their path. Left out are tests,
    programs (IDLE, turtledemo, ensurepip, 2to3), tables and documents that are
    generated (`encodings`, `pydoc_data`), and what an installation adds. Line ends are
    single bytes 10. The text is the same in every call, and in all installations of
    the same version of Python that have its library unchanged.

    Args:
        nbytes: How many bytes, 1 or more; Python 3.11 has 8.7 million.
        device: Where the tensor is put; `torch.get_default_device()` if None.

    Returns:
        Bytes 0 to 255 of UTF-8, int64 as `embedding` takes them, shape (nbytes,).

    Raises:
        OSError: If a file of the library can't be read.
        TypeError: If `nbytes` is not an int.
        ValueError: If `nbytes` is below 1 or more than there are, or there is no such
            device.

    Example:
        >>> from functorch_lab import data
        >>> text = data.stdlib_text(29)
        >>> bytes(text.tolist())
        b'\"\"\"Record of phased-in incomp'
    """
    where = "data.stdlib_text"
    check_count(nbytes, where=where, argument="nbytes")
    if device is None:
        device = torch.get_default_device()
    else:
        device = present_device(device, where=where)
    text = bytearray()
    for file in _files(Path(sysconfig.get_path("stdlib"))):
        if len(text) >= nbytes:
            break
        text += file.read_bytes().replace(b"\r\n", b"\n")
    if len(text) < nbytes:
        raise ValueError(
            f"{where}: nbytes: expected at most {len(text)}, all that the standard "
            f"library of this Python has, got {nbytes}. Ask for fewer."
        )
    with torch.device("cpu"):
        found = torch.frombuffer(text, dtype=torch.uint8)[:nbytes]
    return found.to(torch.int64).to(device)


def _files(library: Path) -> Iterator[Path]:
    paths = {}
    for folder, inner, names in os.walk(library):
        inner[:] = [name for name in inner if name not in _FOLDERS]
        for name in names:
            if name.endswith(".py") and not name.startswith(_FILES):
                path = Path(folder, name)
                paths[path.relative_to(library).as_posix()] = path
    return (paths[name] for name in sorted(paths))
