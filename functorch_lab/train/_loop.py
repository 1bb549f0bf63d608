# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from functorch_lab import random, tree
from functorch_lab.data import from_dataloader
from functorch_lab.train._early_stopping import EarlyStopping
from functorch_lab.train._interrupt import Interrupted, Stop, stop_signals
from functorch_lab.train._logs import History, Logs, Row
from functorch_lab.train._progress import progress_line
from functorch_lab.train._run import Run, as_run
from functorch_lab.train._session import Session
from functorch_lab.train._state import TrainState, check_state
from functorch_lab.types import Key

_WHERE = "train.fit"
# Keys of epochs must not meet the keys of steps, fold_in(key, step): they start from
# a number that no run counts up to ("epoc" in ASCII).
_EPOCHS = 0x65706F63

Data = Callable[[Key], Iterable[Any]] | Iterable[Any]


def fit(  # noqa: PLR0913, each option is one thing that a loop does
    step: Callable[..., tuple[TrainState, dict[str, Any]]],
    state: TrainState,
    data: Data,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    evaluate: Callable[[TrainState], dict[str, Any]] | None = None,
    callbacks: Sequence[Callable[[TrainState, Row], Any]] = (),
    early_stopping: EarlyStopping | None = None,
    run_dir: Run | str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Train for some more epochs or steps, or, with a run, up to so many in all.

    The state alone decides how training goes on: the order of an epoch comes from a
    key made of `state.key` and the step at which the epoch starts. Where the data
    know their length, as `data.batches` do, a state in the middle of an epoch goes on
    there, and two calls end in the same bits as one.

    With `run_dir`, logs and checkpoints go to a folder, and a run that was stopped, in
    whatever way, can be resumed: `open_run(path, resume=True)`, and the same call. It
    ends in the same bits as one that was not stopped: state, history and log, but for
    the seconds. Data that come in an order of their own (neither from the key nor
    always the same), and callbacks with a memory, are what it can't bring back.

    Args:
        step: `step(state, *batch) -> (state, logs)` with logs["loss"] of shape (), as
            `make_step` makes it. logs["samples"], if there is one, weighs the loss in
            the epoch's mean.
        state: Where to start; a donating step uses it up.
        data: Gives the batches of an epoch from its key, such as
            `lambda key: data.batches(key, (x, y), 128)`, or an iterable that can be
            gone through once per epoch. A `DataLoader` stands for
            `data.from_dataloader(loader, device=...)` with the state's device: its
            order comes from the key, and a smaller last batch is left out. A batch is
            the tuple or list of arguments after the state; anything else, such as a
            dict, is one argument.
        epochs: How many epochs to train; the first may be the rest of one.
        steps: How many steps to train. Give one of both. A resumed run counts from its
            beginning.
        evaluate: `evaluate(state)` is called after each epoch; its entries join the
            epoch's row.
        callbacks: Each is called as `callback(state, row)` after each epoch; a true
            answer ends training. The state is only valid until the next step if that
            donates it.
        early_stopping: Which entry of the row to watch, when to stop, and whether to
            end with the best epoch's state.
        run_dir: The folder of a new run, or what `open_run` gave. Ctrl-C and SIGTERM
            then stop after the step, and save.
        progress: Show a progress line on standard error.

    Returns:
        The last state, or the best, and the history.

    Raises:
        TypeError: If an argument is of another kind, `evaluate` returns no dict, or the
            batches of an epoch can't be iterated.
        ValueError: If not exactly one of `epochs` and `steps` is given, it is less
            than 1, an epoch has no batches, `evaluate` gives what the row has already,
            or `early_stopping` watches what is not there; if the run's folder is in
            use, its checkpoints are all damaged, or hold another state than this one
            (the first difference is named).
        FloatingPointError: If a loss or logs["grad_norm"] is not finite, with the first
            such step.
        OSError: If the run's folder can't be written to; its checkpoints stay.
        Interrupted: After Ctrl-C or SIGTERM, when the run is saved.

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
    _check_kinds(state, early_stopping, callbacks)
    run = as_run(run_dir)
    if isinstance(data, DataLoader):
        data = from_dataloader(data, device=state.step.device)
    unit = "epoch" if steps is None else "step"
    keeps_best = run is not None or (early_stopping and early_stopping.restore_best)
    with Session(run, state) as session, stop_signals(run is not None) as stop:
        state, rows, at = session.state, session.rows, session.position
        end = at.start + limit if steps is not None else None
        logs = Logs(at.start, session.columns, session.write)
        began = time.perf_counter() - at.seconds

        def reached() -> bool:
            return len(rows) >= limit if end is None else at.taken >= end

        def pause() -> None:
            logs.check()
            at.seconds = time.perf_counter() - began
            session.save(state)
            if stop.asked and not at.finished:
                raise Interrupted(
                    f"{_WHERE}: stopped after step {at.taken}, and saved. Go on with "
                    f"open_run({str(run.folder) if run else None!r}, resume=True)."
                )

        with progress_line(unit if progress else None, end or limit) as show:
            # An epoch whose last step was taken, but which has no row yet, is open.
            while at.taken > at.first or not (at.stopped or reached()):
                batches, at.origin = _rest_of_epoch(
                    data, state.key, at.taken, at.origin
                )
                if end is not None:
                    batches = islice(batches, end - at.taken)
                for batch in _until_stopped(batches, stop):
                    arguments = batch if isinstance(batch, (tuple, list)) else (batch,)
                    state, step_logs = step(state, *arguments)
                    at.taken += 1
                    logs.add(step_logs)
                    if stop.asked or session.due(epoch_ends=False):
                        pause()
                if stop.asked:
                    pause()
                if at.taken == at.first:
                    raise ValueError(
                        f"{_WHERE}: data: expected at least one batch per epoch, got "
                        f"none after step {at.taken}. Check the data's length against "
                        "the batch size, and that the data can be iterated again."
                    )
                row = {
                    "epoch": len(rows) + 1,
                    "step": at.taken,
                    "loss": logs.mean_since(at.first),
                    **({"lr": lr} if (lr := logs.last("lr")) is not None else {}),
                    **(_evaluated(evaluate(state)) if evaluate else {}),
                    "seconds": time.perf_counter() - began,
                }
                rows.append(row)
                session.write([row])
                show(row)
                # Every callback is called, also after one has asked to stop.
                answers = [callback(state, row) for callback in callbacks]
                if early_stopping:
                    answers.append(early_stopping.stops(rows))
                    if early_stopping.best(rows) == len(rows) - 1 and keeps_best:
                        session.best, at.best = tree.copy(state), at.taken
                at.first, at.origin, at.stopped = at.taken, None, any(answers)
                at.finished = at.stopped or reached()
                if at.finished or stop.asked or session.due(epoch_ends=True):
                    pause()
        if early_stopping and early_stopping.restore_best and session.best is not None:
            state = session.best
    return state, History(logs.columns(), rows)


def _until_stopped(batches: Iterator[Any], stop: Stop) -> Iterator[Any]:
    # The processes of a loader may end of the same Ctrl-C, which then can't go on.
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception:
            if stop.asked:
                return
            raise
        yield batch


def _evaluated(values: dict[str, Any]) -> Row:
    if not isinstance(values, dict):
        raise TypeError(
            f"{_WHERE}: evaluate: expected a dict to be returned, got a "
            f"{type(values).__name__}. Return numbers by name, as make_evaluate does."
        )
    taken = [
        name for name in ("epoch", "step", "loss", "lr", "seconds") if name in values
    ]
    if taken:
        raise ValueError(
            f"{_WHERE}: evaluate: expected names that the row has not yet, got "
            f"{', '.join(taken)}. Rename it, e.g. to val_{taken[0]}."
        )
    return {
        name: v.item() if isinstance(v, Tensor) and v.ndim == 0 else v
        for name, v in values.items()
    }


def _rest_of_epoch(
    data: Data, key: Tensor, taken: int, origin: int | None
) -> tuple[Iterator[Any], int]:
    """The batches that are left of an epoch, and the step at which its order starts.

    Args:
        data: What `fit` was given.
        key: The run's.
        taken: Steps taken so far.
        origin: Where the epoch's order starts; found from the data's length if None.
    """

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

    batches = passed(taken if origin is None else origin)
    if origin is None:
        length = len(batches) if isinstance(batches, Sized) else 0
        origin = taken - (taken % length if length else 0)
        if origin < taken:
            batches = passed(origin)
    return islice(iter(batches), taken - origin, None), origin


def _check_kinds(
    state: object, early_stopping: object, callbacks: Sequence[object]
) -> None:
    check_state(_WHERE, state)
    if not isinstance(early_stopping, EarlyStopping | None):
        raise TypeError(
            f"{_WHERE}: early_stopping: expected an EarlyStopping, got "
            f"{early_stopping!r}. Give e.g. EarlyStopping('loss', patience=5)."
        )
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(
                f"{_WHERE}: callbacks: expected functions of a state and a row, got "
                f"{callback!r}. Give them in a list."
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
