# SPDX-License-Identifier: Apache-2.0
"""Models: functions that return a `Layer(init, apply)`.

`params = layer.init(key)`, then `y = layer.apply(params, x, *, key=None, train=False)`.
Names, defaults and initial distributions are torch.nn's. Parameters are made on the
key's device, in the default dtype. Activations are plain functions.
"""

from functorch_lab.nn import init
from functorch_lab.nn._activations import (
    elu,
    gelu,
    identity,
    leaky_relu,
    log_softmax,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from functorch_lab.nn._compose import compose
from functorch_lab.nn._conv import conv2d
from functorch_lab.nn._dropout import dropout
from functorch_lab.nn._flatten import flatten
from functorch_lab.nn._linear import linear
from functorch_lab.nn._models import cnn, mlp
from functorch_lab.nn._norm import layer_norm
from functorch_lab.nn._pool import avg_pool2d, max_pool2d
from functorch_lab.nn._sequential import residual, sequential

__all__ = [
    "avg_pool2d",
    "cnn",
    "compose",
    "conv2d",
    "dropout",
    "elu",
    "flatten",
    "gelu",
    "identity",
    "init",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mish",
    "mlp",
    "relu",
    "residual",
    "selu",
    "sequential",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
