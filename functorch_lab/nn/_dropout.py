# SPDX-License-Identifier: Apache-2.0
"""Noise that training adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _checks, _space
from functorch_lab.types import Layer


def dropout(p: float = 0.5) -> Layer:
    """Sets each element to 0 with probability `p`, and divides the others by `1 - p`.

    Only with `train=True`; otherwise it is the identity. The mask is a function of the
    key: give every step a new one, and under `vmap` every sample its own.

    Args:
        p: the share that is dropped, in [0, 1].

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` when it trains without
        a key, and `TypeError` unless the input is floating-point.

    Raises:
        ValueError: `p` is outside [0, 1].
        TypeError: `p` is no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> x, key = torch.ones(10_000), fl.random.key(0)
        >>> y = fl.nn.dropout(0.2).apply((), x, key=key, train=True)
        >>> y.max(), round((y > 0).float().mean().item(), 1)
        (tensor(1.2500), 0.8)

    Source: Srivastava et al., Dropout (2014), section 10 (the inverted form),
    JMLR 15:1929-1958.
    """

    def mask_shape(x: Tensor) -> tuple[int, ...]:
        _checks.floating("dropout", x)
        return tuple(x.shape)

    return _dropout("dropout", p, mask_shape)


def dropout2d(p: float = 0.5) -> Layer:
    """`dropout` of whole channels: each image `(H, W)` of `(..., C, H, W)` is one unit.

    Neighbouring pixels say nearly the same, so that dropping them one by one takes
    little away. The key is used as `dropout` uses it: one number for each channel.

    Args:
        p: the share of the channels that is dropped, in [0, 1].

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` when it trains without
        a key or the input has fewer than 3 axes, and `TypeError` unless the input is
        floating-point.

    Raises:
        ValueError: `p` is outside [0, 1].
        TypeError: `p` is no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> x, key = torch.ones(100, 7, 2, 2), fl.random.key(0)
        >>> y = fl.nn.dropout2d(0.2).apply((), x, key=key, train=True)
        >>> sorted(set(y.mean((-2, -1)).flatten().tolist()))  # all or none
        [0.0, 1.25]

    Source: Tompson et al., Efficient Object Localization Using Convolutional Networks
    (2014), section 3.2 (SpatialDropout), arXiv 1411.4280.
    """

    def mask_shape(x: Tensor) -> tuple[int, ...]:
        _space.check("dropout2d", x, 2)
        return (*x.shape[:-2], 1, 1)

    return _dropout("dropout2d", p, mask_shape)


def _dropout(
    name: str, p: float, mask_shape: Callable[[Tensor], tuple[int, ...]]
) -> Layer:
    """Drops what shares a number of the mask together."""
    p = _checks.probability(name, "p", p)

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params(name, params)
        shape = mask_shape(x)
        if not train or p == 0:
            return x
        if key is None:
            raise ValueError(
                f"nn.{name}: key: expected a key with train=True, got None. Pass key= "
                "to apply, a new one for each step, from fl.random.split."
            )
        if p == 1:
            return torch.zeros_like(x)
        keep = random.bernoulli(key, 1 - p, shape)
        return torch.where(keep, x / (1 - p), 0.0)

    return Layer(lambda key: (), apply)
