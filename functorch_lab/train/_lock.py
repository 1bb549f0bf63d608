# SPDX-License-Identifier: Apache-2.0
"""One process at a time works on a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: set[int] = set()


@contextmanager
def locked(path: Path, where: str) -> Iterator[None]:
    """Hold a lock on a file, which the system takes back when the process ends.

    Where there are no such locks (Windows, some network file systems), nothing is held.

    Raises:
        ValueError: If another process holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{where}: run_dir: expected a run that nobody else works on, got "
                f"{path.parent}, on which another process is training. Wait for it, or "
                "give another folder."
            ) from error
        except OSError:
            pass  # this file system has none
        _held.add(file.fileno())
        try:
            yield
        finally:
            _held.discard(file.fileno())


def _let_go() -> None:
    # A lock is free when its last owner is gone, and the workers of a loader live some
    # seconds longer than the process that was killed.
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
