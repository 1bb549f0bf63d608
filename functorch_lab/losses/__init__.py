# SPDX-License-Identifier: Apache-2.0
"""Pure losses: a prediction and a target in, one number per sample or element out.

Regression and binary losses are elementwise (their means over all axes are `mse` and
`mae`), classification losses reduce the class axis, the last one, and penalties turn a
tree of parameters into a scalar. Nothing averages over the batch:
`fl.mean_over_batch(loss_fn)` or `.mean()` does, where one can see it.
"""

from functorch_lab.losses._binary import binary_cross_entropy_with_logits
from functorch_lab.losses._classification import (
    cross_entropy,
    focal,
    hinge,
    kl_div,
    nll,
)
from functorch_lab.losses._penalties import l1_penalty, l2_penalty
from functorch_lab.losses._regression import (
    absolute_error,
    huber,
    log_cosh,
    mae,
    mse,
    quantile,
    squared_error,
)

__all__ = [
    "absolute_error",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "focal",
    "hinge",
    "huber",
    "kl_div",
    "l1_penalty",
    "l2_penalty",
    "log_cosh",
    "mae",
    "mse",
    "nll",
    "quantile",
    "squared_error",
]
