# SPDX-License-Identifier: Apache-2.0
"""Trees of tensors as data sets and loaders of `torch.utils.data`, for torch code."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from functorch_lab import tree
from functorch_lab.data._checks import check_batch_size, length
from functorch_lab.data._epochs import epoch
from functorch_lab.types import Key


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
