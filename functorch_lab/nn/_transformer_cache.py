# SPDX-License-Identifier: Apache-2.0
"""Keys and values of the tokens so far, in tensors whose size never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab.nn._attention import attention
from functorch_lab.nn._transformer_attend import Attend


class KVCache(NamedTuple):
    """What a `LanguageModel` keeps of the tokens that it has seen: a tree of tensors.

    Slots are filled from the first on, the same ones for all sequences.
    """

    keys: tuple[Tensor, ...]
    """Of each layer `(*batch_shape, num_kv_heads, length, head_dim)`, with rotary
    positions already applied."""
    values: tuple[Tensor, ...]
    """The same of the values."""
    mask: Tensor
    """`(*batch_shape, length)`, True at the slots that hold a real token."""
    used: Tensor
    """How many slots are filled, padding included, a 0-d integer."""


def blank(
    like: Tensor, layers: int, batch: tuple[int, ...], length: int, heads: int, dim: int
) -> KVCache:
    """A cache of no tokens, with the dtype and device of a parameter."""

    def zeros() -> tuple[Tensor, ...]:
        # One tensor each: donated memory stands at one place.
        return tuple(like.new_zeros(*batch, heads, length, dim) for _ in range(layers))

    mask = like.new_zeros((*batch, length), dtype=torch.bool)
    return KVCache(zeros(), zeros(), mask, like.new_zeros((), dtype=torch.int64))


class Extension:
    """Where `n` new tokens go in a cache, and what they see of it.

    Written with comparisons of positions instead of indices, so that nothing depends on
    how full the cache is, and what is beyond its end is left out.

    Attributes:
        positions: of the new tokens among the real ones, `(*batch_shape, n)`.
        mask: of the slots afterwards.
        used: slots afterwards.
    """

    def __init__(self, cache: KVCache, n: int, mask: Tensor | None) -> None:
        slots = torch.arange(cache.mask.shape[-1], device=cache.mask.device)
        new = torch.arange(n, device=cache.mask.device)
        offset = slots - cache.used
        self._is_new = (offset >= 0) & (offset < n)
        self._source = offset.clamp(0, n - 1)
        self.used = cache.used + n
        before = cache.mask.sum(-1, keepdim=True)
        if mask is None:
            self.positions = before + new
            self.mask = cache.mask | self._is_new
        else:
            self.positions = positions_of(mask, before)
            real = mask.index_select(-1, self._source)
            self.mask = torch.where(self._is_new, real, cache.mask)
        own = new[:, None] + cache.used  # the slot of each new token
        seen = (slots <= own) & (self.mask[..., None, :] | (slots == own))
        self._visible = seen[..., None, :, :]

    def attend(self, keys: Tensor, values: Tensor) -> Attend:
        """Attention of the new tokens to all of one layer, which is kept."""

        def attend(
            query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
        ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            kept = self._written(keys, key), self._written(values, value)
            return attention(query, *kept, mask=self._visible, **options), kept

        return attend

    def _written(self, old: Tensor, new: Tensor) -> Tensor:
        if new.shape[-2] != 1:
            new = new.index_select(-2, self._source)
        return torch.where(self._is_new[:, None], new, old)


def positions_of(mask: Tensor, before: Tensor | int = 0) -> Tensor:
    """Padding does not count: positions of the real tokens of `mask`, `(..., T)`."""
    return (before + mask.cumsum(-1) - 1).clamp(min=0)


def rotated(rotate: Callable[[Tensor], Tensor] | None, attend: Attend) -> Attend:
    """`attend` of queries and keys that know their positions."""
    if rotate is None:
        return attend
    return lambda query, key, value, options: attend(
        rotate(query), rotate(key), value, options
    )
