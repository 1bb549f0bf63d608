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
from functorch_lab.transforms._grad import grad, value_and_grad
from functorch_lab.transforms._jit import disable_jit, jit
from functorch_lab.transforms._vmap import mean_over_batch, vmap

__all__ = [
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
    "mean_over_batch",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
]
