# SPDX-License-Identifier: Apache-2.0
"""Inner products between the patches of a convolution, from those between its pixels.

The inner product of two patches is the sum, over the pixels of a patch, of the products
of what lies there in both. So pixels are multiplied once with each other, not once for
each patch that they are in. With a stride only pixels that lie alike in it meet: space
is cut into cells of a stride's size, and what lies alike in them is like a channel.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._patches import Geometry


class Cells(NamedTuple):
    """One axis of space, cut into cells.

    Attributes:
        stride: pixels of a cell.
        held: cells that hold pixels.
        pads: zeros that fill the first and the last of them.
        empty: cells of padding ahead of these and behind.
        patches: how many patches there are, one from each cell on.
        meeting: places in a cell, with the cells of a patch in which they are seen.
    """

    stride: int
    held: int
    pads: tuple[int, int]
    empty: tuple[int, int]
    patches: int
    meeting: list[tuple[list[int], list[int]]]


def cells(geometry: Geometry, pixels: torch.Size, positions: torch.Size) -> list[Cells]:
    """How each axis of space is cut, of `pixels` with patches at `positions`."""
    sizes = zip(pixels, positions, *geometry[:3], geometry.dilation, strict=True)
    return [_cells(*axis) for axis in sizes]


def _cells(
    pixels: int, patches: int, kernel: int, stride: int, before: int, dilation: int
) -> Cells:
    seen: dict[int, list[int]] = {}
    for pixel in range(kernel):
        cell, place = divmod(pixel * dilation, stride)
        seen.setdefault(place, []).append(cell)
    meeting: dict[tuple[int, ...], list[int]] = {}
    for place, where in seen.items():
        meeting.setdefault(tuple(where), []).append(place)
    reached = patches + dilation * (kernel - 1) // stride
    ahead, front = divmod(before, stride)
    held = min(math.ceil((front + pixels) / stride), reached - ahead)
    return Cells(
        stride,
        held,
        (front, stride * held - front - pixels),
        (ahead, reached - ahead - held),
        patches,
        [(places, list(where)) for where, places in meeting.items()],
    )


def multiplications(axes: list[Cells]) -> int:
    """Between pixels, for each channel."""
    places = [sum(len(places) for places, _ in axis.meeting) for axis in axes]
    return math.prod([axis.held**2 for axis in axes]) * math.prod(places)


def patch_products(signal: Tensor, axes: list[Cells]) -> Tensor:
    """Inner products between all patches.

    Args:
        signal: `(B, groups, channels, N, *space)`.
        axes: of space.

    Returns:
        `(B, groups, N * positions, N * positions)`.
    """
    places = [[places for places, _ in axis.meeting] for axis in axes]
    cells = [[cells for _, cells in axis.meeting] for axis in axes]
    cut = _cut(signal, axes)
    parts = [
        _shifted(_taken(cut, list(some)), axes, list(itertools.product(*where)))
        for some, where in zip(
            itertools.product(*places), itertools.product(*cells), strict=True
        )
    ]
    total = sum(parts[1:], parts[0])
    patches = signal.shape[3] * math.prod([axis.patches for axis in axes])
    return total.reshape(*signal.shape[:2], patches, patches)


def _cut(signal: Tensor, axes: list[Cells]) -> Tensor:
    """`(B, groups, channels, *places in a cell, N, *cells)`."""
    pads = [pixels for axis in reversed(axes) for pixels in axis.pads]
    split = [size for axis in axes for size in (axis.held, axis.stride)]
    whole = F.pad(signal, pads) if any(pads) else signal
    whole = whole.reshape(*signal.shape[:4], *split)
    places = [5 + 2 * axis for axis in range(len(axes))]
    return whole.permute(0, 1, 2, *places, 3, *[place - 1 for place in places])


def _taken(cut: Tensor, places: list[list[int]]) -> Tensor:
    """Some places of each cell."""
    for axis, some in enumerate(places, start=3):
        if len(some) < cut.shape[axis]:
            cut = torch.cat([cut.narrow(axis, place, 1) for place in some], axis)
    return cut


def _shifted(cut: Tensor, axes: list[Cells], offsets: list[tuple[int, ...]]) -> Tensor:
    """Products of these places, summed over the cells of a patch at these offsets."""
    images, cells = cut.shape[3 + len(axes)], cut.shape[4 + len(axes) :]
    flat = cut.reshape(*cut.shape[:2], -1, images * math.prod(cells))
    products = (flat.mT @ flat).reshape(-1, images, *cells, images, *cells)
    pads = [cells for axis in reversed(axes) for cells in axis.empty]
    if any(pads):
        products = F.pad(products, [*pads, 0, 0, *pads])
    every = slice(None)
    parts = []
    for offset in offsets:
        seen = [
            slice(first, first + axis.patches)
            for first, axis in zip(offset, axes, strict=True)
        ]
        parts.append(products[(every, every, *seen, every, *seen)])
    return sum(parts[1:], parts[0])
