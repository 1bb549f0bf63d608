# SPDX-License-Identifier: Apache-2.0
"""Initializers: `init.name(options)` returns `initializer(key, shape, dtype=None)`.

Names, options, defaults and gains are those of torch.nn.init; `variance_scaling` and
`truncated_normal` are JAX's. The tensor is made on the key's device, in the default
dtype if none is given. Fans are counted as torch does, for weights of shape
`(out, in, *kernel)`: `in` times the kernel's elements, and `out` times these. A shape
that an initializer cannot fill raises `ValueError` in the call.
"""

from functorch_lab.nn.init._constant import constant, ones, zeros
from functorch_lab.nn.init._distributions import (
    normal,
    trunc_normal,
    truncated_normal,
    uniform,
)
from functorch_lab.nn.init._gain import calculate_gain
from functorch_lab.nn.init._identity import dirac, eye
from functorch_lab.nn.init._initializer import Initializer as Initializer
from functorch_lab.nn.init._matrices import orthogonal, sparse
from functorch_lab.nn.init._scaling import (
    kaiming_normal,
    kaiming_uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)

__all__ = [
    "calculate_gain",
    "constant",
    "dirac",
    "eye",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "trunc_normal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
