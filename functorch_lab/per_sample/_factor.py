# SPDX-License-Identifier: Apache-2.0
"""The gradients of one parameter, one for each sample, as the list of its uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _pairs
from functorch_lab.per_sample._frame import Frame
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused, Use


@tree.dataclass
class Factor:
    """The per-sample gradients of one parameter: the sum of its uses.

    Attributes:
        uses: at least one `DensePair`, `IndexPair`, `Direct` or `Unused`.
    """

    uses: tuple[Use, ...]

    def materialize(self) -> Tensor:
        """The gradients, `(B, *leaf)`, in float32 or better."""
        first, *rest = [use.materialize() for use in self.uses]
        return sum(rest, first)

    def squared_norm(self) -> Tensor:
        """Of each sample's gradient, `(B,)`; not below zero."""
        total = sum(
            [use.squared_norm() for use in self.uses[1:]], self.uses[0].squared_norm()
        )
        for number, use in enumerate(self.uses):
            for other in self.uses[number + 1 :]:
                total = total + 2 * _pairs.inner(use, other)
        return total.clamp(min=0)

    def inner(self, tensor: Tensor) -> Tensor:
        """Inner products of the gradients with a tensor of the leaf's shape, `(B,)`."""
        first, *rest = [use.inner(tensor) for use in self.uses]
        return sum(rest, first)

    def weighted_sum(self, weights: Tensor | None = None) -> Tensor:
        """`sum_i weights[i] gradient[i]`, of the leaf's shape; the sum, if None."""
        first, *rest = [use.weighted_sum(weights) for use in self.uses]
        return sum(rest, first)

    def masked(self, mask: Tensor) -> Factor:
        """With zero gradients where the mask, `(B,)`, is False."""
        return Factor(tuple([use.masked(mask) for use in self.uses]))


def merged(uses: Sequence[Use]) -> Factor:
    """The factor of these uses; those that are kept alike become one.

    Uses of one frame are one multiplication at more positions. A cell that is applied
    at fifty steps has one pair, not fifty with 1225 products between them.
    """
    dense: dict[Frame, list[DensePair]] = {}
    index: dict[Frame, list[IndexPair]] = {}
    direct: list[Tensor] = []
    rest: list[Use] = []
    for use in uses:
        if isinstance(use, DensePair):
            dense.setdefault(use.frame, []).append(use)
        elif isinstance(use, IndexPair):
            index.setdefault(use.frame, []).append(use)
        elif isinstance(use, Direct):
            direct.append(use.value)
        else:
            rest.append(use)
    found: list[Use] = []
    for frame, pairs in dense.items():
        left = (
            torch.cat([p.left for p in pairs], 2) if len(pairs) > 1 else pairs[0].left
        )
        right = (
            torch.cat([p.right for p in pairs], 2) if len(pairs) > 1 else pairs[0].right
        )
        found.append(DensePair(left, right, frame))
    for frame, rows in index.items():
        where = (
            torch.cat([r.index for r in rows], 1) if len(rows) > 1 else rows[0].index
        )
        values = (
            torch.cat([r.values for r in rows], 1) if len(rows) > 1 else rows[0].values
        )
        found.append(IndexPair(where, values, frame))
    if direct:
        found.append(Direct(sum(direct[1:], direct[0])))
    if len(found) + len(rest) > 1:
        rest = [use for use in rest if not isinstance(use, Unused)]
    return Factor((*found, *rest))
