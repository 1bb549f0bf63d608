# SPDX-License-Identifier: Apache-2.0
"""Inner products between two uses of one parameter, sample by sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from functorch_lab.per_sample import _blocks
from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._frame import wide
from functorch_lab.per_sample._overlap import Factored, Framed, patch_numbers, shared
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused, Use


def inner(a: Use, b: Use) -> Tensor:
    """`<gradient of a, gradient of b>` of each sample, `(B,)`."""
    if isinstance(a, Unused):
        return a.zero
    if isinstance(b, Unused):
        return b.zero
    if isinstance(a, ConvPair) or isinstance(b, ConvPair):
        each = max(patch_numbers(use) for use in (a, b) if isinstance(use, ConvPair))
        return _blocks.over_samples(_unfolded, each, a, b)
    return _inner(a, b)


def _unfolded(a: Factored | Direct, b: Factored | Direct) -> Tensor:
    a = a.dense() if isinstance(a, ConvPair) else a
    return _inner(a, b.dense() if isinstance(b, ConvPair) else b)


def _inner(a: Framed | Direct, b: Framed | Direct) -> Tensor:
    if isinstance(a, Direct):
        return _direct_direct(a, b) if isinstance(b, Direct) else _with_direct(b, a)
    if isinstance(b, Direct):
        return _with_direct(a, b)
    met = shared(a, b)
    if met is None:
        each = math.prod(b.frame.leaf)
        return _blocks.over_samples(_with_materialized, each, a, b)
    if met.is_empty():
        return _zeros(a)
    return _framed(met.a, met.b)


def _zeros(use: Framed) -> Tensor:
    like = use.left if isinstance(use, DensePair) else use.values
    return wide(like).new_zeros(like.shape[0])


def _direct_direct(a: Direct, b: Direct) -> Tensor:
    return (wide(a.value) * wide(b.value)).reshape(a.value.shape[0], -1).sum(1)


def _with_materialized(a: Framed, b: Framed) -> Tensor:
    return _with_direct(a, Direct(b.materialize()))


def _with_direct(a: Framed, b: Direct) -> Tensor:
    matrices = a.frame.take(wide(b.value))
    if isinstance(a, DensePair):
        return _dense_matrices(a, matrices)
    return (_looked_up(matrices[:, 0], a.index) * wide(a.values)).sum((1, 2))


def _framed(a: Framed, b: Framed) -> Tensor:
    """Of two uses of the same matrices."""
    if isinstance(a, IndexPair):
        if isinstance(b, DensePair):
            return _with_dense(b, a)
        each = a.index.shape[1] * b.index.shape[1]
        return _blocks.over_samples(_index_index, each, a, b)
    return _with_dense(a, b)


def _with_dense(a: DensePair, b: Framed) -> Tensor:
    _, groups, positions, rows = a.left.shape
    others = b.index.shape[1] if isinstance(b, IndexPair) else b.left.shape[2]
    numbers = rows * a.right.shape[3]
    if 2 * positions * others <= numbers:
        function = _dense_index if isinstance(b, IndexPair) else _dense_dense
        return _blocks.over_samples(function, groups * positions * others, a, b)
    if isinstance(b, DensePair) and others > positions:
        a, b = b, a  # the sum over more positions is the one that is formed
    return _blocks.over_samples(_with_matrices, groups * numbers, a, b)


def _dense_dense(a: DensePair, b: DensePair) -> Tensor:
    rows = wide(a.left) @ wide(b.left).mT
    columns = wide(a.right) @ wide(b.right).mT
    return (rows * columns).sum((1, 2, 3))


def _dense_index(a: DensePair, b: IndexPair) -> Tensor:
    # Row r of the table's gradient meets row r of every outer product: a.left at the
    # rows that were looked up, (B, dense positions, looked-up positions).
    left, right = wide(a.left)[:, 0], wide(a.right)[:, 0]
    where = b.index.unsqueeze(1).expand(-1, left.shape[1], -1)
    looked_up = torch.gather(left, 2, where)
    return (looked_up * (right @ wide(b.values).mT)).sum((1, 2))


def _index_index(a: IndexPair, b: IndexPair) -> Tensor:
    same = a.index.unsqueeze(2) == b.index.unsqueeze(1)
    return torch.where(same, wide(a.values) @ wide(b.values).mT, 0.0).sum((1, 2))


def _with_matrices(a: DensePair, b: Framed) -> Tensor:
    matrices = wide(a.left).mT @ wide(a.right)
    if isinstance(b, DensePair):
        return _dense_matrices(b, matrices)
    return (_looked_up(matrices[:, 0], b.index) * wide(b.values)).sum((1, 2))


def _dense_matrices(a: DensePair, matrices: Tensor) -> Tensor:
    """With gradients that are there, `(B, groups, rows, columns)`."""
    left, right = wide(a.left), wide(a.right)
    if left.shape[2] > left.shape[3]:  # more positions than rows
        return ((left.mT @ right) * matrices).sum((1, 2, 3))
    return ((left @ matrices) * right).sum((1, 2, 3))


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of each sample's table: `(B, rows, columns)` at `(B, positions)`."""
    where = index.unsqueeze(-1).expand(-1, -1, table.shape[2])
    return torch.gather(table, 1, where)
