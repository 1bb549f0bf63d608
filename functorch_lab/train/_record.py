# SPDX-License-Identifier: Apache-2.0
"""What the folder of a run tells, during training and after it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from functorch_lab.train import _checkpoints as checkpoints
from functorch_lab.train._config import read_config
from functorch_lab.train._journal import read_journal, split_rows
from functorch_lab.train._logs import Row
from functorch_lab.train._run import METRICS, RESULT, as_folder
from functorch_lab.train._save import restore

_WHERE = "train.read_run"


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run as its folder has it.

    Attributes:
        folder: Where it is.
        config: What it was opened with.
        command: The words of the process that started it.
        started: When that was, in UTC, as ISO 8601.
        versions: Of functorch-lab, torch, Python and the platform.
        logs: What the steps logged, by dotted name, "step" among them.
        epochs: The epochs' rows, as in `History`.
        step: Steps taken at the newest checkpoint; 0 if there is none.
        finished: Whether training came to its end.
        best: The best epoch's row, where `fit` had `early_stopping`.
        result: Numbers that `Run.write_result` has written; empty if it hasn't yet.
        tensors: Its tensors.
    """

    folder: Path
    config: dict[str, Any]
    command: list[str]
    started: str
    versions: dict[str, str]
    logs: dict[str, list[float]]
    epochs: list[Row]
    step: int
    finished: bool
    best: Row | None
    result: dict[str, float]
    tensors: dict[str, Tensor]

    def params(self, which: Literal["best", "last"] = "best") -> Any:
        """The parameters of the best epoch, or of the newest checkpoint.

        Without `early_stopping` in `fit`, the best is the newest.

        Raises:
            ValueError: If `which` is neither "best" nor "last", there is no checkpoint,
                or it is damaged.
            OSError: If it can't be read.
        """
        where = "train.RunRecord.params"
        if which not in ("best", "last"):
            raise ValueError(
                f'{where}: which: expected "best" or "last", got {which!r}. Say which '
                "state is meant."
            )
        if not self.step:
            raise ValueError(
                f"{where}: expected a checkpoint in {self.folder}, got none. Train "
                "until one is written."
            )
        path = checkpoints.step_path(self.folder, self.step)
        if which == "best" and self.best:
            path = checkpoints.best_path(self.folder, self.best["step"])
        try:
            return restore(path, pattern="params*").params
        except OSError:
            if path.exists():
                raise
            # The run has gone on meanwhile, and removed it.
            return read_run(self.folder).params(which)


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Read the folder of a run, finished or not. Nothing in it is changed.

    Args:
        path: The folder that `open_run` made.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If there is no run in it, all its checkpoints are damaged, or its
            log can't be read.
        OSError: If a file can't be read.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from functorch_lab import optim, random, train
        >>> optimizer = optim.sgd(lr=0.25)
        >>> step = train.make_step(lambda w, x: ((w - x) ** 2).mean(), optimizer)
        >>> state = train.init(torch.tensor(0.0), optimizer, key=random.key(0))
        >>> run = train.open_run(tempfile.mkdtemp(), config={"lr": 0.25})
        >>> batches = [(torch.tensor([4.0]),)]
        >>> options = {"epochs": 3, "progress": False}
        >>> _ = train.fit(step, state, batches, run_dir=run, **options)
        >>> record = train.read_run(run.folder)
        >>> record.step, record.finished, record.logs["loss"], record.params()
        (3, True, [16.0, 4.0, 1.0], tensor(3.5000))
    """
    folder = as_folder(_WHERE, path)
    found = read_config(_WHERE, folder)
    newest = checkpoints.newest(folder, _WHERE)
    position = newest[0] if newest else None
    try:
        rows, _ = read_journal(folder / METRICS)
        logs, epochs = split_rows(rows)
        result = folder / f"{RESULT}.json"
        numbers = json.loads(result.read_text("utf-8")) if result.exists() else {}
        numbers = {name: float(value) for name, value in numbers.items()}
        best = position.best if position else None
        best = next((row for row in epochs if row["step"] == best), None)
    except (ValueError, AttributeError, TypeError, LookupError, StopIteration) as error:
        raise ValueError(
            f"{_WHERE}: path: expected the log and the result of a run in {folder}, "
            f"got others ({error}). Resume the run, which mends them."
        ) from error
    tensors = folder / f"{RESULT}.safetensors"
    return RunRecord(
        folder=folder,
        config=found["config"],
        command=found["command"],
        started=found["started"],
        versions=found["versions"],
        logs=logs,
        epochs=epochs,
        step=position.taken if position else 0,
        finished=bool(position and position.finished),
        best=best,
        result=numbers,
        tensors=restore(tensors) if tensors.exists() else {},
    )
