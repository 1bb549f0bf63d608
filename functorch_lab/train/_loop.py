# SPDX-License-Identifier: Apache-2.0
"""The plain training loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.train._progress import progress_line
from functorch_lab.train._state import TrainState
from functorch_lab.types import Key

_WHERE = "train.fit"
# Keys of epochs must not meet the keys of steps, fold_in(key, step): they start from
# a number that no run counts up to ("epoc" in ASCII).
_EPOCHS = 0x65706F63
# How many losses stay on the device until they are looked at: waiting for each would
# leave the device idle between steps.
_CHECK_EVERY = 100

Data = Callable[[Key], Iterable[Any]] | Iterable[Any]
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class History:
    """What happened in a call of `fit`.

    Attributes:
        logs: The 0-d entries of the step's logs, on the CPU, each stacked to shape
            (steps,).
        epochs: A dict per epoch: "epoch" (from 1, in this call), "step" (in the whole
            run, at the epoch's end), "loss" (mean over the epoch), "seconds" (since the
            call) and what `evaluate` gave.
    """

    logs: dict[str, Any]
    epochs: list[Row]


def fit(
    step: Callable[..., tuple[TrainState, dict[str, Any]]],
    state: TrainState,
    data: Data,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    evaluate: Callable[[TrainState], dict[str, Any]] | None = None,
    callbacks: Sequence[Callable[[TrainState, Row], Any]] = (),
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Train for some more epochs or steps.

    The state alone decides how training goes on: the order of an epoch comes from a
    key made of `state.key` and the step at which the epoch starts. Where the data
    know their length, as `data.batches` do, a state in the middle of an epoch goes on
    there, and two calls end in the same bits as one.

    Args:
        step: `step(state, *batch) -> (state, logs)` with logs["loss"] of shape (), as
            `make_step` makes it.
        state: Where to start; a donating step uses it up.
        data: Gives the batches of an epoch from its key, such as
            `lambda key: data.batches(key, (x, y), 128)`, or an iterable that can be
            gone through once per epoch, such as `data.from_dataloader(loader)`. A
            batch is the tuple or list of arguments after the state; anything else,
            such as a dict, is one argument.
        epochs: How many epochs to train; the first may be the rest of one.
        steps: How many steps to train. Give one of both.
        evaluate: `evaluate(state)` is called after each epoch; its entries join the
            epoch's row.
        callbacks: Each is called as `callback(state, row)` after each epoch; a true
            answer ends training. The state is only valid until the next step if that
            donates it.
        progress: Show a progress line on standard error.

    Returns:
        The last state and the history.

    Raises:
        TypeError: If `epochs` or `steps` is not an int, or the batches of an epoch
            can't be iterated.
        ValueError: If not exactly one of `epochs` and `steps` is given, it is less
            than 1, or an epoch has no batches.
        FloatingPointError: If a loss or logs["grad_norm"] is not finite, with the first
            such step.

    Example:
        >>> import torch
        >>> from functorch_lab import optim, random, train
        >>> optimizer = optim.sgd(lr=0.25)
        >>> step = train.make_step(lambda w, x: ((w - x) ** 2).mean(), optimizer)
        >>> state = train.init(torch.tensor(0.0), optimizer, key=random.key(0))
        >>> batches = [(torch.tensor([4.0]),)]
        >>> state, history = train.fit(step, state, batches, epochs=3, progress=False)
        >>> state.params.item(), history.logs["loss"].tolist()
        (3.5, [16.0, 4.0, 1.0])
    """
    limit = _check_length(epochs, steps)
    taken = int(state.step)
    start, began = taken, time.perf_counter()
    logs, rows = _Logs(taken), []
    unit = "epoch" if steps is None else "step"
    total = limit if steps is None else start + limit
    with progress_line(unit if progress else None, total) as show:
        stop = False
        while not stop:
            first = taken
            passed = _rest_of_epoch(data, state.key, taken)
            if steps is not None:
                passed = islice(passed, start + limit - taken)
            for batch in passed:
                arguments = batch if isinstance(batch, (tuple, list)) else (batch,)
                state, step_logs = step(state, *arguments)
                taken += 1
                logs.add(step_logs)
            if taken == first:
                raise ValueError(
                    f"{_WHERE}: data: expected at least one batch per epoch, got none "
                    f"after step {taken}. Check the data's length against the batch "
                    "size, and that the data can be iterated again."
                )
            row = {
                "epoch": len(rows) + 1,
                "step": taken,
                "loss": logs.mean_since(first),
                **(evaluate(state) if evaluate else {}),
                "seconds": time.perf_counter() - began,
            }
            rows.append(row)
            show(row)
            # Every callback is called, also after one has asked to stop.
            answers = [callback(state, row) for callback in callbacks]
            done = len(rows) if steps is None else taken - start
            stop = any(answers) or done >= limit
    return state, History(logs.stacked(), rows)


def _rest_of_epoch(data: Data, key: Tensor, taken: int) -> Iterator[Any]:
    """The batches that are left of the epoch in which the next step lies."""

    def passed(first_step: int) -> Iterable[Any]:
        found: Any = data
        if callable(data):
            found = data(random.fold_in(random.fold_in(key, _EPOCHS), first_step))
        # Tensors are iterable: over their samples, and that is no batch.
        if isinstance(found, Tensor) or not isinstance(found, Iterable):
            what = "returned by the function" if callable(data) else "or a function"
            raise TypeError(
                f"{_WHERE}: data: expected an iterable of batches {what} of a key, got "
                f"{type(found).__name__}. Give e.g. "
                "lambda key: data.batches(key, (x, y), 128)."
            )
        return found

    batches = passed(taken)
    length = len(batches) if isinstance(batches, Sized) else 0
    gone = taken % length if length else 0
    if gone:
        batches = passed(taken - gone)
    return islice(iter(batches), gone, None)


class _Logs:
    """Logs of single steps, looked at in chunks."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._unseen: list[dict[str, Any]] = []
        self._chunks: list[dict[str, Any]] = []
        self._losses: list[float] = []

    def add(self, logs: dict[str, Any]) -> None:
        loss: Any = logs.get("loss") if isinstance(logs, dict) else None
        if not isinstance(loss, Tensor) or loss.ndim:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
            raise TypeError(
                f'{_WHERE}: step: expected a tensor of shape () in logs["loss"], got '
                f"{got}. Return (state, logs) as the steps of make_step do."
            )
        self._unseen.append(tree.map(lambda leaf: leaf if leaf.ndim == 0 else (), logs))
        if len(self._unseen) >= _CHECK_EVERY:
            self._check()

    def mean_since(self, step: int) -> float:
        self._check()
        losses = self._losses[step - self._first :]
        return math.fsum(losses) / len(losses)

    def stacked(self) -> dict[str, Any]:
        return tree.map(lambda *chunks: torch.cat(chunks), *self._chunks)

    def _check(self) -> None:
        if not self._unseen:
            return
        chunk = tree.to(tree.stack(self._unseen), "cpu")
        self._unseen = []
        self._chunks.append(chunk)
        seen = len(self._losses)
        new = chunk["loss"].tolist()
        self._losses += new
        norms = chunk.get("grad_norm")
        norms = norms.tolist() if isinstance(norms, Tensor) else [0.0] * len(new)
        for i, (loss, norm) in enumerate(zip(new, norms, strict=True), start=seen):
            if not math.isfinite(loss):
                raise FloatingPointError(self._message(i, "loss", loss))
            if not math.isfinite(norm):
                raise FloatingPointError(self._message(i, "gradient norm", norm))

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
            f"{self._losses[last]:.6g} at step {self._first + last + 1}. Lower lr, "
            "clip gradients (optim.clip_by_global_norm), or find the cause with "
            "debug.nans."
        )


def _check_length(epochs: int | None, steps: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"{_WHERE}: epochs, steps: expected exactly one of them, got epochs = "
            f"{epochs} and steps = {steps}. Say how long to train."
        )
    name, limit = ("epochs", epochs) if epochs is not None else ("steps", steps)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(
            f"{_WHERE}: {name}: expected an int, got {limit!r}. Give a whole number."
        )
    if limit < 1:
        raise ValueError(
            f"{_WHERE}: {name}: expected at least 1, got {limit}. Train at least once."
        )
    return limit
