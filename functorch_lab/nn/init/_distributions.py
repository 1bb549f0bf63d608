# SPDX-License-Identifier: Apache-2.0
"""Independent numbers of a distribution that does not depend on the shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn.init._initializer import Initializer


def uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    """Uniform on [a, b).

    Raises:
        ValueError: `a` is not below `b`.
    """
    _ordered("uniform", "a", a, "b", b)

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        return random.uniform(key, tuple(shape), dtype, minval=a, maxval=b)

    return initializer


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Normal with that mean and standard deviation.

    Raises:
        ValueError: `std` is below 0.
    """
    if not std >= 0:
        raise ValueError(
            f"nn.init.normal: std: expected at least 0, got {std}. Pass the standard "
            "deviation, not its logarithm."
        )

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        return mean + std * random.normal(key, tuple(shape), dtype)

    return initializer


def trunc_normal(
    mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Initializer:
    """Normal, conditioned on [a, b]; `a` and `b` are values, not multiples of `std`.

    With a small `std` and the limits left at 2 nothing is cut off; `truncated_normal`
    has limits that move with `std`.

    Raises:
        ValueError: `std` is not above 0, or `a` is not below `b`.
    """
    _positive("trunc_normal", std)
    _ordered("trunc_normal", "a", a, "b", b)

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        low, high = (a - mean) / std, (b - mean) / std
        return mean + std * random.truncated_normal(key, low, high, tuple(shape), dtype)

    return initializer


def truncated_normal(
    std: float = 0.01, lower: float = -2.0, upper: float = 2.0
) -> Initializer:
    """`std` times a standard normal number, conditioned on (lower, upper).

    The limits are multiples of `std`, unlike those of `trunc_normal`. What is left
    spreads less than `std`: 0.88 of it between the limits -2 and 2. The numbers are
    those of ``jax.nn.initializers.truncated_normal`` up to rounding.

    Raises:
        ValueError: `std` is not above 0, or `lower` is not below `upper`.

    Example:
        >>> import functorch_lab as fl
        >>> weight = fl.nn.init.truncated_normal(0.5)(fl.random.key(0), (500, 500))
        >>> weight.abs().max() < 2 * 0.5, round(weight.std().item() / 0.5, 2)
        (tensor(True), 0.88)
    """
    _positive("truncated_normal", std)
    _ordered("truncated_normal", "lower", lower, "upper", upper)

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        return std * random.truncated_normal(key, lower, upper, tuple(shape), dtype)

    return initializer


def _positive(name: str, std: float) -> None:
    if not std > 0:
        raise ValueError(
            f"nn.init.{name}: std: expected a number above 0, got {std}. Use constant "
            "for one value everywhere."
        )


def _ordered(name: str, low: str, a: float, high: str, b: float) -> None:
    if not a < b:
        raise ValueError(
            f"nn.init.{name}: {low}, {high}: expected {low} below {high}, got "
            f"{low}={a}, {high}={b}. Give the lower limit first."
        )
