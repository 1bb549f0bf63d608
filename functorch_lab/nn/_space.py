# SPDX-License-Identifier: Apache-2.0
"""Space: its axes, one number for each of them, and the axes before them.

A layer over space knows its rank, so a sample is never taken for a batch: the last
`rank` axes are space, the one before is the channels, all others are leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import _checks

_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_UNITS = {1: "elements", 2: "pixels", 3: "voxels"}


def numbers(
    function: str,
    name: str,
    value: int | Sequence[int],
    rank: int,
    minimum: int = 1,
) -> tuple[int, ...]:
    """One integer for each axis of space, of one or all given.

    Raises:
        TypeError: it is neither an integer nor a sequence of integers.
        ValueError: there is another number of them, or one is too small.
    """
    return tuple(
        _checks.size(function, name, each, minimum)
        for each in per_axis(function, name, value, rank)
    )


def per_axis(function: str, name: str, value: Any, rank: int) -> tuple[Any, ...]:
    """What is given for each axis of space; one value stands for all of them.

    Raises:
        ValueError: there is another number of them.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (value,) * rank
    if len(value) != rank:
        raise ValueError(
            f"nn.{function}: {name}: expected one number, or {rank} of them, got "
            f"{len(value)}. Give ({', '.join(_AXES[rank])})."
        )
    return tuple(value)


def check(function: str, x: Tensor, rank: int, channels: int | None = None) -> None:
    """`x` is floating-point and has shape `(..., channels, *space)`.

    Raises:
        ValueError: it has another shape.
    """
    _checks.floating(function, x)
    axes = ", ".join(_AXES[rank])
    if x.ndim <= rank:
        raise ValueError(
            f"nn.{function}: x: expected shape (..., channels, {axes}), got "
            f"{tuple(x.shape)}. Add the missing axis with x.unsqueeze({-rank - 1})."
        )
    if channels is not None and x.shape[-rank - 1] != channels:
        last = x.shape[-1] == channels
        raise ValueError(
            f"nn.{function}: x: expected shape (..., {channels}, {axes}), got "
            f"{tuple(x.shape)}. "
            + (
                f"Move the channels with x.movedim(-1, {-rank - 1})."
                if last
                else "Give it that many channels, or make the layer for the input's."
            )
        )


def check_extent(
    function: str,
    x: Tensor,
    reach: Sequence[int],
    pads: Sequence[int] | None = None,
    remedy: str = "Give it a larger input.",
) -> None:
    """Space, with the total padding of each axis, holds what reaches so far.

    Raises:
        ValueError: one axis is too small, or empty.
    """
    rank = len(reach)
    sizes = zip(x.shape[-rank:], pads or (0,) * rank, reach, strict=True)
    if any(n < 1 or n + p < r for n, p, r in sizes):
        padded = " with its padding" if pads else ""
        raise ValueError(
            f"nn.{function}: x: expected at least {tuple(reach)} {_UNITS[rank]}"
            f"{padded}, got {tuple(x.shape)}. {remedy}"
        )


SMALLER_KERNEL = "Use a smaller kernel or more padding."


def reach_of(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How far a kernel reaches along each axis, gaps included."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))


def over_space(function: Callable[[Tensor], Tensor], x: Tensor, rank: int) -> Tensor:
    """Applies a function of `(n, C, *space)` to any leading axes, none included."""
    batch = x.flatten(0, -rank - 2) if x.ndim > rank + 1 else x.unsqueeze(0)
    y = function(batch)
    return y.reshape(x.shape[: -rank - 1] + y.shape[1:])


def channels_last(x: Tensor) -> Tensor:
    """A batch of images with the channels last in memory, as convolutions want them.

    Everything after it then has this order too, in a compiled graph also the backward
    pass. Inside transforms images come one by one, and stay as they are.
    """
    if x.ndim != 4 or torch._C._are_functorch_transforms_active():
        return x
    return x.contiguous(memory_format=torch.channels_last)
