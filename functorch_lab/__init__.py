# SPDX-License-Identifier: Apache-2.0
"""Pure functions, trees of tensors and explicit keys for PyTorch."""

from functorch_lab import data, losses, metrics, nn, optim, random, train, tree, types
from functorch_lab.transforms import (
    debug,
    disable_jit,
    eval_shape,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jit,
    jvp,
    mean_over_batch,
    stop_gradient,
    value_and_grad,
    vjp,
    vmap,
)

__version__ = "0.1.0"

__all__ = [
    "data",
    "debug",
    "disable_jit",
    "eval_shape",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "losses",
    "mean_over_batch",
    "metrics",
    "nn",
    "optim",
    "random",
    "stop_gradient",
    "train",
    "tree",
    "types",
    "value_and_grad",
    "vjp",
    "vmap",
]
