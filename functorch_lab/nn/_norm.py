# SPDX-License-Identifier: Apache-2.0
"""Normalisation within one sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, _norm_axes, init
from functorch_lab.types import Layer


def layer_norm(
    normalized_shape: int | Sequence[int],
    *,
    eps: float = 1e-5,
    elementwise_affine: bool = True,
    bias: bool = True,
) -> Layer:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, over the last axes.

    Args:
        normalized_shape: the sizes of the last axes, over which mean and (biased)
            variance are taken.
        eps: what keeps the division finite, 0 or above.
        elementwise_affine: whether there are weight and bias, of that shape.
        bias: whether there is a bias beside the weight.

    Returns:
        A layer.
        Its params are "weight" and "bias", both of shape `normalized_shape`,
        ones and zeros at first, or `()` without `elementwise_affine`. Its `apply`
        raises `ValueError` for params or an input of other shapes, and `TypeError` for
        an input that is not floating-point or differs from the params in dtype or
        device.

    Raises:
        ValueError: no size or a size below 1, or a negative `eps`.
        TypeError: a size that is no integer, or an `eps` that is no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.layer_norm(2)
        >>> params = layer.init(fl.random.key(0))
        >>> layer.apply(params, torch.tensor([3.0, 7.0])).round(decimals=4)
        tensor([-1.,  1.])

    Source: Ba, Kiros and Hinton, Layer Normalization (2016), equations 3 and 4,
    arXiv 1607.06450.
    """
    shape = _last_axes("layer_norm", normalized_shape, eps)
    names = ["weight", "bias"] if bias else ["weight"]
    expected = dict.fromkeys(names if elementwise_affine else [], shape)

    def init_(key: Tensor) -> Any:
        if not elementwise_affine:
            return ()
        values = {"weight": init.ones(), "bias": init.zeros()}
        return {name: values[name](key, shape) for name in expected}

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _check_input("layer_norm", x, shape)
        if not elementwise_affine:
            _checks.no_params("layer_norm", params)
            return standardized(x, shape, eps)
        weight, *rest = _checks.params("layer_norm", params, expected)
        _checks.same_kind("layer_norm", x, weight)
        # Compiled, both are one kernel.
        y = standardized(x, shape, eps) * weight
        return y + rest[0] if rest else y

    return Layer(init_, apply)


def rms_norm(
    normalized_shape: int | Sequence[int],
    *,
    eps: float | None = None,
    elementwise_affine: bool = True,
) -> Layer:
    """`x / sqrt(mean(x^2) + eps) * weight`, over the last axes.

    Args:
        normalized_shape: the sizes of the last axes, over which the mean is taken.
        eps: what keeps the division finite, 0 or above; `None` is
            `torch.finfo(dtype).eps`, of float32 for half precision.
        elementwise_affine: whether there is a weight, of that shape.

    Returns:
        A layer.
        Its params are "weight", of shape `normalized_shape`, ones at first, or `()`
        without `elementwise_affine`. Its `apply` raises `ValueError` for params or an
        input of other shapes, and `TypeError` for an input that is not floating-point
        or differs from the params in dtype or device.

    Raises:
        ValueError: no size or a size below 1, or a negative `eps`.
        TypeError: a size that is no integer, or an `eps` that is no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.rms_norm(2)
        >>> params = layer.init(fl.random.key(0))
        >>> layer.apply(params, torch.tensor([1.0, 7.0])).round(decimals=4)
        tensor([0.2000, 1.4000])

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization (2019), equation 4,
    arXiv 1910.07467.
    """
    shape = _last_axes("rms_norm", normalized_shape, 0.0 if eps is None else eps)

    def init_(key: Tensor) -> Any:
        return {"weight": init.ones()(key, shape)} if elementwise_affine else ()

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _check_input("rms_norm", x, shape)
        y = F.rms_norm(x, shape, eps=eps)
        if not elementwise_affine:
            _checks.no_params("rms_norm", params)
            return y
        (weight,) = _checks.params("rms_norm", params, {"weight": shape})
        _checks.same_kind("rms_norm", x, weight)
        return y * weight

    return Layer(init_, apply)


def standardized(x: Tensor, shape: tuple[int, ...], eps: float) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` over the last axes, which have this shape.

    F.layer_norm has a fast kernel; but its third derivatives are wrong (torch 2.13), so
    inside transforms, where there are such, the formula is written out. Nowhere is the
    weight given to it: its forward derivative fails where x has a tangent and the
    weight has none.
    """
    if not torch._C._are_functorch_transforms_active():
        return F.layer_norm(x, shape, eps=eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = tuple(range(-len(shape), 0))
    var, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    return ((wide - mean) * torch.rsqrt(var + eps)).to(x.dtype)


def _last_axes(
    function: str, normalized_shape: int | Sequence[int], eps: float
) -> tuple[int, ...]:
    """The sizes of the last axes.

    Raises:
        ValueError: there is none.
    """
    _norm_axes.check_eps(function, eps)
    many = isinstance(normalized_shape, Sequence)
    sizes = normalized_shape if many else [normalized_shape]
    shape = tuple(_checks.size(function, "normalized_shape", n) for n in sizes)
    if not shape:
        raise ValueError(
            f"nn.{function}: normalized_shape: expected at least one size, got "
            f"{normalized_shape!r}. Name the last axes of the input."
        )
    return shape


def _check_input(function: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """`x` is floating-point and ends in these axes.

    Raises:
        ValueError: it has other axes.
    """
    _checks.floating(function, x)
    if x.shape[-len(shape) :] != shape:
        raise ValueError(
            f"nn.{function}: x: expected last axes {shape}, got shape "
            f"{tuple(x.shape)}. Make the layer for the input's last axes."
        )
