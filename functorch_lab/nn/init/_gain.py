# SPDX-License-Identifier: Apache-2.0
"""The factor by which a nonlinearity changes the spread of its input."""

from __future__ import annotations

import math

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
