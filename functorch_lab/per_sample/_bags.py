# SPDX-License-Identifier: Apache-2.0
"""The rule of torch's embedding_bag, for which vmap has none.

It is written out as a lookup and a reduction, for a table that is no parameter as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._composite import seen
from functorch_lab.per_sample._lookup import no_renorm
from functorch_lab.per_sample._tape import Tape, rule_for


@rule_for("embedding_bag", inside=True)
def embedding_bag(tape: Tape, *args: Any, **kwargs: Any) -> Tensor:
    return seen(tape, _bags, *args, **kwargs)


def _bags(  # noqa: PLR0913, PLR0917 - torch's signature
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    no_renorm("F.embedding_bag", max_norm)
    _check(input, offsets, mode, per_sample_weights)
    if scale_grad_by_freq:
        # torch's CPU kernel divides by the counts of other rows.
        raise ValueError(
            "per_sample: F.embedding_bag: scale_grad_by_freq: expected False, got "
            "True. Look up with F.embedding(scale_grad_by_freq=True), then reduce."
        )
    vectors = F.embedding(input, weight)
    counts = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        counts = input != padding_idx % weight.shape[0]
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.unsqueeze(-1)
    if offsets is None:
        inside = counts.unsqueeze(-2)  # (bags, 1, positions)
    else:  # (bags, positions), of vectors (1, positions, columns)
        inside = _inside(offsets, input.shape[0], include_last_offset) & counts
        inside, vectors = inside.unsqueeze(-2), vectors.unsqueeze(0)
    if mode == "max":
        lowest = torch.where(inside.mT, vectors, -torch.inf).max(-2).values
        return torch.where(inside.any(-1), lowest, 0.0)
    total = (inside.to(vectors.dtype) @ vectors).squeeze(-2)
    if mode == "sum":
        return total
    return total / inside.sum(-1).clamp(min=1).to(total.dtype)


def _inside(offsets: Tensor, positions: int, has_end: bool) -> Tensor:
    """Which positions are in which bag: `(bags, positions)`."""
    where = torch.arange(positions, device=offsets.device)
    # As many bags have begun; of bags that begin together all but the last are empty.
    bag = (offsets.unsqueeze(-1) <= where).sum(0) - 1
    bags = offsets.shape[0] - int(has_end)
    return torch.arange(bags, device=offsets.device).unsqueeze(-1) == bag


def _check(
    index: Tensor, offsets: Tensor | None, mode: str, weights: Tensor | None
) -> None:
    """Raises `ValueError` for what torch's function does not take either."""
    expected = ""
    if index.ndim != (2 if offsets is None else 1):
        expected = f"bags (bags, n), or (n,) with offsets, got {tuple(index.shape)}"
    elif mode not in ("sum", "mean", "max"):
        expected = f"mode sum, mean or max, got {mode!r}"
    elif weights is not None and (mode != "sum" or weights.shape != index.shape):
        got = f"{tuple(weights.shape)} for {tuple(index.shape)} and mode {mode!r}"
        expected = f"a weight for each index and mode 'sum', got {got}"
    if expected:
        raise ValueError(
            f"per_sample: F.embedding_bag: expected {expected}. See torch's signature."
        )
