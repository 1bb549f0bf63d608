# SPDX-License-Identifier: Apache-2.0
"""Pooling over images; `(..., C, H, W)` with any leading axes, none of them too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.nn._conv import over_images
from functorch_lab.types import Layer


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
        kernel_size: one integer, or (height, width).
        stride: one integer, or (height, width); by default the kernel size.
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
    window = _window("max_pool2d", kernel_size, stride, padding)
    dilation = _checks.pair("max_pool2d", "dilation", dilation)
    return _pool(
        "max_pool2d",
        lambda x: F.max_pool2d(x, *window, dilation, ceil_mode),
        window,
        dilation,
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
        kernel_size: one integer, or (height, width).
        stride: one integer, or (height, width); by default the kernel size.
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
    window = _window("avg_pool2d", kernel_size, stride, padding)
    if divisor_override is not None:
        _checks.size("avg_pool2d", "divisor_override", divisor_override)
    return _pool(
        "avg_pool2d",
        lambda x: F.avg_pool2d(
            x, *window, ceil_mode, count_include_pad, divisor_override
        ),
        window,
        (1, 1),
    )


_Pair = tuple[int, int]


def _window(
    name: str,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
) -> tuple[_Pair, _Pair, _Pair]:
    """Kernel, stride and padding.

    Raises:
        ValueError: the padding is above half the kernel.
    """
    kernel = _checks.pair(name, "kernel_size", kernel_size)
    step = kernel if stride is None else _checks.pair(name, "stride", stride)
    pads = _checks.pair(name, "padding", padding, minimum=0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ValueError(
            f"nn.{name}: padding: expected at most half of kernel_size={kernel}, got "
            f"{pads}. A window of padding alone has no value."
        )
    return kernel, step, pads


def _pool(
    name: str,
    function: Callable[[Tensor], Tensor],
    window: tuple[_Pair, _Pair, _Pair],
    dilation: _Pair,
) -> Layer:
    kernel, _, pads = window
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params(name, params)
        _checks.image(name, x)
        if any(
            n + 2 * p < r for n, p, r in zip(x.shape[-2:], pads, reach, strict=True)
        ):
            raise ValueError(
                f"nn.{name}: x: expected an image of at least {tuple(reach)} pixels "
                f"with its padding, got {tuple(x.shape)}. Use a smaller kernel."
            )
        return over_images(function, x)

    return Layer(lambda key: (), apply)
