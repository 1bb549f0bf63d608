# SPDX-License-Identifier: Apache-2.0
"""Pooling with windows, over one to three axes of space and any leading axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, _space
from functorch_lab.nn._pool_layer import pool_layer, window_of
from functorch_lab.types import Layer

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def max_pool1d(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Layer:
    """The largest value of each window: from `(..., C, L)` to `(..., C, L')`.

    `max_pool2d` says what the options mean and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.nn.max_pool1d(2).apply((), torch.tensor([[2.0, 5.0, 7.0, 3.0]]))
        tensor([[5., 7.]])
    """
    return _max_pool(1, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Layer:
    """The largest value of each window: from `(..., C, H, W)` to `(..., C, H', W')`.

    Args:
        kernel_size: one integer, or one for each axis: (height, width).
        stride: one integer, or one for each axis; by default the kernel size.
        padding: pixels of minus infinity at each side, at most half the kernel.
        dilation: distance between the elements of a window.
        ceil_mode: whether windows that reach over the end are kept.

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` for an image of fewer
        than 3 axes or smaller than the window, `TypeError` unless it is floating-point.

    Raises:
        ValueError: a size below 1, or padding above half the kernel.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> fl.nn.max_pool2d(2).apply((), image)
        tensor([[[4.]]])
    """
    return _max_pool(2, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Layer:
    """The largest value of each window: `(..., C, D, H, W)` to `(..., C, D', H', W')`.

    `max_pool2d` says what the options mean and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> volume = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> fl.nn.max_pool3d((1, 2, 2)).apply((), volume).flatten()
        tensor([3., 7.])
    """
    return _max_pool(3, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool1d(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Layer:
    """The mean of each window: from `(..., C, L)` to `(..., C, L')`.

    `avg_pool2d` says what the options mean and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.nn.avg_pool1d(2).apply((), torch.tensor([[2.0, 5.0, 7.0, 3.0]]))
        tensor([[3.5000, 5.0000]])
    """
    window = window_of("avg_pool1d", 1, kernel_size, stride, padding)
    options = ceil_mode, count_include_pad
    return pool_layer(
        "avg_pool1d", lambda x: F.avg_pool1d(x, *window, *options), window
    )


def avg_pool2d(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    """The mean of each window: from `(..., C, H, W)` to `(..., C, H', W')`.

    Args:
        kernel_size: one integer, or one for each axis: (height, width).
        stride: one integer, or one for each axis; by default the kernel size.
        padding: pixels of zero at each side, at most half the kernel.
        ceil_mode: whether windows that reach over the end are kept.
        count_include_pad: whether padding counts in the mean.
        divisor_override: what the sum is divided by instead of the number of pixels.

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` for an image of fewer
        than 3 axes or smaller than the window, `TypeError` unless it is floating-point.

    Raises:
        ValueError: a size below 1, or padding above half the kernel.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> fl.nn.avg_pool2d(2).apply((), image)
        tensor([[[2.5000]]])
    """
    window = window_of("avg_pool2d", 2, kernel_size, stride, padding)
    options = ceil_mode, count_include_pad, _divisor("avg_pool2d", divisor_override)
    return pool_layer(
        "avg_pool2d", lambda x: F.avg_pool2d(x, *window, *options), window
    )


def avg_pool3d(
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    """The mean of each window: from `(..., C, D, H, W)` to `(..., C, D', H', W')`.

    `avg_pool2d` says what the options mean and what is raised; volumes must be as large
    as a window, padding left aside.

    Example:
        >>> import torch, functorch_lab as fl
        >>> volume = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> fl.nn.avg_pool3d((1, 2, 2)).apply((), volume).flatten()
        tensor([1.5000, 5.5000])
    """
    window = window_of("avg_pool3d", 3, kernel_size, stride, padding)
    options = ceil_mode, count_include_pad, _divisor("avg_pool3d", divisor_override)

    def mean(x: Tensor) -> Tensor:
        # torch's CPU kernel does not have the half precisions.
        half = x.dtype in {torch.bfloat16, torch.float16}
        wide = x.float() if half and x.device.type == "cpu" else x
        return F.avg_pool3d(wide, *window, *options).to(x.dtype)

    # torch's kernel asks for volumes of the window's size, padding left aside.
    return pool_layer("avg_pool3d", mean, window, padding_helps=False)


def _max_pool(
    rank: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    ceil_mode: bool,
) -> Layer:
    name = f"max_pool{rank}d"
    window = window_of(name, rank, kernel_size, stride, padding)
    gaps = _space.numbers(name, "dilation", dilation, rank)
    function = _MAX[rank]
    return pool_layer(
        name, lambda x: function(x, *window, gaps, ceil_mode), window, gaps
    )


def _divisor(name: str, given: int | None) -> int | None:
    return None if given is None else _checks.size(name, "divisor_override", given)
