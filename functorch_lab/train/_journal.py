# SPDX-License-Identifier: Apache-2.0
"""The log of a run, metrics.jsonl: one line per step and per epoch, only appended."""

import json
import math
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from functorch_lab.train._files import finite
from functorch_lab.train._logs import Row


class Journal:
    """An open log, of which the first `length` bytes are kept.

    What comes after them was written by a process that had no time to write the
    checkpoint that belongs to it: those steps are taken, and logged, again.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._file: BinaryIO = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
        self._checksum = zlib.crc32(self._file.read(length))
        self._file.truncate(length)
        self._file.seek(length)

    def write(self, row: Row) -> None:
        """Append a line with the row's numbers; `flush` shows it to readers."""
        numbers = {name: value for name, value in row.items() if is_number(value)}
        data = f"{json.dumps(finite(numbers))}\n".encode()
        self._checksum = zlib.crc32(data, self._checksum)
        self._file.write(data)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def sync(self) -> tuple[int, int]:
        """Bring it to the disk; its length in bytes and its checksum then."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell(), self._checksum

    def close(self) -> None:
        """Close the file; what a full disk has refused before is given up."""
        with suppress(OSError):
            self._file.close()


def read_journal(path: Path, length: int | None = None) -> tuple[list[Row], int]:
    """The rows in the first `length` bytes, whole lines only, and their checksum.

    Raises:
        ValueError: If a line is not JSON.
    """
    data = path.read_bytes()[:length] if path.exists() else b""
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [_numbers(json.loads(line)) for line in lines], zlib.crc32(data)


def split_rows(rows: list[Row]) -> tuple[dict[str, list[Any]], list[Row]]:
    """Columns of the steps' rows, "step" among them, and the epochs' rows."""
    # By their first entry: a step may log a number of that name too.
    epochs = [row for row in rows if next(iter(row)) == "epoch"]
    steps = [row for row in rows if next(iter(row)) != "epoch"]
    names = steps[0] if steps else {}
    return {name: [row.get(name, math.nan) for row in steps] for name in names}, epochs


def is_number(value: object) -> bool:
    """Whether it stands in the log."""
    return isinstance(value, int | float)


def _numbers(row: dict[str, Any]) -> Row:
    return {k: float(v) if isinstance(v, str) else v for k, v in row.items()}
