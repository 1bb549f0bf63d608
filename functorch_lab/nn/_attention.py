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
    blind = None
    if mask is not None:
        if mask.dtype != torch.bool:
            mask = mask.to(query.dtype)
        if is_causal:  # torch refuses both
            mask = _and_causal(mask, _causal(query, key))
        mask, blind = _with_sight(mask)
    is_causal = is_causal and mask is None
    if dropout or torch._C._are_functorch_transforms_active():
        y = _written_out(
            query, key, value, mask, is_causal, scale, dropout, dropout_key
        )
    else:
        y = _fused(query, key, value, mask, is_causal, scale)
    return y if blind is None else torch.where(blind, 0.0, y)


def _with_sight(mask: Tensor) -> tuple[Tensor, Tensor]:
    """A mask by which every query sees something, and which ones do not in truth.

    What becomes of a query that sees nothing, and of its gradient, depends on the
    kernel; written out, it is 0 / 0.
    """
    if mask.dtype == torch.bool:
        blind = ~mask.any(-1, keepdim=True)
        return mask | blind, blind
    blind = (mask == -torch.inf).all(-1, keepdim=True)
    return torch.where(blind, 0.0, mask), blind


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
        mask = mask[(None,) * (len(lead) + 3 - mask.ndim)]
        shared = math.prod(mask.shape[:-3]) == 1
        mask = _four_axes(mask, mask.shape[:-3] if shared else lead)
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and query.device.type != "cpu":
            # With both a mask and shared heads, CUDA has no fused kernel.
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    y = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=is_causal,
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
    if is_causal:
        mask = _causal(query, key)
    if mask is not None:
        is_bool = mask.dtype == torch.bool
        scores = torch.where(mask, scores, -torch.inf) if is_bool else scores + mask
    weights = torch.softmax(scores, -1)
    if dropout:
        weights = _dropped(weights, dropout, dropout_key)
    y = weights.reshape(*weights.shape[:-3], *folded, key.shape[-2]) @ value
    return y.reshape(*y.shape[:-3], heads, length, value.shape[-1])


def _causal(query: Tensor, key: Tensor) -> Tensor:
    rows = torch.arange(query.shape[-2], device=query.device)
    return torch.arange(key.shape[-2], device=query.device) <= rows[:, None]


def _and_causal(mask: Tensor, causal: Tensor) -> Tensor:
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
