# SPDX-License-Identifier: Apache-2.0
"""The type of a model of sequences that can be continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from functorch_lab.nn._transformer_cache import KVCache
from functorch_lab.types import Layer


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel(Layer):
    """A layer from tokens to logits that also continues a sequence, for `generate`.

    Attributes:
        init: `params = init(key)`.
        apply: `logits = apply(params, tokens, *, mask=None, key=None, train=False)`.
        init_cache: `cache = init_cache(params, batch_shape=(), *, length=None)`: a
            `KVCache` of no tokens with room for `length`, by default `max_length`.
            `ValueError` for params of another model or a size that is too small.
        extend: `logits, cache = extend(params, cache, tokens, *, mask=None,
            last=False)`: the logits of further tokens, of a whole prompt or one at a
            time, as `apply` would give them for all tokens so far; with `last`, of the
            last real token of each sequence alone. It is pure, and how full the cache
            is makes no difference for `jit`; so it is not checked either, and tokens
            beyond the cache's length are not kept. `ValueError` and `TypeError` for
            what `apply` refuses, and for a cache of another model or batch.
        vocab_size: number of different tokens.
        max_length: of a sequence.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.transformer(7, 8, 1, 2, max_length=5)
        >>> params, tokens = model.init(fl.random.key(0)), torch.tensor([2, 3, 5])
        >>> cache = model.init_cache(params)
        >>> prompt, cache = model.extend(params, cache, tokens[:2])
        >>> one, cache = model.extend(params, cache, tokens[2:])
        >>> torch.allclose(torch.cat([prompt, one]), model.apply(params, tokens))
        True
    """

    init_cache: Callable[..., KVCache]
    extend: Callable[..., tuple[Tensor, KVCache]]
    vocab_size: int
    max_length: int
