# SPDX-License-Identifier: Apache-2.0
"""The gradients of one parameter, one for each sample, as the list of its uses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _blocks, _pairs
from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._frame import Frame, wide
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused, Use


@tree.dataclass
class Factor:
    """The per-sample gradients of one parameter, `(B, *leaf)`: the sum of its uses.

    Factors are made by `factors`. What its methods return is float32 or better, and
    only `materialize` forms the gradients of all samples.

    Attributes:
        uses: at least one `DensePair`, `IndexPair`, `ConvPair`, `Direct` or `Unused`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda w, x: torch.nn.functional.linear(x, w).sum()
        >>> w, x = torch.ones(2, 2), torch.tensor([[3.0, 4.0], [1.0, 2.0]])
        >>> factor = per_sample.factors(loss_fn)(w, x)
        >>> factor.uses[0].left.shape, factor.uses[0].right.shape
        (torch.Size([2, 1, 1, 2]), torch.Size([2, 1, 1, 2]))
        >>> factor.squared_norm()
        tensor([50., 10.])
        >>> factor.weighted_sum(torch.tensor([1.0, -2.0]))
        tensor([[1., 0.],
                [1., 0.]])
    """

    uses: tuple[Use, ...]

    def materialize(self) -> Tensor:
        """The gradients, `(B, *leaf)`."""
        return total([use.materialize() for use in self.uses])

    def squared_norm(self) -> Tensor:
        """Of each sample's gradient, `(B,)`; not below zero."""
        square = total([use.squared_norm() for use in self.uses])
        for number, use in enumerate(self.uses):
            for other in self.uses[number + 1 :]:
                square = square + 2 * _pairs.inner(use, other)
        return square.clamp(min=0)

    def inner(self, tensor: Tensor) -> Tensor:
        """Inner products of the gradients with a tensor of the leaf's shape, `(B,)`."""
        return total([use.inner(tensor) for use in self.uses])

    def weighted_sum(self, weights: Tensor | None = None) -> Tensor:
        """`sum_i weights[i] gradient[i]`, of the leaf's shape; the sum, if None."""
        return total([use.weighted_sum(weights) for use in self.uses])

    def is_thin(self) -> bool:
        """Whether the gradients' squares are sums of squares of what is kept."""
        use = self.uses[0]
        at_once = isinstance(use, DensePair) and use.left.shape[2] == 1
        return len(self.uses) == 1 and (at_once or isinstance(use, IndexPair))

    def square_sum(self) -> Tensor:
        """`sum_i gradient[i]**2`, of the leaf's shape."""
        use = self.uses[0]
        if self.is_thin() and isinstance(use, DensePair):
            left, right = wide(use.left).square(), wide(use.right).square()
            return DensePair(left, right, use.frame).weighted_sum(None)
        if self.is_thin() and isinstance(use, IndexPair):
            once = use.distinct()
            squares = wide(once.values).square()
            return IndexPair(once.index, squares, use.frame).weighted_sum(None)
        return total([part.square().sum(0) for part in self.materialized_blocks()])

    def materialized_blocks(self) -> Iterator[Tensor]:
        """The gradients of as many samples at a time as a buffer holds."""
        for span in _blocks.spans(_blocks.count(self), math.prod(self.leaf())):
            yield _blocks.samples(self, *span).materialize()

    def leaf(self) -> tuple[int, ...]:
        """The parameter's shape."""
        use = self.uses[0]
        if isinstance(use, Direct):
            return tuple(use.value.shape[1:])
        return use.leaf if isinstance(use, Unused) else use.frame.leaf

    def masked(self, mask: Tensor) -> Factor:
        """With zero gradients where the mask, `(B,)`, is False."""
        return Factor(tuple([use.masked(mask) for use in self.uses]))


def total(tensors: Sequence[Tensor]) -> Tensor:
    first, *rest = tensors
    return sum(rest, first)


def total_squared_norm(factors: Sequence[Factor]) -> Tensor:
    """Of each sample's gradient with respect to several leaves, `(B,)`."""
    return total([factor.squared_norm() for factor in factors])


def root(square: Tensor) -> Tensor:
    """The square root, whose derivative at zero is zero as that of `linalg.norm`."""
    positive = torch.where(square == 0, 1.0, square)
    return torch.where(square == 0, 0.0, positive.sqrt())


def merged(uses: Sequence[Use]) -> Factor:
    """The factor of these uses; those that are kept alike become one.

    Uses of one frame are one multiplication at more positions. A cell that is applied
    at fifty steps has one pair, not fifty with 1225 products between them.
    """
    dense: dict[Frame, list[DensePair]] = {}
    index: dict[Frame, list[IndexPair]] = {}
    images: dict[Any, list[ConvPair]] = {}
    direct: list[Tensor] = []
    rest: list[Use] = []
    for use in uses:
        if isinstance(use, DensePair):
            dense.setdefault(use.frame, []).append(use)
        elif isinstance(use, IndexPair):
            index.setdefault(use.frame, []).append(use)
        elif isinstance(use, ConvPair):
            sizes = tuple(use.signal.shape[2:]), tuple(use.response.shape[2:])
            images.setdefault((use.geometry, use.frame, *sizes), []).append(use)
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
    for same in images.values():
        first = same[0]
        if len(same) > 1:
            signal = torch.cat([use.signal for use in same], 1)
            response = torch.cat([use.response for use in same], 1)
            first = ConvPair(signal, response, first.geometry, first.frame)
        found.append(first)
    if direct:
        found.append(Direct(total(direct)))
    if len(found) + len(rest) > 1:
        rest = [use for use in rest if not isinstance(use, Unused)]
    return Factor((*found, *rest))
