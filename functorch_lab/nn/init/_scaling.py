# SPDX-License-Identifier: Apache-2.0
"""Numbers whose variance is one over a number of connections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn.init._gain import calculate_gain
from functorch_lab.nn.init._initializer import Initializer, fans

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]

_MODES: dict[str, Callable[[int, int], float]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: math.sqrt(fan_in * fan_out),
}
# The standard deviation of a standard normal number, given that it lies in (-2, 2).
_TRUNCATED_STD = math.sqrt(
    1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
)


def variance_scaling(
    scale: float, mode: Mode, distribution: Distribution
) -> Initializer:
    """Numbers of mean 0 and variance `scale / fan`.

    They are those of ``jax.nn.initializers.variance_scaling`` with `in_axis=1` and
    `out_axis=0`, up to rounding. With it one writes the other initializers of JAX:
    `lecun_normal` is (1, "fan_in", "truncated_normal"), `he_normal` the same with 2,
    `glorot_normal` (1, "fan_avg", "truncated_normal").

    Args:
        scale: above 0.
        mode: which fan: "fan_in", "fan_out", their mean "fan_avg", or the root of their
            product "fan_geo_avg".
        distribution: "uniform"; "normal"; or "truncated_normal", a normal number cut
            off at twice its standard deviation, which is chosen such that `scale / fan`
            is the variance of what is left.

    Returns:
        An initializer of shapes of at least 2 axes.

    Raises:
        ValueError: `scale` is not above 0, or an unknown mode or distribution.

    Example:
        >>> import functorch_lab as fl
        >>> lecun_normal = fl.nn.init.variance_scaling(1, "fan_in", "truncated_normal")
        >>> weight = lecun_normal(fl.random.key(0), (400, 25))
        >>> round(weight.std().item(), 2)  # 1 / sqrt(25)
        0.2

    Source: LeCun et al., Efficient BackProp (1998), section 4.6, equation 16 (scale 1,
    "fan_in"); Glorot and Bengio's and He's choices as in `xavier_normal` and
    `kaiming_uniform`.
    """
    if not scale > 0:
        raise ValueError(
            f"nn.init.variance_scaling: scale: expected a number above 0, got {scale}. "
            "Use zeros() for zeros."
        )
    _known("variance_scaling", "mode", mode, list(_MODES))
    _known("variance_scaling", "distribution", distribution, list(_DRAWS))
    return _scaled("variance_scaling", scale, mode, distribution)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform on +-`gain * sqrt(6 / (fan_in + fan_out))`.

    Source: Glorot and Bengio, Understanding the Difficulty of Training Deep
    Feedforward Neural Networks (2010), equation 16.
    """
    return _scaled("xavier_uniform", gain**2, "fan_avg", "uniform")


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with variance `gain^2 * 2 / (fan_in + fan_out)`.

    Source: as `xavier_uniform`, equation 12.
    """
    return _scaled("xavier_normal", gain**2, "fan_avg", "normal")


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
    _known("kaiming_uniform", "mode", mode, ["fan_in", "fan_out"])
    scale = calculate_gain(nonlinearity, a) ** 2
    return _scaled("kaiming_uniform", scale, mode, "uniform")


def kaiming_normal(
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> Initializer:
    """Normal with variance `gain^2 / fan`; arguments as in `kaiming_uniform`."""
    _known("kaiming_normal", "mode", mode, ["fan_in", "fan_out"])
    scale = calculate_gain(nonlinearity, a) ** 2
    return _scaled("kaiming_normal", scale, mode, "normal")


def _uniform(
    key: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, std: float
) -> Tensor:
    return math.sqrt(3.0) * std * random.uniform(key, shape, dtype, minval=-1.0)


def _normal(
    key: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, std: float
) -> Tensor:
    return std * random.normal(key, shape, dtype)


def _truncated(
    key: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, std: float
) -> Tensor:
    drawn = random.truncated_normal(key, -2.0, 2.0, shape, dtype)
    return std / _TRUNCATED_STD * drawn


_DRAWS = {"truncated_normal": _truncated, "normal": _normal, "uniform": _uniform}


def _scaled(
    name: str, scale: float, mode: Mode, distribution: Distribution
) -> Initializer:
    """Numbers of variance `scale / fan`."""

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        std = math.sqrt(scale / _MODES[mode](*fans(name, shape)))
        return _DRAWS[distribution](key, tuple(shape), dtype, std)

    return initializer


def _known(name: str, argument: str, value: str, names: list[str]) -> None:
    if value not in names:
        raise ValueError(
            f"nn.init.{name}: {argument}: expected one of {names}, got {value!r}. "
            "Choose one."
        )
