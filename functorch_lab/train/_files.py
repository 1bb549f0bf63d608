# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends well.

    Until then it is `.NAME.part` in the same folder. At the end of the block it is on
    the disk before it gets its name, and its name is on the disk before this returns:
    whoever is killed, or loses power, finds the old file or the new one. When the block
    raises, the temporary file is removed and the old one stays. Errors of the system
    pass through, for the caller to word. A link is followed, not replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.part")
    try:
        # Readable again: who writes may want to check what it wrote.
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        # The first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """A value as JSON, indented, in a file that is there whole or not at all.

    JSON has no numbers for what is not finite: such floats are written as the strings
    "nan", "inf" and "-inf", which `float` reads.
    """
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    with written(path) as file:
        file.write(text.encode())


def finite(value: Any) -> Any:
    """The value with a string for each float in it that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told(where: str, path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Words for what the system says of the file at `path`.

    Raises:
        TypeError: `path` is no path.
        OSError: the block raised one, or there is a folder of that name.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"{where}: path: expected a path, got a {type(path).__name__}. Pass the "
            "name of a file."
        )
    try:
        if Path(path).is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        yield
    except OSError as error:
        folder = Path(path).parent
        if folder.is_dir():
            got, remedy = error.strerror or str(error), "Pass another path"
        else:
            got, remedy = "there is no such folder", f"Make {folder} first"
        raise OSError(
            f"{where}: path: expected {expected}, got {os.fspath(path)}: {got}. "
            f"{remedy}."
        ) from error
