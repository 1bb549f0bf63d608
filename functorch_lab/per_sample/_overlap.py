# SPDX-License-Identifier: Apache-2.0
"""Bringing two uses of one leaf to the part of it that they share, laid out alike."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._frame import Axes, Frame
from functorch_lab.per_sample._uses import DensePair, IndexPair

Framed = DensePair | IndexPair
Factored = Framed | ConvPair


class Shared(NamedTuple):
    """Two uses that lie in the same matrices, which `frame` places in the leaf."""

    a: Framed
    b: Framed
    frame: Frame

    def is_empty(self) -> bool:
        """Whether the uses have no number of the leaf in common."""
        return 0 in self.frame.size


def shared(a: Framed, b: Framed) -> Shared | None:
    """Both uses, cut to what they share; None where no matrices fit both."""
    shape = _common(a.frame.shape, b.frame.shape)
    first = None if shape is None else refined(a.frame, shape)
    second = None if shape is None else refined(b.frame, shape)
    if first is None or second is None:
        return None
    bounds = [
        (max(p, q), min(p + m, q + n))
        for p, q, m, n in zip(
            first.start, second.start, first.size, second.size, strict=True
        )
    ]
    start = tuple([begin for begin, _ in bounds])
    size = tuple([max(0, end - begin) for begin, end in bounds])
    if 0 in size:
        return Shared(a, b, first._replace(start=start, size=size))
    a, b = _cut(a, first, start, size), _cut(b, second, start, size)
    if isinstance(a, DensePair) and layout(a.frame) == layout(b.frame.transposed()):
        a = DensePair(a.right, a.left, a.frame.transposed())
    elif isinstance(b, DensePair) and layout(b.frame) == layout(a.frame.transposed()):
        b = DensePair(b.right, b.left, b.frame.transposed())
    return Shared(a, b, a.frame) if layout(a.frame) == layout(b.frame) else None


def layout(frame: Frame) -> tuple[Axes, Axes, Axes]:
    """Groups, rows and columns without the axes of one index, which say nothing."""

    def wide_ones(axes: Axes) -> Axes:
        return tuple([axis for axis in axes if frame.size[axis] != 1])

    return wide_ones(frame.groups), wide_ones(frame.rows), wide_ones(frame.columns)


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The coarsest shape that splits the axes of both, if there is one."""
    if a == b:
        return a
    inner = {math.prod(s[i:]) for s in (a, b) for i in range(len(s) + 1)}
    steps = sorted(inner, reverse=True)
    pairs = list(itertools.pairwise(steps))
    if any(small == 0 or large % small for large, small in pairs):
        return None
    return tuple([large // small for large, small in pairs])


def refined(frame: Frame, shape: tuple[int, ...]) -> Frame | None:
    """The frame with its axes split as in `shape`; None if its part is then no box."""
    if frame.shape == shape:
        return frame
    start: list[int] = []
    size: list[int] = []
    parts: list[Axes] = []  # the new axes of each old one
    for full, begin, some in zip(frame.shape, frame.start, frame.size, strict=True):
        axes: list[int] = []
        first, last, left = begin, begin + some - 1, full
        while left > 1:
            axes.append(len(size))
            left //= shape[len(size)]
            start.append(first // left)
            size.append(last // left - first // left + 1)
            if size[-1] > 1 and (first % left or (last + 1) % left):
                return None
            first, last = first % left, last % left
        parts.append(tuple(axes))

    def split(old: Axes) -> Axes:
        return tuple([axis for each in old for axis in parts[each]])

    return Frame(
        frame.leaf,
        shape,
        tuple(start),
        tuple(size),
        split(frame.groups),
        split(frame.rows),
        split(frame.columns),
    )


def _cut(
    use: Framed, frame: Frame, start: tuple[int, ...], size: tuple[int, ...]
) -> Framed:
    """The use in a part of the box of `frame`: its own frame, perhaps split."""
    box = frame._replace(start=start, size=size)
    if box == frame:
        return use if use.frame == frame else _reframed(use, frame)

    def narrowed(tensor: Tensor, axis: int, axes: Axes) -> Tensor:
        if all(size[a] == frame.size[a] for a in axes):
            return tensor
        tensor = tensor.unflatten(axis, [frame.size[a] for a in axes])
        for i, a in enumerate(axes):
            tensor = tensor.narrow(axis + i, start[a] - frame.start[a], size[a])
        return tensor.flatten(axis, axis + len(axes) - 1)

    if isinstance(use, DensePair):
        left = narrowed(narrowed(use.left, 1, box.groups), 3, box.rows)
        right = narrowed(narrowed(use.right, 1, box.groups), 3, box.columns)
        return DensePair(left, right, box)
    index, inside = torch.zeros_like(use.index), torch.ones_like(use.index).bool()
    stride = math.prod([frame.size[axis] for axis in box.rows])
    for axis in box.rows:
        stride //= frame.size[axis]
        place = use.index // stride % frame.size[axis] - start[axis] + frame.start[axis]
        inside = inside & (place >= 0) & (place < size[axis])
        index = index * size[axis] + place.clamp(0, size[axis] - 1)
    values = narrowed(use.values, 2, box.columns)
    return IndexPair(index, torch.where(inside.unsqueeze(-1), values, 0.0), box)


def _reframed(use: Framed, frame: Frame) -> Framed:
    if isinstance(use, DensePair):
        return DensePair(use.left, use.right, frame)
    return IndexPair(use.index, use.values, frame)


def patch_numbers(pair: ConvPair) -> int:
    """How many numbers `pair.dense()` makes of one sample's signal."""
    positions = pair.response.shape[1] * math.prod(pair.response.shape[3:])
    return positions * pair.signal.shape[2] * math.prod(pair.geometry.kernel)
