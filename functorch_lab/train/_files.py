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
    raises, the temporary file is removed and the old one stays. Of several who write
    `path` at once, each writes all of it, one after the other. Errors of the system
    pass through, for the caller to word. A link is followed, not replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.part")
    with _alone(temporary) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "posix":  # elsewhere an open file keeps its name
                file.close()
            temporary.replace(target)
        except BaseException:
            # The first error is the one to tell.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """An empty file, to write and to read, that nobody else writes: others wait.

    Where there are no locks (Windows, some network file systems) they don't.
    """

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT, 0o666)

    while True:
        with open(path, "r+b", opener=create) as file:
            with contextlib.suppress(ModuleNotFoundError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            if not _has_name(file, path):  # it has got its own, or was removed
                continue
            file.truncate()
            yield file
            return


def _has_name(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


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
        OSError: the block raised one, or what has that name is no file: a folder, a
            device, a pipe.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"{where}: path: expected a path, got a {type(path).__name__}. Pass the "
            "name of a file."
        )
    try:
        if "\0" in os.fspath(path):
            raise OSError(errno.EINVAL, "a zero byte is in its name")
        if Path(path).is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        if Path(path).exists() and not Path(path).is_file():
            raise OSError(errno.EINVAL, "it is no file, but a device or a pipe")
        yield
    except OSError as error:
        folder = Path(path).parent
        if folder.is_dir() or error.errno == errno.EINVAL:
            got, remedy = error.strerror or str(error), "Pass another path"
        elif folder.exists():
            got, remedy = f"{folder} is no folder", "Pass another path"
        else:
            got, remedy = "there is no such folder", f"Make {folder} first"
        raise OSError(
            f"{where}: path: expected {expected}, got {os.fspath(path)}: {got}. "
            f"{remedy}."
        ) from error
