# SPDX-License-Identifier: Apache-2.0
"""Attention without parameters, in a form that vmap takes as it is."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._tape import Tape, rule_for


@rule_for("scaled_dot_product_attention", inside=True)
def attention(
    tape: Tape,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *args: Any,
    enable_gqa: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """Heads and other leading axes as one axis.

    Of four axes torch takes its fused kernels, which under vmap run one sample after
    another, or have no backward rule; of three it multiplies matrices.
    """
    if query.ndim < 4:
        return None
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
    query, key, value = (_three_axes(x, lead) for x in (query, key, value))
    if attn_mask is not None and attn_mask.ndim > 2:
        attn_mask = _three_axes(attn_mask, lead)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)
    return y.reshape(*lead, *y.shape[-2:])


def _three_axes(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    return x.expand(*lead, *x.shape[-2:]).reshape(-1, *x.shape[-2:])
