# SPDX-License-Identifier: Apache-2.0
"""What one use of a parameter contributes to its gradient, in the form it is kept in.

Each kind answers the same questions, with a leading axis of samples `B`:
`materialize() -> (B, *leaf)`, `squared_norm() -> (B,)`, `inner(tensor) -> (B,)` for a
tensor of the leaf's shape, `weighted_sum(weights) -> leaf`, `masked(mask)`. What they
return is float32 or better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _blocks
from functorch_lab.per_sample._frame import Frame, wide

if TYPE_CHECKING:
    from functorch_lab.per_sample._convolution_pair import ConvPair


def per_axis(vector: Tensor, like: Tensor) -> Tensor:
    """`(B,)` as `(B, 1, ...)`, to multiply what has samples first."""
    return vector.reshape(-1, *[1 for _ in range(like.ndim - 1)])


def chosen(mask: Tensor, tensor: Tensor) -> Tensor:
    """Zero where a sample is masked, whatever stands there."""
    zero = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
    return torch.where(per_axis(mask, tensor), tensor, zero)


@tree.dataclass
class DensePair:
    """The uses of a parameter in a multiplication: sums of outer products.

    The gradient of sample `i` is `sum_t left[i, g, t] right[i, g, t]^T` in each group.

    Attributes:
        left: `(B, groups, positions, rows)`.
        right: `(B, groups, positions, columns)`.
        frame: where these matrices lie in the parameter.
    """

    left: Tensor
    right: Tensor
    frame: Frame = tree.static()

    def matrices(self) -> Tensor:
        """`(B, groups, rows, columns)`."""
        return wide(self.left).mT @ wide(self.right)

    def materialize(self) -> Tensor:
        return self.frame.place(self.matrices())

    def prefers_gram(self) -> bool:
        """Whether the products between positions cost less than the matrices.

        Whichever is chosen needs no more memory than the pair itself has.
        """
        positions, rows, columns = *self.left.shape[2:], self.right.shape[3]
        return positions * (rows + columns) <= rows * columns

    def squared_norm(self) -> Tensor:
        groups, positions, rows = self.left.shape[1:]
        columns = self.right.shape[3]
        if positions == 1:
            left, right = wide(self.left), wide(self.right)
            return (left.square().sum(3) * right.square().sum(3)).sum((1, 2))
        if self.prefers_gram():
            each = groups * positions * (2 * positions + rows + columns)
            return _blocks.over_samples(_by_gram, each, self)
        return _blocks.over_samples(_by_matrices, groups * rows * columns, self)

    def inner(self, tensor: Tensor) -> Tensor:
        left, right = wide(self.left), wide(self.right)
        return ((left @ self.frame.take(wide(tensor))) * right).sum((1, 2, 3))

    def weighted_sum(self, weights: Tensor | None) -> Tensor:
        left, right = wide(self.left), wide(self.right)
        if weights is not None:
            weights = weights.to(left.dtype)
            if left.shape[3] < right.shape[3]:
                left = left * per_axis(weights, left)
            else:
                right = right * per_axis(weights, right)
        groups = left.shape[1]
        flat_left = left.transpose(0, 1).reshape(groups, -1, left.shape[3])
        flat_right = right.transpose(0, 1).reshape(groups, -1, right.shape[3])
        if groups == 1:
            total = (flat_left[0].mT @ flat_right[0]).unsqueeze(0)
        else:
            total = flat_left.mT @ flat_right
        return self.frame.place(total)

    def masked(self, mask: Tensor) -> DensePair:
        left, right = chosen(mask, self.left), chosen(mask, self.right)
        return DensePair(left, right, self.frame)


def _by_matrices(pair: DensePair) -> Tensor:
    return pair.matrices().square().sum((1, 2, 3))


def _by_gram(pair: DensePair) -> Tensor:
    """The squared norm from the inner products between positions.

    Of both sides the mean over the positions is kept apart: inputs that hardly change
    from one position to the next, with deltas that add up to nearly nothing (or the
    reverse), would leave only rounding.
    """
    left, right = wide(pair.left), wide(pair.right)
    positions = left.shape[2]
    left_mean, right_mean = left.mean(2, keepdim=True), right.mean(2, keepdim=True)
    left, right = left - left_mean, right - right_mean
    varying = ((left @ left.mT) * (right @ right.mT)).sum((1, 2, 3))
    crossed = ((left @ left_mean.mT) * (right @ right_mean.mT)).sum((1, 2, 3))
    constant = left_mean.square().sum(3) * right_mean.square().sum(3)
    return varying + 2 * positions * crossed + positions**2 * constant.sum((1, 2))


@tree.dataclass
class IndexPair:
    """The uses of a parameter as a table of rows.

    The gradient of sample `i` has `sum_t [index[i, t] = r] values[i, t]` in row `r`.

    Attributes:
        index: `(B, positions)`, integers.
        values: `(B, positions, columns)`.
        frame: where the table lies in the parameter; one group.
    """

    index: Tensor
    values: Tensor
    frame: Frame = tree.static()

    def materialize(self) -> Tensor:
        values = wide(self.values)
        count, _, columns = values.shape
        table = values.new_zeros(count, self.frame.dims()[1], columns)
        where = self.index.unsqueeze(-1).expand_as(values)
        return self.frame.place(table.scatter_add(1, where, values).unsqueeze(1))

    def distinct(self) -> IndexPair:
        """The same with each row once, its values summed, and zeros in what is left."""
        if self.index.shape[1] == 1:
            return self
        values = wide(self.values)
        order = self.index.argsort(1)
        ranked = self.index.gather(1, order)
        fresh = (ranked[:, 1:] != ranked[:, :-1]).long()
        number = torch.cat([torch.zeros_like(order[:, :1]), fresh.cumsum(1)], 1)
        zeros = torch.zeros_like(order)
        place = zeros.scatter(1, order, number)
        index = zeros.scatter(1, place, self.index)
        where = place.unsqueeze(-1).expand_as(values)
        summed = torch.zeros_like(values).scatter_add(1, where, values)
        return IndexPair(index, summed, self.frame)

    def squared_norm(self) -> Tensor:
        return wide(self.distinct().values).square().sum((1, 2))

    def inner(self, tensor: Tensor) -> Tensor:
        rows = self.frame.take(wide(tensor))[0][self.index]
        return (rows * wide(self.values)).sum((1, 2))

    def weighted_sum(self, weights: Tensor | None) -> Tensor:
        values = wide(self.values)
        if weights is not None:
            values = values * per_axis(weights.to(values.dtype), values)
        table = values.new_zeros(self.frame.dims()[1], values.shape[2])
        total = table.index_add(0, self.index.reshape(-1), values.flatten(0, 1))
        return self.frame.place(total.unsqueeze(0))

    def masked(self, mask: Tensor) -> IndexPair:
        return IndexPair(self.index, chosen(mask, self.values), self.frame)


@tree.dataclass
class Direct:
    """A gradient that is no larger than what it would be made from, as it is.

    Attributes:
        value: `(B, *leaf)`.
    """

    value: Tensor

    def materialize(self) -> Tensor:
        return wide(self.value)

    def squared_norm(self) -> Tensor:
        value = wide(self.value)
        return value.square().reshape(value.shape[0], -1).sum(1)

    def inner(self, tensor: Tensor) -> Tensor:
        value = wide(self.value)
        return (value * wide(tensor)).reshape(value.shape[0], -1).sum(1)

    def weighted_sum(self, weights: Tensor | None) -> Tensor:
        value = wide(self.value)
        if weights is None:
            return value.sum(0)
        return torch.tensordot(weights.to(value.dtype), value, 1)

    def masked(self, mask: Tensor) -> Direct:
        return Direct(chosen(mask, self.value))


@tree.dataclass
class Unused:
    """The gradient of a parameter that the loss does not use: zero.

    Attributes:
        zero: `(B,)`, zeros.
        leaf: the parameter's shape.
    """

    zero: Tensor
    leaf: tuple[int, ...] = tree.static()

    def materialize(self) -> Tensor:
        ones = [1 for _ in self.leaf]
        return wide(self.zero).reshape(-1, *ones).expand(-1, *self.leaf)

    def squared_norm(self) -> Tensor:
        return wide(self.zero)

    def inner(self, tensor: Tensor) -> Tensor:
        return wide(self.zero)

    def weighted_sum(self, weights: Tensor | None) -> Tensor:
        return wide(self.zero).new_zeros(self.leaf)

    def masked(self, mask: Tensor) -> Unused:
        return self


Use: TypeAlias = "DensePair | IndexPair | ConvPair | Direct | Unused"
