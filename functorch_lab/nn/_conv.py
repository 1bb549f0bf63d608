# SPDX-License-Identifier: Apache-2.0
"""Convolution over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, init
from functorch_lab.nn._linear import torch_params
from functorch_lab.types import Layer

_PAD_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def conv2d(  # noqa: PLR0913  (torch has as many)
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | Literal["same", "valid"] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
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
        kernel_size: one integer, or (height, width).
        stride: one integer, or (height, width).
        padding: pixels at each side; "valid" is 0, "same" keeps H and W (with stride 1;
            where the total is odd, one more pixel at the bottom and the right).
        dilation: distance between the taps of the kernel.
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
    name = "conv2d"
    _checks.size(name, "groups", groups)
    for what, channels in [
        ("in_channels", in_channels),
        ("out_channels", out_channels),
    ]:
        if _checks.size(name, what, channels) % groups:
            raise ValueError(
                f"nn.conv2d: groups: expected a divisor of {what}={channels}, got "
                f"{groups}. Choose a divisor of both."
            )
    kernel = _checks.pair(name, "kernel_size", kernel_size)
    stride = _checks.pair(name, "stride", stride)
    dilation = _checks.pair(name, "dilation", dilation)
    if padding_mode not in _PAD_MODES:
        raise ValueError(
            f"nn.conv2d: padding_mode: expected one of {sorted(_PAD_MODES)}, got "
            f"{padding_mode!r}. Choose one."
        )
    pads = _pads(padding, kernel, stride, dilation)
    expected: dict[str, tuple[int, ...]] = {
        "weight": (out_channels, in_channels // groups, *kernel)
    }
    if bias:
        expected["bias"] = (out_channels,)
    # What convolution cannot pad by itself: other modes, and an odd total.
    symmetric = pads[0] == pads[1] and pads[2] == pads[3]
    outside = padding_mode != "zeros" or not symmetric
    inside = (0, 0) if outside else (pads[2], pads[0])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]

    def init_(key: Tensor) -> dict[str, Tensor]:
        return torch_params(key, expected, weight_init, bias_init)

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        weight, *rest = _checks.params(name, params, expected)
        _checks.image(name, x, in_channels)
        _check_extent(x, pads, reach, padding_mode)
        _checks.same_kind(name, x, weight)
        offset = rest[0] if rest else None

        def convolve(x: Tensor) -> Tensor:
            if outside:
                x = F.pad(x, pads, mode=_PAD_MODES[padding_mode])
            return F.conv2d(x, weight, offset, stride, inside, dilation, groups)

        return over_images(convolve, x)

    return Layer(init_, apply)


def over_images(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a function of `(C, H, W)` and `(N, C, H, W)` to any leading axes."""
    if x.ndim <= 4:
        return function(x)
    y = function(x.flatten(0, -4))
    return y.reshape(x.shape[:-3] + y.shape[-3:])


def _pads(
    padding: int | Sequence[int] | str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Pixels at the left, right, top and bottom: the order of `F.pad`.

    Raises:
        ValueError: an unknown word, a negative number, or "same" with a stride.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(
                f"nn.conv2d: padding: expected integers with stride {stride}, got "
                "'same'. Give the number of pixels."
            )
        height, width = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return width // 2, width - width // 2, height // 2, height - height // 2
    if isinstance(padding, str):
        raise ValueError(
            "nn.conv2d: padding: expected an integer, two of them, 'same' or 'valid', "
            f"got {padding!r}. Choose one."
        )
    height, width = _checks.pair("conv2d", "padding", padding, minimum=0)
    return width, width, height, height


def _check_extent(
    x: Tensor, pads: Sequence[int], reach: Sequence[int], padding_mode: str
) -> None:
    """The image is large enough for its kernel and its padding.

    Raises:
        ValueError: it is not.
    """
    height, width = x.shape[-2:]
    if height + pads[2] + pads[3] < reach[0] or width + pads[0] + pads[1] < reach[1]:
        raise ValueError(
            f"nn.conv2d: x: expected an image of at least {tuple(reach)} pixels with "
            f"its padding, got {tuple(x.shape)}. Use a smaller kernel or more padding."
        )
    # Reflection leaves the border out, a circle may go round once at most.
    limits = {"reflect": (height - 1, width - 1), "circular": (height, width)}
    if padding_mode in limits:
        high, wide = limits[padding_mode]
        if max(pads[2:]) > high or max(pads[:2]) > wide:
            raise ValueError(
                f"nn.conv2d: x: expected an image larger than the {padding_mode} "
                f"padding, (left, right, top, bottom) = {tuple(pads)}, got "
                f"{tuple(x.shape)}. Use less padding, or padding_mode='replicate'."
            )
