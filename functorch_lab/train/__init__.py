# SPDX-License-Identifier: Apache-2.0
"""Training: state, compiled step, evaluation, loop, and the folder of a run."""

from functorch_lab.train._early_stopping import EarlyStopping
from functorch_lab.train._evaluate import make_evaluate
from functorch_lab.train._interrupt import Interrupted
from functorch_lab.train._logs import History
from functorch_lab.train._loop import fit
from functorch_lab.train._record import RunRecord, read_run
from functorch_lab.train._run import Run, open_run
from functorch_lab.train._save import restore, save
from functorch_lab.train._state import TrainState, init
from functorch_lab.train._step import make_step

__all__ = [
    "EarlyStopping",
    "History",
    "Interrupted",
    "Run",
    "RunRecord",
    "TrainState",
    "fit",
    "init",
    "make_evaluate",
    "make_step",
    "open_run",
    "read_run",
    "restore",
    "save",
]
