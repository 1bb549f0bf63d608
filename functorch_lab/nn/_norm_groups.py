# SPDX-License-Identifier: Apache-2.0
"""Normalisation of the channels of one sample: over space, alone or in groups."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from functorch_lab.nn import _checks, _norm_axes
from functorch_lab.nn._norm import standardized
from functorch_lab.types import Layer


def group_norm(
    num_groups: int,
    num_channels: int,
    *,
    spatial_dims: int,
    eps: float = 1e-5,
    affine: bool = True,
) -> Layer:
    """`(x - mean) / sqrt(var + eps)` of each group of channels, then an affine map.

    From `(..., num_channels, *space)` to the same shape, with any leading axes, none
    of them too. Mean and (biased) variance are of one sample, over the channels of one
    group and all of space; training and evaluation are the same.

    Args:
        num_groups: into how many groups of neighbours the channels are divided.
        num_channels: the size of the axis before space, divisible by `num_groups`.
        spatial_dims: how many axes follow the channels: 0 for features, 1 for
            sequences, 2 for images, 3 for volumes.
        eps: what keeps the division finite, 0 or above.
        affine: whether the channels are scaled and shifted afterwards.

    Returns:
        A layer.
        Its params are "weight" and "bias", of shape `(num_channels,)`, ones and zeros
        at first, or `()` without `affine`. Its `apply` raises `ValueError` for params
        or an input of other shapes or a group of a single value, and `TypeError` for an
        input that is not floating-point or differs from the params in dtype or device.

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, a negative
            `eps`, or `spatial_dims` outside 0 to 3.
        TypeError: a size that is no integer, or `eps` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.group_norm(2, 4, spatial_dims=0, affine=False)
        >>> layer.apply((), torch.tensor([3.0, 7.0, 5.0, 1.0])).round(decimals=4)
        tensor([-1.,  1.,  1., -1.])

    Source: Wu and He, Group Normalization (2018), equations 1 and 7,
    arXiv 1803.08494.
    """
    name = "group_norm"
    _checks.size(name, "num_groups", num_groups)
    if _checks.size(name, "num_channels", num_channels) % num_groups:
        raise ValueError(
            f"nn.group_norm: num_groups: expected a divisor of num_channels="
            f"{num_channels}, got {num_groups}. Choose a divisor."
        )
    _norm_axes.check_rank(name, spatial_dims)
    return _grouped(name, num_groups, num_channels, spatial_dims, eps, affine)


def instance_norm(
    num_features: int,
    *,
    spatial_dims: int,
    eps: float = 1e-5,
    affine: bool = False,
) -> Layer:
    """`(x - mean) / sqrt(var + eps)` of each channel of a sample, over space.

    From `(..., num_features, *space)` to the same shape, with any leading axes, none of
    them too. It is `group_norm` with one channel in each group, and like there training
    and evaluation are the same: there are no running statistics.

    Args:
        num_features: the number of channels, the size of the axis before space.
        spatial_dims: how many axes follow the channels: 1 for sequences, 2 for images,
            3 for volumes.
        eps: what keeps the division finite, 0 or above.
        affine: whether the channels are scaled and shifted afterwards.

    Returns:
        A layer.
        Its params are `()`, or with `affine` "weight" and "bias", of shape
        `(num_features,)`, ones and zeros at first. Its `apply` raises `ValueError` for
        params or an input of other shapes or of a single position, and `TypeError` for
        an input that is not floating-point or differs from the params in dtype or
        device.

    Raises:
        ValueError: a size below 1, a negative `eps`, or `spatial_dims` outside 1 to 3.
        TypeError: a size that is no integer, or `eps` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.instance_norm(2, spatial_dims=1)
        >>> x = torch.tensor([[3.0, 7.0], [50.0, 10.0]])
        >>> layer.apply((), x).round(decimals=4)
        tensor([[-1.,  1.],
                [ 1., -1.]])

    Source: Ulyanov, Vedaldi and Lempitsky, Instance Normalization (2016), equation 2,
    arXiv 1607.08022.
    """
    name = "instance_norm"
    _checks.size(name, "num_features", num_features)
    _norm_axes.check_rank(name, spatial_dims, minimum=1)
    return _grouped(name, num_features, num_features, spatial_dims, eps, affine)


def groups_for(channels: int, at_most: int = 32) -> int:
    """The largest number of equal groups of at least two channels.

    32 is the number of Wu and He; a group of one channel would have no variance where
    there is one position.
    """
    limit = max(1, min(at_most, channels // 2))
    return max(g for g in range(1, limit + 1) if channels % g == 0)


def _grouped(
    name: str, groups: int, channels: int, spatial_dims: int, eps: float, affine: bool
) -> Layer:
    _norm_axes.check_eps(name, eps)
    shapes = _norm_axes.affine_shapes(channels, affine)

    def init(key: Tensor) -> Any:
        return _norm_axes.affine_init(key, shapes) if affine else ()

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _norm_axes.check_channels(name, x, channels, spatial_dims)
        size = channels // groups * _norm_axes.space_of(x, spatial_dims)
        if size < 2:
            raise ValueError(
                f"nn.{name}: x: expected more than one value in each group, got shape "
                f"{tuple(x.shape)} with {channels // groups} of the channels in each. "
                "One value has no variance: choose fewer groups or more positions."
            )
        # As a layer norm, which has every derivative and takes any leading axes.
        lead = x.shape[: x.ndim - 1 - spatial_dims]
        y = standardized(x.reshape(*lead, groups, size), (size,), eps)
        y = y.reshape(x.shape)
        if not affine:
            _checks.no_params(name, params)
            return y
        weight, bias = _checks.params(name, params, shapes)
        _checks.same_kind(name, x, weight)
        return _norm_axes.affine(y, weight, bias, spatial_dims)

    return Layer(init, apply)
