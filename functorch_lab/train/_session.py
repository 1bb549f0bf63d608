# SPDX-License-Identifier: Apache-2.0
"""What one call of `fit` keeps in its run's folder, and finds there."""

import logging
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from functorch_lab.train import _checkpoints as checkpoints
from functorch_lab.train._checkpoints import Position
from functorch_lab.train._config import CONFIG
from functorch_lab.train._events import Events
from functorch_lab.train._journal import Journal, read_journal, split_rows
from functorch_lab.train._lock import locked
from functorch_lab.train._logs import Row
from functorch_lab.train._run import METRICS, Run, told
from functorch_lab.train._save import restore
from functorch_lab.train._state import TrainState

_WHERE = "train.fit"
# Checkpoints at the ends of epochs may take so much of the time.
_SHARE = 1 / 50
_FIRST = 0.02  # seconds that one is thought to take, before any was written
_log = logging.getLogger("functorch_lab.train")


class Session:
    """The state, position and history that training starts from, and where they go.

    Without a run nothing is written or found.

    Attributes:
        state: The training state to go on from.
        best: The best state so far, or None.
        position: Where the run is.
        columns: What the steps have logged, by name.
        rows: The epochs' rows.
    """

    def __init__(self, run: Run | None, state: TrainState) -> None:
        taken = int(state.step)
        self.state, self.best = state, None
        self.position = Position(start=taken, taken=taken, first=taken)
        self.columns: dict[str, list[Any]] = {}
        self.rows: list[Row] = []
        self._run = run
        self._written, self._cost = time.perf_counter(), _FIRST
        self._closing = ExitStack()

    def __enter__(self) -> "Session":
        if self._run is not None:
            with self._closing:
                self._open(self._run)
                self._closing = self._closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def write(self, rows: list[Row]) -> None:
        """Log rows."""
        if self._run is None:
            return
        with self._told():
            for row in rows:
                self._journal.write(row)
                self._events.write(row)
            self._journal.flush()

    def due(self, *, epoch_ends: bool) -> bool:
        """Whether a checkpoint is to be written now."""
        if self._run is None:
            return False
        every = self._run.checkpoint_every
        if every and (self.position.taken - self.position.start) % every == 0:
            return True
        passed = time.perf_counter() - self._written
        return epoch_ends and self._cost <= passed * _SHARE

    def save(self, state: TrainState) -> None:
        """Write a checkpoint: the state, and what makes the rest of the run."""
        if self._run is None:
            return
        began = time.perf_counter()
        with self._told():
            position = self.position
            position.log_bytes, position.log_checksum = self._journal.sync()
            self._events.flush()
            checkpoints.write(
                *(self._run.folder, state, self.best, position), keep=self._run.keep
            )
        self._written = time.perf_counter()
        self._cost = self._written - began

    def _open(self, run: Run) -> None:
        folder = run.folder
        with self._told():
            self._closing.enter_context(locked(folder / CONFIG, _WHERE))
        found = checkpoints.newest(folder, _WHERE)
        if found and not run.resume:
            raise ValueError(
                f"{_WHERE}: run_dir: expected a run without checkpoints, got {folder}, "
                f"which has one of step {found[0].taken}. Open it by "
                "open_run(path, resume=True), or give each call a folder of its own."
            )
        if found:
            self._restore(folder, *found)
        elif run.resume:
            _log.warning(
                "%s: %s has no checkpoint yet; from the beginning", _WHERE, folder
            )
        with self._told():
            taken = self.position.taken
            checkpoints.forget_after(folder, taken, _WHERE, keep=run.keep)
            self._journal = Journal(folder / METRICS, self.position.log_bytes)
            self._closing.callback(self._journal.close)
            self._events = Events(folder, taken)
            self._closing.callback(self._events.close)

    def _restore(self, folder: Path, position: Position, path: Path) -> None:
        rows, checksum = read_journal(folder / METRICS, position.log_bytes)
        if checksum != position.log_checksum:
            raise ValueError(
                f"{_WHERE}: run_dir: expected {folder / METRICS} to begin as it was "
                f"written up to step {position.taken}, got another file. Put the log "
                "back, or start a new run in another folder."
            )
        self.columns, self.rows = split_rows(rows)
        self.columns.pop("step", None)
        if position.best is not None:
            best = checkpoints.best_path(folder, position.best)
            self.best = restore(best, like=self.state)
        self.state = restore(path, like=self.state)
        # There may be more to do now than there was then.
        self.position = replace(position, finished=False)

    def _told(self) -> AbstractContextManager[None]:
        assert self._run is not None
        remedy = "Make room, and go on with open_run(path, resume=True) (--resume)."
        return told(f"{_WHERE}: run_dir", self._run.folder, remedy)
