# SPDX-License-Identifier: Apache-2.0
"""The parts of a language model, put together for whole sequences and for more."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _checks, _rotary
from functorch_lab.nn._transformer_attend import causal
from functorch_lab.nn._transformer_block import Block, dropped
from functorch_lab.nn._transformer_cache import (
    Extension,
    KVCache,
    blank,
    positions_of,
    rotated,
)
from functorch_lab.nn._transformer_checks import (
    check_blocks,
    check_cache,
    check_mask,
    check_names,
    check_tokens,
    needed_key,
)
from functorch_lab.transforms import checkpoint
from functorch_lab.types import Layer

_OF = "transformer"


@dataclass(frozen=True)
class Decoder:
    """The model.

    Attributes:
        layers: those outside of the blocks, by name.
        add: the layer that adds positions without params.
        rotary_base: of rotary positions.
        remat: whether a block is computed again in the backward pass.
    """

    block: Block
    num_layers: int
    max_length: int
    layers: dict[str, Layer]
    add: Layer | None
    rotary_base: float | None
    remat: bool

    def init(self, key: Tensor) -> dict[str, Any]:
        keys = random.split(key, self.num_layers + len(self.layers)).unbind()
        blocks = tuple(self.block.init(k) for k in keys[: self.num_layers])
        rest = zip(self.layers.items(), keys[self.num_layers :], strict=True)
        return {"blocks": blocks, **{name: layer.init(k) for (name, layer), k in rest}}

    def apply(
        self,
        params: Any,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Tensor:
        self._check(params, tokens, mask)
        key = needed_key(_OF, self.block.dropout, key, train)
        number = self.num_layers + 1
        keys = (None,) * number if key is None else random.split(key, number).unbind()
        positions = None if mask is None else positions_of(mask)
        x = self._embedded(params, tokens, positions)
        x = dropped(x, self.block.dropout, keys[-1])
        attend = rotated(self._rotate(x, positions), causal(mask))

        def layer(p: Any, x: Tensor, k: Tensor | None) -> Tensor:
            return self.block.apply(p, x, attend, k)[0]

        layer = checkpoint(layer) if self.remat else layer
        for p, k in zip(params["blocks"], keys[:-1], strict=True):
            x = layer(p, x, k)
        return self._logits(params, x)

    def init_cache(
        self,
        params: Any,
        batch_shape: int | Sequence[int] = (),
        *,
        length: int | None = None,
    ) -> KVCache:
        self._check_names(params)
        one = isinstance(batch_shape, int)
        batch = (batch_shape,) if one else tuple(batch_shape)
        for size in batch:
            _checks.size("transformer.init_cache", "batch_shape", size, 0)
        length = self.max_length if length is None else length
        _checks.size("transformer.init_cache", "length", length)
        like = params["tokens"]["weight"]
        return blank(like, self.num_layers, batch, length, *self._heads)

    def extend(
        self,
        params: Any,
        cache: KVCache,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        last: bool = False,
    ) -> tuple[Tensor, KVCache]:
        self._check(params, tokens, mask)
        dtype = params["tokens"]["weight"].dtype
        check_cache(cache, tokens, self.num_layers, self._heads, dtype)
        more = Extension(cache, tokens.shape[-1], mask)
        x = self._embedded(params, tokens, more.positions)
        rotate = self._rotate(x, more.positions)
        kept = []
        for p, k, v in zip(params["blocks"], cache.keys, cache.values, strict=True):
            x, kv = self.block.apply(p, x, rotated(rotate, more.attend(k, v)), None)
            kept.append(kv)
        if last:
            x = _last(x, mask)
        keys, values = zip(*kept, strict=True)
        return self._logits(params, x), KVCache(keys, values, more.mask, more.used)

    @property
    def _heads(self) -> tuple[int, int]:
        """How many of keys and values there are, and their features."""
        return self.block.kv_heads, self.block.head_dim

    def _check_names(self, params: Any) -> None:
        check_names(_OF, "params", params, {"blocks": (), **self.layers})
        check_names(_OF, "params['tokens']", params["tokens"], {"weight": ()})
        check_blocks(_OF, params["blocks"], self.num_layers)

    def _check(self, params: Any, tokens: Tensor, mask: Tensor | None) -> None:
        self._check_names(params)
        check_tokens(_OF, tokens, self.max_length)
        check_mask(_OF, mask, tokens)

    def _embedded(
        self, params: Any, tokens: Tensor, positions: Tensor | None
    ) -> Tensor:
        x = self.layers["tokens"].apply(params["tokens"], tokens)
        if "positions" in self.layers:
            table = params["positions"]
            return self.layers["positions"].apply(table, x, positions)
        return x if self.add is None else self.add.apply((), x, positions)

    def _rotate(
        self, x: Tensor, positions: Tensor | None
    ) -> Callable[[Tensor], Tensor] | None:
        """The rotation of heads at these positions, its angles computed once."""
        if self.rotary_base is None:
            return None
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        else:
            positions = positions.unsqueeze(-2)  # the same for all heads
        head = x[..., : self.block.head_dim]
        angles = _rotary.rotation(positions, self.rotary_base, head)
        return functools.partial(_rotary.turned, cos_sin=angles)

    def _logits(self, params: Any, x: Tensor) -> Tensor:
        x = self.layers["norm"].apply(params["norm"], x)
        if "head" in self.layers:
            return self.layers["head"].apply(params["head"], x)
        return F.linear(x, params["tokens"]["weight"])


def _last(x: Tensor, mask: Tensor | None) -> Tensor:
    """Of `(..., T, features)`, the features of each sequence's last real token."""
    if mask is None:
        return x[..., -1, :]
    place = mask.long().cumsum(-1).argmax(-1)  # the first of those with the full count
    index = place[..., None, None].expand(*place.shape, 1, x.shape[-1])
    return x.gather(-2, index).squeeze(-2)
