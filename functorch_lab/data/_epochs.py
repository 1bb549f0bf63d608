# SPDX-License-Identifier: Apache-2.0
"""Batches in an order that is a pure function of a key, and never change shape."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.data._checks import check_batch_size, length
from functorch_lab.types import Key


def epoch(key: Key, n: Any, batch_size: int, *, drop_last: bool = True) -> Tensor:
    """The order of one pass over a data set, as rows of sample indices.

    Every batch is full, so that a compiled step sees one shape. What does not fill
    a last batch is left out of this pass (`drop_last`), or that batch is completed
    with the first samples of the order, which then occur twice.

    Args:
        key: The key of this pass, e.g. `random.fold_in(key, epoch_number)`.
        n: Number of samples, or a tree of tensors of shape (n, ...).
        batch_size: Samples per batch, 1 to n.
        drop_last: Leave out the remainder, instead of completing its batch.

    Returns:
        int64 indices, shape (steps, batch_size), on the key's device; steps is
        n // batch_size, rounded up if not `drop_last`.

    Raises:
        TypeError: If `batch_size` is not an int.
        ValueError: If `batch_size` is not in 1 .. n, or there are no samples.

    Example:
        >>> from functorch_lab import data, random
        >>> order = data.epoch(random.key(0), 7, 3)
        >>> order.shape, order.unique().numel()
        (torch.Size([2, 3]), 6)
    """
    where = "data.epoch"
    if not isinstance(n, int):
        n = length(n, where=where, argument="n")
    if n < 1:
        raise ValueError(
            f"{where}: n: expected at least one sample, got {n}. "
            "Check the split's fractions or the filter that made the data."
        )
    check_batch_size(batch_size, n, where=where)
    steps = n // batch_size if drop_last else -(-n // batch_size)
    order = random.permutation(key, n)
    order = torch.cat([order, order])[: steps * batch_size]
    return order.reshape(steps, batch_size)


@dataclass(frozen=True, eq=False)
class Batches:
    """One pass over a data set: its length is known, it can be iterated again."""

    arrays: Any
    order: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return self.order.shape[0]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        # Each batch is gathered into memory of its own: views of one large gather
        # start at other alignments, for which a compiled step is built again.
        for i, rows in enumerate(self.order):
            batch = tree.map(lambda leaf, rows=rows: leaf[rows], self.arrays)
            mask = () if self.mask is None else (self.mask[i].clone(),)
            yield *as_batch(batch), *mask


def batches(
    key: Key,
    arrays: Any,
    batch_size: int,
    *,
    drop_last: bool = True,
    masked: bool = False,
) -> Batches:
    """One pass over a data set in the order of `epoch`.

    Args:
        key: The key of this pass.
        arrays: Tree of tensors of shape (n, ...); a tuple such as (x, y) gives the
            arguments of a step after its state.
        batch_size: Samples per batch, 1 to n.
        drop_last: See `epoch`.
        masked: Every sample once, whatever `drop_last` says: the copies that complete
            the last batch don't count. Each tuple ends with a mask, bool of shape
            (batch_size,), which is False for the copies: for a step that
            `train.make_step(..., masked=True)` made.

    Returns:
        An iterable with a length that gives a tuple of trees per step, every leaf of
        shape (batch_size, ...); what is not a tuple comes as a tuple of one.

    Raises:
        TypeError: If a leaf is not a tensor, or `batch_size` is not an int.
        ValueError: If lengths differ or `batch_size` is not in 1 .. n.

    Example:
        >>> import torch
        >>> from functorch_lab import data, random
        >>> key, x, y = random.key(0), torch.arange(6.0), torch.arange(6)
        >>> passed = data.batches(key, (x, y), 2)
        >>> len(passed), sorted(int(v) for _, y_batch in passed for v in y_batch)
        (3, [0, 1, 2, 3, 4, 5])
        >>> [mask.tolist() for *_, mask in data.batches(key, (x, y), 4, masked=True)]
        [[True, True, True, True], [True, True, False, False]]
    """
    n = length(arrays, where="data.batches")
    check_batch_size(batch_size, n, where="data.batches")
    order = epoch(key, n, batch_size, drop_last=drop_last and not masked)
    order = order.to(tree.leaves(arrays)[0].device)
    if not masked:
        return Batches(arrays, order)
    place = torch.arange(order.numel(), device=order.device)
    return Batches(arrays, order, (place < n).reshape(order.shape))


def masked_batches(
    arrays: Any, batch_size: int
) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Every sample once, in the stored order, in batches of one shape, for evaluation.

    Args:
        arrays: Tree of tensors of shape (n, ...).
        batch_size: Samples per batch, at least 1; n if larger than n.

    Yields:
        (batch, mask): a tuple of trees as from `batches`, and booleans of shape
        (batch_size,). The last batch is completed with copies of sample 0, where
        the mask is False.

    Raises:
        TypeError: If a leaf is not a tensor, or `batch_size` is not an int.
        ValueError: If lengths differ, there are no samples, or `batch_size` < 1.

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> for (x,), mask in data.masked_batches(torch.tensor([5, 6, 7]), 2):
        ...     print(x.tolist(), mask.tolist())
        [5, 6] [True, True]
        [7, 5] [True, False]
    """
    where = "data.masked_batches"
    n = length(arrays, where=where)
    if isinstance(batch_size, int) and batch_size > n:
        batch_size = n
    check_batch_size(batch_size, n, where=where)
    device = tree.leaves(arrays)[0].device
    for start in range(0, n, batch_size):
        rows = torch.arange(start, start + batch_size, device=device)
        mask = rows < n
        rows = torch.where(mask, rows, torch.zeros_like(rows))
        yield as_batch(tree.map(lambda leaf, rows=rows: leaf[rows], arrays)), mask


def as_batch(batch: Any) -> tuple[Any, ...]:
    """The arguments of a step: a tuple or list as it is, anything else as one."""
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
