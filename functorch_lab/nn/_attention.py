# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention, in the form that is fast and right where it is called.

torch's fused kernels have no second and no forward derivatives, and under vmap they
run one sample after another or have no backward rule. So they are used at the
outermost level alone, where a gradient is one backward pass; inside of a transform, and
with dropout, which they would draw from the global generator, attention is written out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab import random


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    dropout_key: Tensor | None = None,
) -> Tensor:
    """`softmax(scale * query @ key.mT + mask) @ value`, from checked tensors.

    Query is `(..., H, L, E)`, key `(..., Hkv, S, E)`, value `(..., Hkv, S, Ev)`, the
    result `(..., H, L, Ev)`; leading axes broadcast, and `H / Hkv` consecutive query
    heads share a head of the keys. The mask broadcasts to `(..., H, L, S)`: booleans,
    True where a query may look, or numbers that are added. `is_causal` aligns the first
    query with the first key, as torch does, and goes together with a mask. A query that
    may look at nothing gets 0. `dropout_key` is needed for `dropout` in (0, 1).
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)
    if dropout or torch._C._are_functorch_transforms_active():
        return _written_out(
            query, key, value, mask, is_causal, scale, dropout, dropout_key
        )
    return _fused(query, key, value, mask, is_causal, scale)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    # With other than 4 axes, torch chooses a slower kernel.
    tensors = query, key, value
    lead = torch.broadcast_shapes(*(x.shape[:-3] for x in tensors))
    query, key, value = (_four_axes(x, lead) for x in tensors)
    if mask is not None:
        # torch refuses a mask beside is_causal.
        mask = _with_causal(mask, query, key) if is_causal else mask
        mask = mask[(None,) * (len(lead) + 3 - mask.ndim)]
        shared = math.prod(mask.shape[:-3]) == 1
        mask = _four_axes(mask, mask.shape[:-3] if shared else lead)
    y = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=is_causal and mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return y.reshape(*lead, *y.shape[1:])


def _four_axes(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    last = x.shape[-3:]
    return x.expand(*lead, *last).reshape(math.prod(lead), *last)


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    dropout: float,
    dropout_key: Tensor | None,
) -> Tensor:
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    heads, length, size = query.shape[-3:]
    # Query heads that share a head of the keys are rows of one product.
    folded = key.shape[-3], heads // key.shape[-3] * length
    scores = (query * scale).reshape(*query.shape[:-3], *folded, size) @ key.mT
    scores = scores.reshape(*scores.shape[:-3], heads, length, key.shape[-2])
    blind = None
    if is_causal:
        mask = _with_causal(mask, query, key)
    if mask is not None:
        is_bool = mask.dtype == torch.bool
        scores = torch.where(mask, scores, -torch.inf) if is_bool else scores + mask
        blind = ~mask if is_bool else mask == -torch.inf
        blind = blind.all(-1, keepdim=True)
        scores = torch.where(blind, 0.0, scores)  # no 0 / 0 in the softmax
    weights = torch.softmax(scores, -1)
    if blind is not None:
        weights = torch.where(blind, 0.0, weights)
    if dropout:
        weights = _dropped(weights, dropout, dropout_key)
    y = weights.reshape(*weights.shape[:-3], *folded, key.shape[-2]) @ value
    return y.reshape(*y.shape[:-3], heads, length, value.shape[-1])


def _with_causal(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    rows = torch.arange(query.shape[-2], device=query.device)
    columns = torch.arange(key.shape[-2], device=query.device)
    causal = columns <= rows[:, None]
    if mask is None:
        return causal
    if mask.dtype == torch.bool:
        return mask & causal
    return torch.where(causal, mask, -torch.inf)


def _dropped(weights: Tensor, dropout: float, key: Tensor | None) -> Tensor:
    """Weights, some of them 0 and the others larger.

    Raises:
        ValueError: there is no key to draw from.
    """
    if dropout == 1:
        return torch.zeros_like(weights)
    if key is None:
        raise ValueError(
            "nn.attention: dropout_key: expected a key with dropout, got None. Pass "
            "the layer's key on."
        )
    keep = random.bernoulli(key, 1 - dropout, tuple(weights.shape))
    return torch.where(keep, weights / (1 - dropout), 0.0)
