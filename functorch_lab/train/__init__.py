# SPDX-License-Identifier: Apache-2.0
"""Training: the state, the compiled step, evaluation, and a plain loop."""

from functorch_lab.train._evaluate import make_evaluate
from functorch_lab.train._loop import History, fit
from functorch_lab.train._state import TrainState, init
from functorch_lab.train._step import make_step

__all__ = ["History", "TrainState", "fit", "init", "make_evaluate", "make_step"]
