# SPDX-License-Identifier: Apache-2.0
"""Which position looks at which, and what attention keeps for later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn._attention import attention

Attend = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], tuple[Tensor, Any]]
"""From queries, keys and values of heads, and dropout, to a result and what is kept."""


def all_see(mask: Tensor | None) -> Attend:
    """Every position looks at all that the mask, `(..., T)`, has."""
    visible = None if mask is None else mask[..., None, None, :]

    def attend(
        query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, None]:
        return attention(query, key, value, mask=visible, **options), None

    return attend


def causal(mask: Tensor | None) -> Attend:
    """Every position looks at itself, and at those before it that the mask has."""
    visible = None
    if mask is not None:
        here = torch.arange(mask.shape[-1], device=mask.device)
        # Also padding looks at itself: a softmax of something, whatever the padding.
        own = here == here[:, None]
        seen = (here <= here[:, None]) & (mask[..., None, :] | own)
        visible = seen[..., None, :, :]

    def attend(
        query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, None]:
        is_causal = visible is None
        y = attention(query, key, value, mask=visible, is_causal=is_causal, **options)
        return y, None

    return attend
