# SPDX-License-Identifier: Apache-2.0
"""Transposed convolution, from few elements to many, over one to three axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _space, init
from functorch_lab.nn._conv_layer import Convolution
from functorch_lab.types import Layer

_FUNCTIONS = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def conv_transpose1d(  # noqa: PLR0913  (torch has as many)
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    bias: bool = True,
    dilation: int | Sequence[int] = 1,
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """The transpose of `conv1d`: from `(..., C, L)` to `(..., C_out, L')`.

    `conv_transpose2d` says what the options mean, which params there are, and what is
    raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.conv_transpose1d(1, 1, 2, stride=2, bias=False)
        >>> x = torch.tensor([[2.0, 3.0]])
        >>> layer.apply({"weight": torch.tensor([[[1.0, 5.0]]])}, x)
        tensor([[ 2., 10.,  3., 15.]])
    """
    channels = in_channels, out_channels, groups
    made = Convolution("conv_transpose1d", 1, *channels, bias, weight_init, bias_init)
    return _transpose(made, kernel_size, stride, padding, output_padding, dilation)


def conv_transpose2d(  # noqa: PLR0913
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    bias: bool = True,
    dilation: int | Sequence[int] = 1,
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """The transpose of `conv2d`: from `(..., C, H, W)` to `(..., C_out, H', W')`.

    Each pixel adds a kernel to the output, `stride` pixels from that of its neighbour.
    With padding p, dilation d, kernel k and stride s,
    `H' = (H - 1) s - 2 p + d (k - 1) + output_padding + 1`.

    Args:
        in_channels: C, divisible by `groups`.
        out_channels: C_out, divisible by `groups`.
        kernel_size: one integer, or one for each axis: (height, width).
        stride: one integer, or one for each axis.
        padding: pixels cut off at both sides of each axis: what the convolution pads
            whose transpose this is.
        output_padding: pixels added at the end of each axis, fewer than `stride` or
            than `dilation`: several sizes have the same size after a stride, and this
            says which of them is meant.
        groups: into how many independent convolutions the channels are divided.
        bias: whether there is a bias.
        dilation: distance between the taps of the kernel, for each axis.
        weight_init: an initializer for the weight; by default torch's, uniform on
            +-1/sqrt(C_out / groups * kernel area).
        bias_init: an initializer for the bias; by default the same distribution.

    Returns:
        A layer.
        Its params are "weight", of shape `(C, C_out / groups, *kernel_size)`, and
        "bias", of shape `(C_out,)`, if there is one. Its `apply` raises `ValueError`
        for params or an image of other shapes or an image of which nothing is left,
        and `TypeError` for an image that is not floating-point or differs from the
        params in dtype or device.

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, or too large
            an `output_padding`.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.conv_transpose2d(1, 1, (1, 2), bias=False)
        >>> image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> layer.apply({"weight": torch.ones(1, 1, 1, 2)}, image)
        tensor([[[1., 3., 2.],
                 [3., 7., 4.]]])

    Source: Dumoulin and Visin, A Guide to Convolution Arithmetic for Deep Learning
    (2016), relationship 14, arXiv 1603.07285.
    """
    channels = in_channels, out_channels, groups
    made = Convolution("conv_transpose2d", 2, *channels, bias, weight_init, bias_init)
    return _transpose(made, kernel_size, stride, padding, output_padding, dilation)


def conv_transpose3d(  # noqa: PLR0913
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    bias: bool = True,
    dilation: int | Sequence[int] = 1,
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """The transpose of `conv3d`: `(..., C, D, H, W)` to `(..., C_out, D', H', W')`.

    `conv_transpose2d` says what the options mean, which params there are, and what is
    raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.conv_transpose3d(1, 1, (1, 1, 2), bias=False)
        >>> volume = torch.tensor([2.0, 5.0]).reshape(1, 1, 1, 2)
        >>> layer.apply({"weight": torch.ones(1, 1, 1, 1, 2)}, volume)
        tensor([[[[2., 7., 5.]]]])
    """
    channels = in_channels, out_channels, groups
    made = Convolution("conv_transpose3d", 3, *channels, bias, weight_init, bias_init)
    return _transpose(made, kernel_size, stride, padding, output_padding, dilation)


def _transpose(
    made: Convolution,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> Layer:
    """The one transposed convolution behind all ranks.

    Raises:
        ValueError: too large an `output_padding`.
    """
    name, rank, groups = made.name, made.rank, made.groups
    kernel = _space.numbers(name, "kernel_size", kernel_size, rank)
    steps = _space.numbers(name, "stride", stride, rank)
    cut = _space.numbers(name, "padding", padding, rank, minimum=0)
    added = _space.numbers(name, "output_padding", output_padding, rank, minimum=0)
    taps = _space.numbers(name, "dilation", dilation, rank)
    if any(a >= max(s, d) for a, s, d in zip(added, steps, taps, strict=True)):
        raise ValueError(
            f"nn.{name}: output_padding: expected less than stride={steps} or than "
            f"dilation={taps}, got {added}. Use a larger kernel for a larger output."
        )
    # What one element of the input makes of each axis, and every further one adds.
    sizes = zip(_space.reach_of(kernel, taps), cut, added, strict=True)
    first = [reach - 2 * c + a for reach, c, a in sizes]

    def check(x: Tensor) -> None:
        space = x.shape[-rank:]
        result = [(n - 1) * s + f for n, s, f in zip(space, steps, first, strict=True)]
        if min(space) < 1 or min(result) < 1:
            raise ValueError(
                f"nn.{name}: x: expected an input of which padding={cut} leaves "
                f"something, got {tuple(x.shape)}. Use less padding or a larger input."
            )

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function = _FUNCTIONS[rank]
        return function(x, weight, bias, steps, cut, added, groups, taps)

    shape = (made.in_channels, made.out_channels // groups, *kernel)
    return made.layer(shape, check, convolve)
