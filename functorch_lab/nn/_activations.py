# SPDX-License-Identifier: Apache-2.0
"""Activations: plain functions of a tensor, with torch's names and defaults.

In `sequential` they stand between layers as they are; for other options than the
default write `functools.partial(nn.leaky_relu, negative_slope=0.2)`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def identity(x: Tensor) -> Tensor:
    """`x` itself."""
    return x


def relu(x: Tensor) -> Tensor:
    """`max(x, 0)`; its derivative at 0 is 0."""
    return torch.relu(x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`x` where it is positive, `negative_slope * x` elsewhere."""
    return F.leaky_relu(x, negative_slope)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """`x` where it is positive, `alpha * (exp(x) - 1)` elsewhere (arXiv 1511.07289)."""
    return F.elu(x, alpha)


def selu(x: Tensor) -> Tensor:
    """`elu` with the two constants that keep mean 0, variance 1 (arXiv 1706.02515)."""
    return F.selu(x)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """`x * Phi(x)`, Phi the normal distribution function (arXiv 1606.08415)."""
    return F.gelu(x, approximate=approximate)


def silu(x: Tensor) -> Tensor:
    """`x * sigmoid(x)`, also called swish (arXiv 1702.03118, 1710.05941)."""
    return F.silu(x)


def mish(x: Tensor) -> Tensor:
    """`x * tanh(softplus(x))` (arXiv 1908.08681)."""
    return F.mish(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return torch.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + exp(-x))`."""
    return torch.sigmoid(x)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta * x)) / beta`, and `x` where `beta * x > threshold`."""
    return F.softplus(x, beta, threshold)


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """`exp(x)`, divided by its sum along `dim`."""
    return torch.softmax(x, dim)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """The logarithm of `softmax`, without overflow."""
    return torch.log_softmax(x, dim)
