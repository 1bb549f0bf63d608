# SPDX-License-Identifier: Apache-2.0
"""The bridge to and from `torch.utils.data`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from functorch_lab import tree
from functorch_lab.data._checks import check_batch_size, length
from functorch_lab.data._devices import present_device
from functorch_lab.data._epochs import as_batch, epoch
from functorch_lab.types import Key

_WHERE = "data.from_dataloader"


@dataclass(frozen=True, eq=False)
class _LoaderBatches:
    loader: Iterable[Any]
    device: torch.device | None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        first: tuple[Any, int] | None = None
        ragged: tuple[int, int] | None = None
        for number, item in enumerate(self.loader):
            batch = as_batch(item)
            size = length(batch, where=_WHERE, argument=f"batch {number}")
            if first is None:
                first = batch, size
            if ragged is not None:
                raise ValueError(
                    f"{_WHERE}: batch {ragged[0]}: expected {first[1]} samples in "
                    f"every batch but the last, got {ragged[1]}. Use a sampler with a "
                    "constant batch size."
                )
            _check_alike(first[0], batch, number)
            if size < first[1]:
                ragged = number, size
                continue
            if size > first[1]:
                raise ValueError(
                    f"{_WHERE}: batch {number}: expected {first[1]} samples, as in "
                    f"batch 0, got {size}. Use a sampler with a constant batch size."
                )
            yield batch if self.device is None else tree.to(batch, self.device)
        if first is None:
            raise ValueError(
                f"{_WHERE}: loader: expected at least one batch, got none. Check the "
                "data set's length and drop_last against the batch size."
            )


def from_dataloader(
    loader: Iterable[Any], *, device: torch.device | str | None = None
) -> Iterable[tuple[Any, ...]]:
    """Read a `torch.utils.data.DataLoader` as batches for a compiled step.

    The order is the loader's own: for one that is a pure function of a key, use
    `batches`. A smaller last batch is left out, since its shape would compile the
    step again.

    Args:
        loader: Gives tensors, or trees of tensors, with a leading batch axis.
        device: Where the batches are put; left where they are if None.

    Returns:
        An iterable, as often as the loader is, that gives a tuple of trees per step: a
        tuple or list as its elements, anything else, such as a dict, as one.

    Raises:
        TypeError: While iterating, if a leaf is not a tensor.
        ValueError: If there is no such device; while iterating, if there is no batch,
            or one differs from the first in structure, dtype or shape (the last may be
            smaller).

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from functorch_lab import data
        >>> loader = DataLoader(TensorDataset(torch.arange(5.0)), batch_size=2)
        >>> [x.tolist() for (x,) in data.from_dataloader(loader)]
        [[0.0, 1.0], [2.0, 3.0]]
    """
    if device is not None:
        device = present_device(device, where=_WHERE)
    return _LoaderBatches(loader, device)


def _check_alike(first: Any, batch: Any, number: int) -> None:
    # One structure, and one shape after the batch axis.
    names = ("batch 0", f"batch {number}")
    if tree.structure(first) != tree.structure(batch):
        raise ValueError(
            f"{_WHERE}: {names[1]}: expected the structure {tree.structure(first)} of "
            f"batch 0, got {tree.structure(batch)}. Give every batch one structure."
        )
    leaves = zip(tree.paths(batch), tree.leaves(first), tree.leaves(batch), strict=True)
    for path, old, new in leaves:
        expected, got = _sample(old), _sample(new)
        if expected != got:
            raise ValueError(
                f"{_WHERE}: {names[1]} at {path}: expected samples of {expected}, as "
                f"in batch 0, got {got}. Resize or pad the samples to one shape."
            )


def _sample(leaf: Tensor) -> str:
    return f"{tuple(leaf.shape[1:])} {leaf.dtype}"


class _TreeDataset(Dataset):
    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays
        self._length = length(arrays, where="data.to_dataset")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return tree.map(lambda leaf: leaf[index], self._arrays)


def to_dataset(arrays: Any) -> Dataset:
    """A `torch.utils.data.Dataset` of the samples of a tree of tensors.

    Args:
        arrays: Tree of tensors of shape (n, ...).

    Returns:
        A map-style data set of n trees, structured as `arrays`.

    Raises:
        TypeError: If a leaf is not a tensor.
        ValueError: If lengths differ or there are no samples.

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> samples = data.to_dataset({"x": torch.tensor([5, 7])})
        >>> len(samples), samples[1]
        (2, {'x': tensor(7)})
    """
    return _TreeDataset(arrays)


def to_dataloader(
    arrays: Any, batch_size: int, *, key: Key | None = None, drop_last: bool = True
) -> DataLoader:
    """A `torch.utils.data.DataLoader` over a tree of tensors, for torch code.

    Args:
        arrays: Tree of tensors of shape (n, ...).
        batch_size: Samples per batch, 1 to n.
        key: Gives the loader the order of `epoch(key, n, batch_size)` in every pass;
            the stored order if None.
        drop_last: Leave out a smaller last batch, otherwise give it as it is.

    Returns:
        A loader of batches, each collated by torch's rules.

    Raises:
        TypeError: If a leaf is not a tensor, or `batch_size` is not an int.
        ValueError: If lengths differ or `batch_size` is not in 1 .. n.

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> loader = data.to_dataloader((torch.tensor([5, 6, 7]),), 2, drop_last=False)
        >>> [x.tolist() for (x,) in loader]
        [[5, 6], [7]]
    """
    dataset = to_dataset(arrays)
    n = length(arrays, where="data.to_dataloader")
    check_batch_size(batch_size, n, where="data.to_dataloader")
    order = range(n) if key is None else epoch(key, n, 1).flatten().tolist()
    return DataLoader(dataset, batch_size, sampler=order, drop_last=drop_last)
