# SPDX-License-Identifier: Apache-2.0
"""Which token comes next: one draw for each sequence from the logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.transforms import vmap


class Draw(NamedTuple):
    """How a token is drawn; the numbers may be 0-d tensors.

    Attributes:
        keys: `(..., 2)`, one for each sequence; without them the best token is taken.
        number: of the draw, which makes new keys.
    """

    keys: Tensor | None
    number: int | Tensor
    temperature: float | Tensor
    top_p: float | Tensor | None


def chosen(logits: Tensor, draw: Draw, top_k: int | None) -> Tensor:
    """Tokens `(...)` from logits `(..., V)`.

    Of the `top_k` most probable tokens, the fewest whose probabilities reach `top_p`.
    """
    if draw.keys is None:
        return logits.argmax(-1)
    # Half precision has too few digits for the noise.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(dtype) / draw.temperature
    if top_k is None and draw.top_p is None:
        return _drawn(draw.keys, draw.number, logits)
    best, tokens = logits.topk(logits.shape[-1] if top_k is None else top_k)
    if draw.top_p is not None:
        probabilities = best.softmax(-1)
        # The first one has nothing before it, and stays whatever top_p is.
        before = probabilities.cumsum(-1) - probabilities
        best = torch.where(before < draw.top_p, best, -torch.inf)
    place = _drawn(draw.keys, draw.number, best)
    return tokens.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def _drawn(keys: Tensor, number: int | Tensor, logits: Tensor) -> Tensor:
    """One category for each sequence, from its key and the number of the draw."""

    def draw(key: Tensor, logits: Tensor) -> Tensor:
        return random.categorical(random.fold_in(key, number), logits)

    if logits.ndim == 1:
        return draw(keys, logits)
    flat = keys.flatten(0, -2), logits.flatten(0, -2)
    return vmap(draw)(*flat).reshape(logits.shape[:-1])
