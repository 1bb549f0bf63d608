# SPDX-License-Identifier: Apache-2.0
"""Functions of functions. Their address is the top level: `functorch_lab.grad`, ..."""

from functorch_lab.transforms import debug
from functorch_lab.transforms._abstract import eval_shape
from functorch_lab.transforms._autodiff import (
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    stop_gradient,
    vjp,
)
from functorch_lab.transforms._checkpoint import checkpoint
from functorch_lab.transforms._cond import cond
from functorch_lab.transforms._grad import grad, value_and_grad
from functorch_lab.transforms._jit import disable_jit, jit
from functorch_lab.transforms._loops import fori_loop, while_loop
from functorch_lab.transforms._mean_over_batch import mean_over_batch
from functorch_lab.transforms._scan import scan
from functorch_lab.transforms._surrogate import surrogate_gradient
from functorch_lab.transforms._vmap import vmap

__all__ = [
    "checkpoint",
    "cond",
    "debug",
    "disable_jit",
    "eval_shape",
    "fori_loop",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "mean_over_batch",
    "scan",
    "stop_gradient",
    "surrogate_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]
