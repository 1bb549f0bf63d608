# SPDX-License-Identifier: Apache-2.0
"""Random projections of one leaf that apply to rows and to columns one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.per_sample import _blocks
from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._factor import Factor
from functorch_lab.per_sample._frame import Axes, Frame, wide
from functorch_lab.per_sample._overlap import patch_numbers
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused, Use

# `draw(key, shape)`: independent numbers of mean 0 and variance 1.
Draw = Callable[[Tensor, tuple[int, int]], Tensor]


def signs(key: Tensor, shape: tuple[int, int]) -> Tensor:
    """-1 or 1, from the last of each element's random bits."""
    return (random.bits(key, shape) & 1).float() * 2 - 1


def normals(key: Tensor, shape: tuple[int, int]) -> Tensor:
    """Of float32, whatever they are used in: the same numbers for any params."""
    return random.normal(key, shape, torch.float32)


DRAWS: dict[str, Draw] = {"rademacher": signs, "normal": normals}


class Projection(NamedTuple):
    """Of a leaf, seen as a matrix: the first numbers of `rows G columns^T`.

    Attributes:
        rows: `(k1, R)`; the leaf's first axis, or nothing (R = 1) where it is taken as
            one row.
        columns: `(k2, C)`; the other axes.
        dim: how many numbers, at most k1 k2.
    """

    rows: Tensor
    columns: Tensor
    dim: int

    def of(self, factor: Factor) -> Tensor:
        """`(B, dim)`, the projection of each sample's gradient."""
        parts = [self._of_use(use) for use in factor.uses]
        total = sum(parts[1:], parts[0])
        return total.flatten(1)[:, : self.dim]

    def _of_use(self, use: Use) -> Tensor:
        """`(B, k1, k2)`."""
        if isinstance(use, Unused):
            sizes = (self.rows.shape[0], self.columns.shape[0])
            return use.zero.reshape(-1, 1, 1).expand(-1, *sizes)
        if isinstance(use, Direct):
            return self._of_gradient(use)
        if isinstance(use, ConvPair):
            return _blocks.over_samples(
                lambda part: self._of_use(part.dense()), patch_numbers(use), use
            )
        placed = None if self.rows.shape[1] == 1 else self._placed(use.frame)
        if placed is None:
            each = math.prod(use.frame.leaf)
            return _blocks.over_samples(self._of_gradient, each, use)
        rows, columns, turned = placed
        if isinstance(use, IndexPair):
            left, right = rows[0][use.index], wide(use.values) @ columns[0]
        else:
            left, right = wide(use.left) @ rows, wide(use.right) @ columns
            left, right = left.flatten(1, 2), right.flatten(1, 2)
        return right.mT @ left if turned else left.mT @ right

    def _of_gradient(self, use: DensePair | IndexPair | Direct) -> Tensor:
        gradient = use.materialize()
        matrix = gradient.reshape(-1, self.rows.shape[1], self.columns.shape[1])
        return self.rows @ matrix @ self.columns.mT

    def _placed(self, frame: Frame) -> tuple[Tensor, Tensor, bool] | None:
        """What multiplies rows and columns in a frame, `(1 or groups, numbers, k)`.

        And whether the leaf's first axis is among the columns. None where rows or
        columns mix the first axis with others.
        """
        ahead = [math.prod(frame.shape[:i]) for i in range(len(frame.shape) + 1)]
        if frame.leaf[0] not in ahead:
            return None
        # The axes of the frame that the leaf's first axis was split into.
        first = set(range(ahead.index(frame.leaf[0])))

        def side(axes: Axes) -> set[bool]:
            return {axis in first for axis in axes if frame.size[axis] > 1}

        groups, rows, columns = map(side, (frame.groups, frame.rows, frame.columns))
        turned = rows == {False} or columns == {True}
        if len(groups) > 1 or rows - {not turned} or columns - {turned}:
            return None
        left, right = self._part(frame, first), self._part(frame, first, rest=True)
        if turned:
            left, right = right, left
        left, right = left[..., 0], right[:, :, 0]
        return left.permute(1, 2, 0), right.permute(1, 2, 0), turned

    def _part(self, frame: Frame, first: set[int], *, rest: bool = False) -> Tensor:
        """One side of the projection in a frame, as a leaf of size 1 on the other."""
        mine = [(axis in first) != rest for axis in range(len(frame.shape))]

        def kept(numbers: tuple[int, ...], other: int) -> tuple[int, ...]:
            pairs = zip(numbers, mine, strict=True)
            return tuple([number if own else other for number, own in pairs])

        matrix = self.columns if rest else self.rows
        small = frame._replace(
            leaf=(matrix.shape[1],),
            shape=kept(frame.shape, 1),
            start=kept(frame.start, 0),
            size=kept(frame.size, 1),
        )
        return small.take(matrix)


def projection(key: Tensor, leaf: Tensor, dim: int, draw: Draw) -> Projection:
    """The projection of a leaf that a key stands for."""
    rows, columns, k1, k2 = sizes(tuple(leaf.shape), dim)
    row_key, column_key = random.split(key)
    first = draw(row_key, (k1, rows)) if rows > 1 else torch.ones(1, 1)
    second = draw(column_key, (k2, columns))
    like = wide(leaf)
    return Projection(first.to(like), second.to(like) / math.sqrt(dim), dim)


def sizes(leaf: tuple[int, ...], dim: int) -> tuple[int, int, int, int]:
    """Rows and columns of a leaf, and how many numbers are made of each.

    A leaf of at most `dim` numbers is one row: a projection without structure is then
    as small as one of two factors, and its variance is the least.
    """
    numbers = math.prod(leaf)
    if len(leaf) < 2 or numbers <= dim:
        return 1, numbers, 1, dim
    rows, columns = leaf[0], numbers // leaf[0]
    k1 = min(rows, math.isqrt(dim))
    k2 = min(columns, math.ceil(dim / k1))
    return rows, columns, math.ceil(dim / k2), k2
