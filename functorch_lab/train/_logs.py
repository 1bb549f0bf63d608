# SPDX-License-Identifier: Apache-2.0
"""The logs of single steps: left on the device, and looked at in chunks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree

_WHERE = "train.fit"
# How many steps' logs stay on the device until they are looked at: waiting for each
# would leave the device idle between steps.
_CHECK_EVERY = 100

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class History:
    """What happened in a call of `fit`; in a resumed run, since its beginning.

    Attributes:
        logs: The 0-d entries of the step's logs, by dotted name ("aux.accuracy"), each
            of shape (steps,) on the CPU: float64, or int64.
        epochs: A dict per epoch: "epoch" (from 1), "step" (at the epoch's end, as the
            state counts), "loss" (mean over the epoch's samples), "lr" (of its last
            step) if the steps log it, what `evaluate` gave, with 0-d tensors as
            numbers, and "seconds" of training so far.
    """

    logs: dict[str, Tensor]
    epochs: list[Row]


class Logs:
    """The steps' logs as columns of numbers, from the step after `first` on.

    Args:
        first: Steps taken before.
        columns: What an earlier part of the run has logged.
        write: Gets the rows of each chunk.
    """

    def __init__(
        self,
        first: int,
        columns: dict[str, list[Any]],
        write: Callable[[list[Row]], None],
    ) -> None:
        self._first = first
        self._columns = columns
        self._write = write
        self._unseen: list[list[Tensor]] = []
        self._names: list[str] = []

    def add(self, logs: dict[str, Any]) -> None:
        """Keep the 0-d tensors among a step's logs."""
        loss: Any = logs.get("loss") if isinstance(logs, dict) else None
        if not isinstance(loss, Tensor) or loss.ndim:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
            raise TypeError(
                f'{_WHERE}: step: expected a tensor of shape () in logs["loss"], got '
                f"{got}. Return (state, logs) as the steps of make_step do."
            )
        # A step's logs are mostly a flat dict, for which no tree need be walked.
        flat = logs
        if not all(isinstance(leaf, Tensor) for leaf in logs.values()):
            flat = tree.to_state_dict(logs)
        # "step" is the name of the row's own number.
        scalars = {n: leaf for n, leaf in flat.items() if not leaf.ndim and n != "step"}
        names = list(scalars)
        if names != self._names:
            self.check()
            self._require_same(names)
            self._names = names
        self._unseen.append(list(scalars.values()))
        if len(self._unseen) >= _CHECK_EVERY:
            self.check()

    def mean_since(self, step: int) -> float:
        """The loss per sample of the steps after `step`."""
        self.check()
        start = step - self._first
        losses = self._columns["loss"][start:]
        counts = self._columns.get("samples", [1] * len(self._columns["loss"]))[start:]
        total = math.fsum(loss * n for loss, n in zip(losses, counts, strict=True))
        return total / max(math.fsum(counts), 1)

    def last(self, name: str) -> float | None:
        """The newest number of that name."""
        column = self._columns.get(name)
        return column[-1] if column else None

    def columns(self) -> dict[str, Tensor]:
        """All numbers, as tensors."""
        self.check()
        return {name: _as_tensor(column) for name, column in self._columns.items()}

    def check(self) -> None:
        """Wait for what is new, write it, and refuse what is not finite."""
        if not self._unseen:
            return
        chunk, self._unseen = self._unseen, []
        seen = len(self._columns.get("loss", ()))
        for name, leaves in zip(self._names, zip(*chunk, strict=True), strict=True):
            column = self._columns.setdefault(name, [])
            column += torch.stack(leaves).tolist()
        self._write([self._row(i) for i in range(seen, seen + len(chunk))])
        for i in range(seen, seen + len(chunk)):
            for name, what in (("loss", "loss"), ("grad_norm", "gradient norm")):
                value = self._columns[name][i] if name in self._columns else 0.0
                if not math.isfinite(value):
                    raise FloatingPointError(self._message(i, what, value))

    def _row(self, i: int) -> Row:
        step = {"step": self._first + i + 1}
        return step | {n: self._columns[n][i] for n in self._names} | step

    def _require_same(self, names: list[str]) -> None:
        if self._columns and set(names) != set(self._columns):
            raise ValueError(
                f"{_WHERE}: step: expected the same entries in the logs of every step "
                f"({', '.join(self._columns)}), got {', '.join(names)}. Log a number "
                "in each step, such as nan where there is none."
            )

    def _message(self, i: int, what: str, value: float) -> str:
        step = self._first + i + 1
        got = f"{_WHERE}: {what}: expected finite values, got {value}"
        if not i:  # no update has been made that could be too large
            return (
                f"{got} at step {step}; there was no finite {what} before. Check the "
                "data (data.check_classification) and the initial parameters, or find "
                "the cause with debug.nans."
            )
        last = i - 1 if what == "loss" else i
        return (
            f"{got} at step {step}; the last finite loss was "
            f"{self._columns['loss'][last]:.6g} at step {self._first + last + 1}. "
            "Lower lr, clip gradients (optim.clip_by_global_norm), or find the cause "
            "with debug.nans."
        )


def _as_tensor(column: list[Any]) -> Tensor:
    whole = all(isinstance(value, int) for value in column)
    return torch.tensor(column, dtype=torch.int64 if whole else torch.float64)
