# SPDX-License-Identifier: Apache-2.0
"""How the matrices of a factored gradient lie in the leaf that they belong to.

An operation multiplies by matrices: a convolution by one for each group, a linear map
by one. A frame says which axes of the leaf are their groups, rows and columns, so that
transposed, reshaped and sliced uses of one leaf can be told apart and added up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Axes = tuple[int, ...]


class Frame(NamedTuple):
    """Where matrices `(groups, rows, columns)` lie in a leaf.

    Attributes:
        leaf: the leaf's shape.
        shape: the same numbers with axes split where a use splits them; `leaf`
            reshaped.
        start: the first index of the part in use, for each axis of `shape`.
        size: how many indices of it are in use, for each axis of `shape`.
        groups: axes of `shape` that number the matrices, in their order.
        rows: axes of `shape` that make up the rows.
        columns: axes of `shape` that make up the columns.
    """

    leaf: tuple[int, ...]
    shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    groups: Axes
    rows: Axes
    columns: Axes

    def transposed(self) -> Frame:
        return self._replace(rows=self.columns, columns=self.rows)

    def is_whole(self) -> bool:
        """Whether all of the leaf is in use."""
        return self.size == self.shape

    def count(self, axes: Axes) -> int:
        return math.prod([self.size[axis] for axis in axes])

    def dims(self) -> tuple[int, int, int]:
        """Numbers of groups, rows and columns."""
        return self.count(self.groups), self.count(self.rows), self.count(self.columns)

    def place(self, matrices: Tensor) -> Tensor:
        """From `(..., groups, rows, columns)` to `(..., *leaf)`, zero elsewhere."""
        order = self.groups + self.rows + self.columns
        ahead = matrices.shape[:-3]
        spread = matrices.reshape(*ahead, *[self.size[axis] for axis in order])
        left_out = [a for a in range(len(self.shape)) if a not in order]
        for _ in left_out:  # an axis of which one index was taken
            spread = spread.unsqueeze(-1)
        order = (*order, *left_out)
        back = [len(ahead) + order.index(axis) for axis in range(len(order))]
        spread = spread.permute(*range(len(ahead)), *back)
        if not self.is_whole():
            bounds = zip(self.shape, self.start, self.size, strict=True)
            pads = [(begin, full - begin - some) for full, begin, some in bounds]
            spread = F.pad(spread, [n for pair in reversed(pads) for n in pair])
        return spread.reshape(*ahead, *self.leaf)

    def take(self, leaf: Tensor) -> Tensor:
        """From `(..., *leaf)` to `(..., groups, rows, columns)`: undoes `place`."""
        count = leaf.ndim - len(self.leaf)
        ahead = leaf.shape[:count]
        spread = leaf.reshape(*ahead, *self.shape)
        for axis, (begin, some) in enumerate(zip(self.start, self.size, strict=True)):
            if some != self.shape[axis]:
                spread = spread.narrow(count + axis, begin, some)
        order = self.groups + self.rows + self.columns
        order = (*order, *[a for a in range(len(self.shape)) if a not in order])
        spread = spread.permute(*range(count), *[count + axis for axis in order])
        return spread.reshape(*ahead, *self.dims())


class View(NamedTuple):
    """A tensor that holds numbers of a leaf, each at most once, and nothing else.

    Attributes:
        index: which leaf.
        leaf: the leaf's shape.
        shape: as in `Frame`.
        start: as in `Frame`.
        size: as in `Frame`.
        axes: for each axis of the tensor the axes of `shape` that make it up.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    leaf: tuple[int, ...]
    shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[Axes, ...]

    def frame(self, groups: Axes, rows: Axes, columns: Axes) -> Frame:
        """The frame in which these axes of the tensor are groups, rows and columns."""

        # An axis of one index says nothing: without it equal frames are equal.
        def refined(axes: Axes) -> Axes:
            inner = [a for axis in axes for a in self.axes[axis]]
            return tuple([a for a in inner if self.size[a] > 1])

        return Frame(
            self.leaf,
            self.shape,
            self.start,
            self.size,
            refined(groups),
            refined(rows),
            refined(columns),
        )


def whole(index: int, leaf: Tensor) -> View:
    """A leaf as it is."""
    shape = tuple(leaf.shape)
    zeros = tuple([0 for _ in shape])
    return View(
        index, shape, shape, zeros, shape, tuple([(a,) for a in range(len(shape))])
    )


def wide(tensor: Tensor) -> Tensor:
    """In float32 or better: sums of half-precision numbers are not."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor.float()
    return tensor
