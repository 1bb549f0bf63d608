# SPDX-License-Identifier: Apache-2.0
"""Convolution over one, two and three axes of space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _space, init
from functorch_lab.nn._conv_layer import Convolution
from functorch_lab.nn._conv_padding import Padding, PaddingMode
from functorch_lab.types import Layer

_FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv1d(  # noqa: PLR0913  (torch has as many)
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Literal["same", "valid"] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """Cross-correlation of sequences: from `(..., C, L)` to `(..., C_out, L')`.

    `conv2d` says what the options mean, which params there are, and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.conv1d(1, 1, 2, bias=False)
        >>> x = torch.tensor([[2.0, 3.0, 7.0]])
        >>> layer.apply({"weight": torch.tensor([[[-1.0, 1.0]]])}, x)
        tensor([[1., 4.]])
    """
    channels = in_channels, out_channels, groups
    starts = bias, weight_init, bias_init
    made = Convolution("conv1d", 1, *channels, *starts)
    return _conv(made, kernel_size, stride, padding, dilation, padding_mode)


def conv2d(  # noqa: PLR0913
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Literal["same", "valid"] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """Cross-correlation of images: from `(..., C, H, W)` to `(..., C_out, H', W')`.

    Any leading axes, none of them too: the last three are always one image. With
    padding p, dilation d, kernel k and stride s,
    `H' = (H + 2 p - d (k - 1) - 1) // s + 1`.

    Args:
        in_channels: C, divisible by `groups`.
        out_channels: C_out, divisible by `groups`.
        kernel_size: one integer, or one for each axis: (height, width).
        stride: one integer, or one for each axis.
        padding: pixels at both sides of each axis; "valid" is 0, "same" keeps H and W
            (with stride 1; where the total is odd, one more at the bottom and right).
        dilation: distance between the taps of the kernel, for each axis.
        groups: into how many independent convolutions the channels are divided.
        bias: whether there is a bias.
        padding_mode: what is padded: "zeros", "reflect", "replicate" or "circular".
        weight_init: an initializer for the weight; by default torch's, uniform on
            +-1/sqrt(C / groups * kernel area).
        bias_init: an initializer for the bias; by default the same distribution.

    Returns:
        A layer.
        Its params are "weight", of shape `(C_out, C / groups, *kernel_size)`, and
        "bias", of shape `(C_out,)`, if there is one. Its `apply` raises `ValueError`
        for params or an image of other shapes or too small an image, and `TypeError`
        for an image that is not floating-point or differs from the params in dtype or
        device.

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, an unknown
            padding or mode, "same" with a stride.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.conv2d(1, 1, 2, bias=False)
        >>> image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> layer.apply({"weight": torch.ones(1, 1, 2, 2)}, image)
        tensor([[[10.]]])
    """
    channels = in_channels, out_channels, groups
    starts = bias, weight_init, bias_init
    made = Convolution("conv2d", 2, *channels, *starts)
    return _conv(made, kernel_size, stride, padding, dilation, padding_mode)


def conv3d(  # noqa: PLR0913
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Literal["same", "valid"] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: PaddingMode = "zeros",
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """Cross-correlation of volumes: `(..., C, D, H, W)` to `(..., C_out, D', H', W')`.

    `conv2d` says what the options mean, which params there are, and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.conv3d(1, 1, (2, 1, 1), bias=False)
        >>> volume = torch.tensor([2.0, 5.0]).reshape(1, 2, 1, 1)
        >>> layer.apply({"weight": torch.ones(1, 1, 2, 1, 1)}, volume)
        tensor([[[[7.]]]])
    """
    channels = in_channels, out_channels, groups
    starts = bias, weight_init, bias_init
    made = Convolution("conv3d", 3, *channels, *starts)
    return _conv(made, kernel_size, stride, padding, dilation, padding_mode)


def _conv(
    made: Convolution,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    padding_mode: str,
) -> Layer:
    """The one convolution behind all ranks."""
    name, rank, groups = made.name, made.rank, made.groups
    kernel = _space.numbers(name, "kernel_size", kernel_size, rank)
    steps = _space.numbers(name, "stride", stride, rank)
    taps = _space.numbers(name, "dilation", dilation, rank)
    reach = _space.reach_of(kernel, taps)
    pad = Padding(name, padding, steps, reach, padding_mode)

    def check(x: Tensor) -> None:
        _space.check_extent(name, x, reach, pad.totals, _space.SMALLER_KERNEL)
        pad.check(x)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function = _FUNCTIONS[rank]
        return function(pad(x), weight, bias, steps, pad.inside, taps, groups)

    shape = (made.out_channels, made.in_channels // groups, *kernel)
    return made.layer(shape, check, convolve)
