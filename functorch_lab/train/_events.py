# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files, where that package is installed."""

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from functorch_lab.train._journal import is_number
from functorch_lab.train._logs import Row

FOLDER = "tensorboard"
# A number costs a tenth of a millisecond, and TensorBoard shows a thousand of a curve.
_ALL, _EVERY = 100, 10


class Events:
    """Numbers of steps as `step/NAME`, those of epochs as `epoch/NAME`.

    Of steps after the first hundred every tenth; the log has them all.

    Args:
        folder: The run's.
        taken: Steps taken: TensorBoard leaves out what it has of later ones.
    """

    def __init__(self, folder: Path, taken: int) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder / FOLDER, purge_step=taken + 1)

    def write(self, row: Row) -> None:
        """Add the row's numbers at its step."""
        if self._writer is None:
            return
        kind = next(iter(row))
        if kind == "step" and row["step"] > _ALL and row["step"] % _EVERY:
            return
        for name, value in row.items():
            if is_number(value) and name not in ("step", "epoch"):
                self._writer.add_scalar(f"{kind}/{name}", value, row["step"])

    def flush(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write what is left, if there is room, and close the file."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
