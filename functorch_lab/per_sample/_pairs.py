# SPDX-License-Identifier: Apache-2.0
"""Inner products between two uses of one parameter, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor

from functorch_lab.per_sample._frame import wide
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused, Use


def inner(a: Use, b: Use) -> Tensor:
    """`<gradient of a, gradient of b>` of each sample, `(B,)`."""
    if isinstance(a, Unused):
        return a.zero
    if isinstance(b, Unused):
        return b.zero
    if isinstance(b, DensePair) and not isinstance(a, DensePair):
        a, b = b, a
    if isinstance(a, DensePair) and isinstance(b, DensePair):
        if a.frame == b.frame.transposed():
            b = DensePair(b.right, b.left, b.frame.transposed())
        if a.frame == b.frame:
            return _dense_dense(a, b)
    elif isinstance(a, DensePair) and isinstance(b, IndexPair):
        if a.frame == b.frame.transposed():
            a = DensePair(a.right, a.left, b.frame)
        if a.frame == b.frame:
            return _dense_index(a, b)
    elif isinstance(a, DensePair) and isinstance(b, Direct):
        left, right = wide(a.left), wide(a.right)
        matrices = a.frame.take(wide(b.value))
        return ((left @ matrices) * right).sum((1, 2, 3))
    product = a.materialize() * b.materialize()
    return product.reshape(product.shape[0], -1).sum(1)


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
