# SPDX-License-Identifier: Apache-2.0
"""One process at a time works on a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, where: str) -> Iterator[None]:
    """Hold a lock on a file, which the system takes back when the process ends.

    Where there are no such locks (Windows), nothing is held.

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
        yield
