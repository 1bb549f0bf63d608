# SPDX-License-Identifier: Apache-2.0
"""Dropout inside a module: torch's functions, with masks drawn from a key.

A rule is called as `rule(new_key, func, *args, **kwargs)` with the arguments of `func`,
and gets a key by `new_key(what)`, which raises where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn._attention import attention

NewKey = Callable[[str], Tensor]


def _keep(new_key: NewKey, what: str, p: float, shape: Any) -> Tensor:
    return random.bernoulli(new_key(what), 1 - p, tuple(shape))


Keep = Callable[[Any], Tensor]
"""From a shape to what is kept."""


def _while_training(
    drop: Callable[[Keep, Tensor, float], Tensor], *, default: bool = True
) -> Callable[..., Tensor]:
    """A rule with torch's arguments, whose `train` has this default."""

    def rule(
        new_key: NewKey,
        func: Any,
        input: Tensor,  # noqa: A002
        p: float = 0.5,
        train: bool = default,
        inplace: bool = False,
        *,
        training: bool | None = None,
    ) -> Tensor:
        if not (train if training is None else training) or p == 0:
            return input
        if p == 1:
            return torch.zeros_like(input)
        what = f"F.{func.__name__}"
        return drop(lambda shape: _keep(new_key, what, p, shape), input, p)

    return rule


def _dropout(keep: Keep, x: Tensor, p: float) -> Tensor:
    return torch.where(keep(x.shape), x / (1 - p), 0.0)


def _channel_dropout(rank: int) -> Callable[[Keep, Tensor, float], Tensor]:
    """Whole channels are dropped; without a batch axis where `x` has `rank`."""

    def drop(keep: Keep, x: Tensor, p: float) -> Tensor:
        axes = 1 if x.ndim == rank else 2
        shape = [*x.shape[:axes], *[1] * (x.ndim - axes)]
        return torch.where(keep(shape), x / (1 - p), 0.0)

    return drop


# The negative saturation value of SELU; Klambauer et al., Self-Normalizing Neural
# Networks (2017), section 3, "alpha dropout", arXiv:1706.02515.
_SATURATION = -1.7580993408473766


def _alpha_dropout(keep: Keep, x: Tensor, p: float) -> Tensor:
    a = 1 / math.sqrt((_SATURATION**2 * p + 1) * (1 - p))
    return torch.where(keep(x.shape), x, _SATURATION) * a - a * p * _SATURATION


def _feature_alpha_dropout(keep: Keep, x: Tensor, p: float) -> Tensor:
    shape = [*x.shape[:2], *[1] * (x.ndim - 2)]
    return _alpha_dropout(lambda _: keep(shape), x, p)


def _attention(  # noqa: PLR0913, PLR0917 - torch's signature
    new_key: NewKey,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p == 0 and not torch._C._are_functorch_transforms_active():
        # The module's own call: for a query that sees nothing `attention` does more.
        return func(
            query,
            key,
            value,
            attn_mask=attn_mask,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    no_heads = query.ndim == key.ndim == value.ndim == 2
    if not enable_gqa:  # heads broadcast as other leading axes do
        lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
        lead = lead or (1,)  # one head
        query, key, value = (
            x.expand(*lead, *x.shape[-2:]) for x in (query, key, value)
        )
    what = "F.scaled_dot_product_attention with dropout"
    y = attention(
        query,
        key,
        value,
        mask=attn_mask,
        is_causal=is_causal,
        scale=scale,
        dropout=dropout_p,
        dropout_key=new_key(what) if 0 < dropout_p < 1 else None,
    )
    return y.squeeze(0) if no_heads else y


def _rrelu(
    new_key: NewKey,
    func: Any,
    input: Tensor,  # noqa: A002
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    if not training:
        return torch.where(input < 0, input * ((lower + upper) / 2), input)
    slope = random.uniform(
        new_key("F.rrelu"), tuple(input.shape), input.dtype, lower, upper
    )
    return torch.where(input < 0, input * slope, input)


DROPOUT_RULES: dict[str, Callable[..., Any]] = {
    "dropout": _while_training(_dropout),
    "dropout_": _while_training(_dropout),
    "dropout1d": _while_training(_channel_dropout(rank=2)),
    "dropout2d": _while_training(
        _channel_dropout(rank=0)
    ),  # torch takes (C, H, W) for (N, C, L)
    "dropout3d": _while_training(_channel_dropout(rank=4)),
    "feature_dropout": _while_training(_channel_dropout(rank=0)),
    "alpha_dropout": _while_training(_alpha_dropout, default=False),
    "feature_alpha_dropout": _while_training(_feature_alpha_dropout, default=False),
    "scaled_dot_product_attention": _attention,
    "rrelu": _rrelu,
}
