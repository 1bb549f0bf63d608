# SPDX-License-Identifier: Apache-2.0
"""Metrics: numbers about a whole data set, accumulated batch by batch.

Each function returns a `Metric`: `state = init()`, `state = update(state, ...)`,
`merge(state, state)`, `compute(state)`. States are trees of tensors, so that update
runs inside `jit` and `vmap`; an optional boolean `mask` leaves samples out, such as the
padding of a last batch.
"""

from functorch_lab.metrics._agreement import accuracy, confusion_matrix
from functorch_lab.metrics._metric import Metric
from functorch_lab.metrics._moments import mean, r2
from functorch_lab.metrics._precision_recall import f1, precision, recall

__all__ = [
    "Metric",
    "accuracy",
    "confusion_matrix",
    "f1",
    "mean",
    "precision",
    "r2",
    "recall",
]
