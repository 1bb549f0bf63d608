# SPDX-License-Identifier: Apache-2.0
"""Initializers: `init.name(options)` returns `initializer(key, shape, dtype=None)`.

Names, options, defaults and gains are those of torch.nn.init. The tensor is made on the
key's device, in the default dtype if none is given. Fans are counted as torch does, for
weights of shape `(out, in, *kernel)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from functorch_lab import random

__all__ = [
    "calculate_gain",
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "trunc_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Initializer = Callable[..., Tensor]

_GAINS = {
    **dict.fromkeys(["linear", "conv1d", "conv2d", "conv3d", "sigmoid"], 1.0),
    **dict.fromkeys([f"conv_transpose{n}d" for n in (1, 2, 3)], 1.0),
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4.0,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity, as torch has it.

    Args:
        nonlinearity: "linear", "conv1d" ... "conv_transpose3d", "sigmoid", "tanh",
            "relu", "leaky_relu" or "selu".
        param: the negative slope of leaky_relu, 0.01 if not given.

    Raises:
        ValueError: an unknown nonlinearity.

    Example:
        >>> import functorch_lab as fl
        >>> fl.nn.init.calculate_gain("leaky_relu", 1.0)
        1.0
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(
            "nn.init.calculate_gain: nonlinearity: expected one of "
            f"{sorted([*_GAINS, 'leaky_relu'])}, got {nonlinearity!r}. Choose one."
        )
    return _GAINS[nonlinearity]


def uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    """Uniform on [a, b)."""

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        return random.uniform(key, tuple(shape), dtype, minval=a, maxval=b)

    return initializer


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Normal with that mean and standard deviation."""

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        return mean + std * random.normal(key, tuple(shape), dtype)

    return initializer


def trunc_normal(
    mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Initializer:
    """Normal, conditioned on [a, b]; `a` and `b` are values, not multiples of `std`.

    Raises:
        ValueError: `std` is not above 0, or `a` is not below `b`.
    """
    if not (std > 0 and a < b):
        raise ValueError(
            "nn.init.trunc_normal: std, a, b: expected std above 0 and a below b, got "
            f"std={std}, a={a}, b={b}. Exchange the limits."
        )

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        low, high = (a - mean) / std, (b - mean) / std
        return mean + std * random.truncated_normal(key, low, high, tuple(shape), dtype)

    return initializer


def constant(val: float) -> Initializer:
    """`val` everywhere."""

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        return torch.full(tuple(shape), val, dtype=dtype, device=key.device)

    return initializer


def zeros() -> Initializer:
    """0 everywhere."""
    return constant(0.0)


def ones() -> Initializer:
    """1 everywhere."""
    return constant(1.0)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform on +-`gain * sqrt(6 / (fan_in + fan_out))`.

    Source: Glorot and Bengio, Understanding the Difficulty of Training Deep
    Feedforward Neural Networks (2010), equation 16.
    """
    return _scaled_uniform(lambda fan_in, fan_out: gain**2 * 2 / (fan_in + fan_out))


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with variance `gain^2 * 2 / (fan_in + fan_out)`.

    Source: as `xavier_uniform`, equation 12.
    """
    return _scaled_normal(lambda fan_in, fan_out: gain**2 * 2 / (fan_in + fan_out))


def kaiming_uniform(
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> Initializer:
    """Uniform on +-`gain * sqrt(3 / fan)`.

    Args:
        a: the negative slope of the leaky ReLU that follows; 0 is ReLU.
        mode: "fan_in" keeps the variance of activations, "fan_out" of gradients.
        nonlinearity: what follows, a name that `calculate_gain` knows.

    Raises:
        ValueError: an unknown mode or nonlinearity.

    Source: He et al., Delving Deep into Rectifiers (2015), equations 10 and 14,
    arXiv 1502.01852.
    """
    return _scaled_uniform(_kaiming_variance("uniform", a, mode, nonlinearity))


def kaiming_normal(
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> Initializer:
    """Normal with variance `gain^2 / fan`; arguments as in `kaiming_uniform`."""
    return _scaled_normal(_kaiming_variance("normal", a, mode, nonlinearity))


def orthogonal(gain: float = 1.0) -> Initializer:
    """`gain` times a random matrix with orthonormal rows or columns.

    Axes after the first count as one. The distribution is uniform over such matrices.

    Source: Saxe, McClelland and Ganguli, Exact Solutions to the Nonlinear Dynamics of
    Learning in Deep Linear Neural Networks (2013), arXiv 1312.6120; the signs:
    Mezzadri, How to Generate Random Matrices from the Classical Compact Groups (2007),
    arXiv math-ph/0609050, section 5.
    """

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        _fans("orthogonal", shape)
        rows, columns = shape[0], math.prod(shape[1:])
        tall = max(rows, columns), min(rows, columns)
        q, r = torch.linalg.qr(random.normal(key, tall, dtype))
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
        return gain * (q if rows >= columns else q.mT).reshape(tuple(shape))

    return initializer


def _scaled_uniform(variance: Callable[[int, int], float]) -> Initializer:
    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        bound = math.sqrt(3.0 * variance(*_fans("uniform", shape)))
        return uniform(-bound, bound)(key, shape, dtype)

    return initializer


def _scaled_normal(variance: Callable[[int, int], float]) -> Initializer:
    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        std = math.sqrt(variance(*_fans("normal", shape)))
        return normal(0.0, std)(key, shape, dtype)

    return initializer


def _kaiming_variance(
    name: str, a: float, mode: str, nonlinearity: str
) -> Callable[[int, int], float]:
    if mode not in {"fan_in", "fan_out"}:
        raise ValueError(
            f"nn.init.kaiming_{name}: mode: expected 'fan_in' or 'fan_out', "
            f"got {mode!r}. Choose one."
        )
    gain = calculate_gain(nonlinearity, a)
    return lambda fan_in, fan_out: gain**2 / (fan_in if mode == "fan_in" else fan_out)


def _fans(name: str, shape: Sequence[int]) -> tuple[int, int]:
    """Numbers of inputs and outputs that a weight of this shape connects.

    Raises:
        ValueError: the shape has fewer than 2 axes.
    """
    if len(shape) < 2:
        raise ValueError(
            f"nn.init: {name}: expected a shape of at least 2 axes, (out, in, ...), "
            f"got {tuple(shape)}. Initialise biases with zeros() or uniform()."
        )
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel
