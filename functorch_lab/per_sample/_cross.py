# SPDX-License-Identifier: Apache-2.0
"""Inner products between the samples of two batches, of factored gradients.

Two uses are multiplied position by position, or their matrices are formed in blocks of
rows and multiplied: whichever takes fewer multiplications for the shapes at hand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from functorch_lab.per_sample import _blocks
from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._factor import Factor
from functorch_lab.per_sample._frame import wide
from functorch_lab.per_sample._overlap import Factored, Framed, patch_numbers, shared
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused, Use


def within(factors: list[Factor]) -> Tensor:
    """`<gradient i, gradient j>` of the samples of one batch, `(B, B)`."""
    products: list[Tensor] = []
    for factor in factors:
        for number, use in enumerate(factor.uses):
            products.append(cross(use, use))
            for other in factor.uses[number + 1 :]:
                product = cross(use, other)
                products.append(product + product.mT)
    return sum(products[1:], products[0])


def between(a: list[Factor], b: list[Factor]) -> Tensor:
    """`<gradient i of a, gradient j of b>` of all leaves, `(B1, B2)`."""
    products = [
        cross(use, other)
        for first, second in zip(a, b, strict=True)
        for use in first.uses
        for other in second.uses
    ]
    return sum(products[1:], products[0])


def cross(a: Use, b: Use) -> Tensor:
    """`<gradient i of a, gradient j of b>`, `(B1, B2)`."""
    if isinstance(a, Unused):
        return a.zero.unsqueeze(1).expand(-1, _blocks.count(b))
    if isinstance(b, Unused):
        return b.zero.expand(_blocks.count(a), -1)
    return _cross(a, b)


def _cross(a: Factored | Direct, b: Factored | Direct) -> Tensor:
    if isinstance(a, Direct):
        return _flat(a) @ _flat(b).mT if isinstance(b, Direct) else _cross(b, a).mT
    if isinstance(b, Direct):
        return _by_matrices(a, a.frame.take(wide(b.value)))
    if a.frame == b.frame:
        return _framed(a, b)
    met = None
    if isinstance(a, Framed) and isinstance(b, Framed):
        met = shared(a, b)
    if met is None:
        return _one_by_one(a, b)
    if met.is_empty():
        like = met.a.left if isinstance(met.a, DensePair) else met.a.values
        return wide(like).new_zeros(like.shape[0], _blocks.count(b))
    return _framed(met.a, met.b)


def _one_by_one(a: Factored, b: Factored) -> Tensor:
    """With the gradients of as many samples of `b` at a time as a buffer holds."""
    spans = _blocks.spans(_blocks.count(b), math.prod(b.frame.leaf))
    parts = [
        _cross(a, Direct(_blocks.samples(b, *span).materialize())) for span in spans
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _flat(use: Direct) -> Tensor:
    return wide(use.value).reshape(use.value.shape[0], -1)


def _framed(a: Factored, b: Factored) -> Tensor:
    """Of two uses of the same matrices."""
    if _positions_cost(a, b) > _matrices_cost(a, b):
        return _by_matrices(a, b)
    first = a.dense() if isinstance(a, ConvPair) else a
    if a is b:
        return _by_positions(first, first)
    return _by_positions(first, b.dense() if isinstance(b, ConvPair) else b)


def _sizes(use: Factored) -> tuple[int, int, int]:
    """Samples, positions, and multiplications that form one sample's matrices."""
    if isinstance(use, IndexPair):
        samples, positions = use.index.shape
        return samples, positions, 0
    if isinstance(use, ConvPair):
        samples, positions = _blocks.count(use), math.prod(use.response.shape[3:])
        positions *= use.response.shape[1]
    else:
        samples, _, positions, _ = use.left.shape
    return samples, positions, positions * math.prod(use.frame.dims())


def _positions_cost(a: Factored, b: Factored) -> int:
    groups, rows, columns = a.frame.dims()
    if isinstance(a, IndexPair) or isinstance(b, IndexPair):
        rows = 1  # is looked up
    first, second = _sizes(a), _sizes(b)
    pairs = first[0] * first[1] * second[0] * second[1]
    return pairs * groups * (rows + columns)


def _matrices_cost(a: Factored, b: Factored) -> int:
    first, second = _sizes(a), _sizes(b)
    forming = first[0] * first[2] + (0 if a is b else second[0] * second[2])
    return forming + first[0] * second[0] * math.prod(a.frame.dims())


def _by_positions(a: Framed, b: Framed) -> Tensor:
    each = a.frame.dims()[0] * _sizes(a)[1] * math.prod(_sizes(b)[:2])
    return _blocks.over_samples(lambda part: _positions(part, b), each, a)


def _positions(a: Framed, b: Framed) -> Tensor:
    """Sums over the positions of products of rows and of columns."""
    first, second = _sizes(a), _sizes(b)
    products = _rows(a, b) * (_columns(a) @ _columns(b).mT)
    return products.reshape(-1, *first[:2], *second[:2]).sum((0, 2, 4))


def _rows(a: Framed, b: Framed) -> Tensor:
    """Products of rows, `(groups, samples x positions of a, of b)`."""
    if isinstance(b, IndexPair):
        where = b.index.reshape(-1)
        if isinstance(a, IndexPair):
            return (a.index.reshape(-1, 1) == where).unsqueeze(0)
        return _stacked(a.left)[:, :, where]
    if isinstance(a, IndexPair):
        return _stacked(b.left)[:, :, a.index.reshape(-1)].mT
    return _stacked(a.left) @ _stacked(b.left).mT


def _columns(use: Framed) -> Tensor:
    """`(groups, samples x positions, columns)`."""
    if isinstance(use, IndexPair):
        return wide(use.values).flatten(0, 1).unsqueeze(0)
    return _stacked(use.right)


def _stacked(factor: Tensor) -> Tensor:
    return wide(factor).transpose(0, 1).flatten(1, 2)


def _by_matrices(a: Factored, b: Factored | Tensor) -> Tensor:
    """Forms both a block at a time; a tensor is `(samples, groups, rows, columns)`."""
    groups, rows, columns = a.frame.dims()
    if isinstance(a, DensePair) and isinstance(b, DensePair) and columns > rows:
        # Blocks are of rows: let those be the more numerous.
        same = a is b
        a = DensePair(a.right, a.left, a.frame.transposed())
        b = a if same else DensePair(b.right, b.left, b.frame.transposed())
        rows, columns = columns, rows
    samples = _blocks.count(a) + (0 if a is b else _blocks.count(b))
    total: list[Tensor] = []
    for group in _blocks.spans(groups, samples * rows * columns):
        one = group[1] - group[0]
        for row in _blocks.spans(rows, samples * one * columns):
            first = _block(a, group, row)
            second = first if a is b else _block(b, group, row)
            total.append(first @ second.mT)
    return sum(total[1:], total[0])


def _block(
    use: Factored | Tensor, group: tuple[int, int], row: tuple[int, int]
) -> Tensor:
    """Some rows of some groups of each sample's matrices, flat."""
    groups, rows = slice(*group), slice(*row)
    if isinstance(use, Tensor):
        return use[:, groups, rows].flatten(1)
    if isinstance(use, DensePair):
        left, right = wide(use.left[:, groups, :, rows]), wide(use.right[:, groups])
        return (left.mT @ right).flatten(1)
    if isinstance(use, ConvPair):
        part = _channels(use, groups, rows)
        each = patch_numbers(part)
        return _blocks.over_samples(ConvPair.matrices, each, part).flatten(1)
    begin, end = row
    values = wide(use.values)
    inside = (use.index >= begin) & (use.index < end)
    where = torch.where(inside, use.index - begin, end - begin)  # others: one row more
    table = values.new_zeros(values.shape[0], end - begin + 1, values.shape[2])
    table = table.scatter_add(1, where.unsqueeze(-1).expand_as(values), values)
    return table[:, :-1].flatten(1)


def _channels(use: ConvPair, groups: slice, rows: slice) -> ConvPair:
    """Some rows of some groups; for its matrices alone, the frame is of all."""
    all_groups = (use.geometry.groups, -1)
    signal = use.signal.unflatten(2, all_groups)[:, :, groups]
    response = use.response.unflatten(2, all_groups)[:, :, groups, rows]
    geometry = use.geometry._replace(groups=signal.shape[2])
    signal, response = signal.flatten(2, 3), response.flatten(2, 3)
    return ConvPair(signal, response, geometry, use.frame)
