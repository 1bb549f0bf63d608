# SPDX-License-Identifier: Apache-2.0
"""Normalisation by the statistics of a batch, with running ones in a state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.nn import _checks, _norm_axes, _norm_state
from functorch_lab.nn._batched import batch_levels
from functorch_lab.nn._stateful import no_state
from functorch_lab.types import StatefulLayer

_NAME = "batch_norm"


def batch_norm(
    num_features: int,
    *,
    spatial_dims: int,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    affine: bool = True,
    track_running_stats: bool = True,
) -> StatefulLayer:
    """`(x - mean) / sqrt(var + eps)` of each channel, then an affine map.

    From `(..., num_features, *space)` to the same shape. With `train=True` mean and
    (biased) variance are those of the batch, over all leading axes and space, and the
    new state is `(1 - momentum) * old + momentum * batch`, where the batch's variance
    is the unbiased one. Otherwise they are those of the state, which stays, and any
    leading axes will do, none of them too.

    The samples of a batch depend on one another, so that there is no gradient of one
    sample: under `vmap`, training takes a batch for each of many models, and refuses to
    map over samples, which is an `x` that is mapped while neither params nor state are.
    It is checked in eager mode and by `fl.jit`. Where every sample is to be treated
    alone use `group_norm`, or `train=False`.

    Args:
        num_features: the number of channels, the size of the axis before space.
        spatial_dims: how many axes follow the channels: 0 for features, 1 for
            sequences, 2 for images, 3 for volumes.
        eps: what keeps the division finite, 0 or above.
        momentum: the weight of the newest batch in the running statistics, in [0, 1];
            `None` makes them the mean over all batches so far.
        affine: whether the channels are scaled and shifted afterwards.
        track_running_stats: whether there is a state; without it the statistics are
            always those of the batch.

    Returns:
        A stateful layer.
        Its params are "weight" and "bias", of shape `(num_features,)`, ones and zeros
        at first, or `()` without `affine`. Its state is "running_mean" and
        "running_var", of that shape, zeros and ones at first, and
        "num_batches_tracked", an integer of shape `()`, or `()` without
        `track_running_stats`. Its `apply` raises `ValueError` for params, a state or an
        input of other shapes, for a batch of one value per channel in training and for
        training under `vmap` over samples; and `TypeError` for an input that is not
        floating-point, differs from the params in dtype or device, or is more precise
        than the state.

    Raises:
        ValueError: a size below 1, a negative `eps`, `momentum` outside [0, 1], or
            `spatial_dims` outside 0 to 3.
        TypeError: a size that is no integer, or `eps` or `momentum` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.batch_norm(1, spatial_dims=0, momentum=0.5)
        >>> params, state = layer.init(fl.random.key(0))
        >>> x = torch.tensor([[3.0], [7.0]])
        >>> y, state = layer.apply(params, state, x, train=True)
        >>> y.round(decimals=4).tolist(), state["running_mean"], state["running_var"]
        ([[-1.0], [1.0]], tensor([2.5000]), tensor([4.5000]))

    Source: Ioffe and Szegedy, Batch Normalization (2015), algorithms 1 and 2,
    arXiv 1502.03167.
    """
    _checks.size(_NAME, "num_features", num_features)
    _norm_axes.check_rank(_NAME, spatial_dims)
    _norm_axes.check_eps(_NAME, eps)
    _check_momentum(momentum)
    shapes = _norm_axes.affine_shapes(num_features, affine)

    def init(key: Tensor) -> tuple[Any, Any]:
        params = _norm_axes.affine_init(key, shapes) if affine else ()
        if not track_running_stats:
            return params, ()
        return params, _norm_state.init(key, num_features)

    def apply(
        params: Any,
        state: Any,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, Any]:
        _norm_axes.check_channels(_NAME, x, num_features, spatial_dims)
        if affine:
            weight, bias = _checks.params(_NAME, params, shapes)
            _checks.same_kind(_NAME, x, weight)
        else:
            _checks.no_params(_NAME, params)
            weight = bias = None
        if track_running_stats:
            _norm_state.check(_NAME, state, num_features, x)
        else:
            no_state(_NAME, state)
        # As torch does, statistics of half precision are taken in float32.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if train or not track_running_stats:
            _check_batch(x, spatial_dims, params, state)
            axes = [i for i in range(x.ndim) if i != x.ndim - 1 - spatial_dims]
            var, mean = torch.var_mean(wide, axes, correction=0)
            if track_running_stats:
                count = x.numel() // num_features
                state = _norm_state.updated(state, mean, var, count, momentum)
        else:
            mean, var = state["running_mean"], state["running_var"]
        y = normalised(
            wide, mean, var, weight, bias, eps=eps, spatial_dims=spatial_dims
        )
        return y.to(x.dtype), state

    return StatefulLayer(init, apply)


def normalised(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    spatial_dims: int,
) -> Tensor:
    """`(x - mean) / sqrt(var + eps) * weight + bias`, with every derivative.

    That of F.batch_norm is wrong from the third on.
    """
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    # The mean is subtracted as a constant, and its difference to itself, 0, by
    # channel: so its gradient needs no sum over the batch beside that of the bias.
    center = mean.detach()
    shift = (center - mean) * scale
    if bias is not None:
        shift = shift + bias
    center, scale, shift = (
        _norm_axes.along_channels(v, spatial_dims) for v in (center, scale, shift)
    )
    return (x - center) * scale + shift


def _check_momentum(momentum: object) -> None:
    if momentum is None:
        return
    if not isinstance(momentum, int | float) or isinstance(momentum, bool):
        raise TypeError(
            "nn.batch_norm: momentum: expected a number in [0, 1] or None, got "
            f"{type(momentum).__name__}. Configuration is given when the layer is made."
        )
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"nn.batch_norm: momentum: expected a number in [0, 1], got {momentum}. It "
            "is the weight of the newest batch in the running statistics."
        )


_ALONE = "train=False, or nn.group_norm, which treats every sample alone."


def _check_batch(x: Tensor, spatial_dims: int, params: Any, state: Any) -> None:
    """`x` is a batch that has statistics.

    Raises:
        ValueError: it is one sample, one of those that `vmap` maps over, or a batch of
            one value per channel.
    """
    # Dynamo cannot look; jit looks before it compiles.
    if not torch.compiler.is_dynamo_compiling():
        own = [batch_levels(leaf) for leaf in tree.leaves((params, state))]
        if not batch_levels(x) <= set().union(*own):
            raise ValueError(
                "nn.batch_norm: x: expected a whole batch with train=True, got one "
                "sample of a vmap, whose params and state are not mapped. Call it on "
                "the batch outside of vmap, map params or state too (one for each "
                f"model), or use {_ALONE}"
            )
    channels = x.shape[-1 - spatial_dims]
    if x.ndim < spatial_dims + 2:
        shape = _norm_axes.layout(channels, spatial_dims, "batch")
        raise ValueError(
            f"nn.batch_norm: x: expected a batch, of shape {shape}, with train=True, "
            f"got one sample, {tuple(x.shape)}. Give a batch, or use {_ALONE}"
        )
    if x.numel() < 2 * channels:
        raise ValueError(
            "nn.batch_norm: x: expected more than one value per channel with "
            f"train=True, got shape {tuple(x.shape)}. Give a larger batch (drop the "
            f"rest of an epoch), or use {_ALONE}"
        )
