# SPDX-License-Identifier: Apache-2.0
"""Channels and space: what group, instance and batch norm ask of their input."""

from __future__ import annotations

import math

from torch import Tensor

from functorch_lab.nn import _checks, init

_SPACE = ((), ("length",), ("height", "width"), ("depth", "height", "width"))


def check_rank(function: str, spatial_dims: object, minimum: int = 0) -> None:
    """`spatial_dims` is a number of axes that there can be.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below `minimum` or above 3.
    """
    rank = _checks.size(function, "spatial_dims", spatial_dims, minimum)
    if rank >= len(_SPACE):
        raise ValueError(
            f"nn.{function}: spatial_dims: expected at most {len(_SPACE) - 1}, got "
            f"{rank}. It is the number of axes after the channels."
        )


def check_eps(function: str, eps: object) -> None:
    """`eps` is a number of 0 or above.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative.
    """
    if not isinstance(eps, int | float) or isinstance(eps, bool):
        raise TypeError(
            f"nn.{function}: eps: expected a number, got {type(eps).__name__}. "
            "Configuration is given when the layer is made."
        )
    if not eps >= 0:
        raise ValueError(
            f"nn.{function}: eps: expected 0 or above, got {eps}. It is added to a "
            "variance before the root is taken."
        )


def layout(channels: int, spatial_dims: int, lead: str = "...") -> str:
    """The shape as an error shows it, such as `(..., 3, height, width)`."""
    return f"({', '.join([lead, str(channels), *_SPACE[spatial_dims]])})"


def check_channels(function: str, x: Tensor, channels: int, spatial_dims: int) -> None:
    """`x` is floating-point and has shape `(..., channels, *space)`.

    Raises:
        ValueError: it has another shape.
    """
    _checks.floating(function, x)
    if x.ndim <= spatial_dims or x.shape[-1 - spatial_dims] != channels:
        last = x.ndim > spatial_dims > 0 and x.shape[-1] == channels
        raise ValueError(
            f"nn.{function}: x: expected shape {layout(channels, spatial_dims)}, got "
            f"{tuple(x.shape)}. "
            + (
                f"Move the channels with x.movedim(-1, {-1 - spatial_dims})."
                if last
                else "Make the layer for the input's channels and spatial_dims."
            )
        )


def space_of(x: Tensor, spatial_dims: int) -> int:
    """How many positions a channel has."""
    return math.prod(x.shape[x.ndim - spatial_dims :])


def affine_shapes(channels: int, affine: bool) -> dict[str, tuple[int, ...]]:
    return {"weight": (channels,), "bias": (channels,)} if affine else {}


def affine_init(key: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    values = {"weight": init.ones(), "bias": init.zeros()}
    return {name: values[name](key, shape) for name, shape in shapes.items()}


def along_channels(values: Tensor, spatial_dims: int) -> Tensor:
    """One value per channel in the shape that broadcasts against the input."""
    return values.reshape(-1, *[1] * spatial_dims)


def affine(y: Tensor, weight: Tensor, bias: Tensor, spatial_dims: int) -> Tensor:
    weight, bias = (along_channels(p, spatial_dims) for p in (weight, bias))
    return y * weight + bias
