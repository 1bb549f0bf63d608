# SPDX-License-Identifier: Apache-2.0
"""When to stop, and which epoch was the best: pure functions of the epochs' rows."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

_WHERE = "train.EarlyStopping"


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a number of the epochs' rows no longer improves, for `fit`.

    Attributes:
        monitor: Name of an entry of the row, such as "loss" or what `evaluate` gives.
        patience: Stop after so many epochs in a row without improvement. None: never
            stop, only know the best.
        mode: Whether less or more is better.
        min_delta: A change by no more than this is no improvement.
        restore_best: Whether `fit` ends with the state as it was after the best epoch,
            optimizer and averages included, or with the last one.

    Raises:
        TypeError: If `patience` is neither an int nor None.
        ValueError: If `patience` < 1, `mode` is neither "min" nor "max", or `min_delta`
            is not finite and >= 0.

    Example:
        >>> from functorch_lab import train
        >>> stopping = train.EarlyStopping("accuracy", patience=2, mode="max")
        >>> rows = [{"accuracy": value} for value in (0.5, 0.7, 0.6, 0.7)]
        >>> stopping.best(rows), stopping.stops(rows[:3]), stopping.stops(rows)
        (1, False, True)
    """

    monitor: str
    patience: int | None = None
    _: KW_ONLY
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        patience = self.patience
        if isinstance(patience, bool) or not isinstance(patience, int | None):
            raise TypeError(
                f"{_WHERE}: patience: expected an int or None, got {patience!r}. Give "
                "a number of epochs."
            )
        if patience is not None and patience < 1:
            raise ValueError(
                f"{_WHERE}: patience: expected at least 1, got {patience}. Give a "
                "number of epochs, or None to train to the end."
            )
        if self.mode not in ("min", "max"):
            raise ValueError(
                f'{_WHERE}: mode: expected "min" or "max", got {self.mode!r}. Say '
                "whether less or more is better."
            )
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(
                f"{_WHERE}: min_delta: expected a finite number >= 0, got "
                f"{self.min_delta}. Give what counts as improvement."
            )

    def best(self, rows: Sequence[dict[str, Any]]) -> int | None:
        """Index of the best row; None while no value was a number.

        Raises:
            ValueError: If a row has no such entry, or it is no number.
        """
        found, least = None, math.inf
        for i, row in enumerate(rows):
            value = self._value(row) * (1 if self.mode == "min" else -1)
            # The first number counts, whatever it is; NaN is never better.
            first = found is None and not math.isnan(value)
            if first or value < least - self.min_delta:
                found, least = i, value
        return found

    def stops(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Whether training ends after the last of these rows.

        Raises:
            ValueError: If a row has no such entry, or it is no number.
        """
        best = self.best(rows)
        waited = len(rows) - 1 - (-1 if best is None else best)
        return self.patience is not None and waited >= self.patience

    def _value(self, row: dict[str, Any]) -> float:
        value = row.get(self.monitor)
        if isinstance(value, int | float):
            return float(value)
        names = [name for name, v in row.items() if isinstance(v, int | float)]
        raise ValueError(
            f"{_WHERE}: monitor: expected one of the row's numbers "
            f"({', '.join(names)}), got {self.monitor!r}. Let evaluate return it."
        )
