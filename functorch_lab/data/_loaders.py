# SPDX-License-Identifier: Apache-2.0
"""What a `torch.utils.data.DataLoader` gives, as batches for a compiled step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from functorch_lab import tree
from functorch_lab.data._checks import length
from functorch_lab.data._devices import present_device
from functorch_lab.data._epochs import as_batch
from functorch_lab.data._prefetch import moved, moved_ahead
from functorch_lab.data._seeded import seeded
from functorch_lab.types import Key

_WHERE = "data.from_dataloader"


@dataclass(frozen=True, eq=False)
class LoaderBatches:
    """The passes over a loader: each in its own order, or `self(key)` in the key's."""

    loader: Iterable[Any]
    device: torch.device | None
    masked: bool
    prefetch: bool
    key: Key | None = None

    def __call__(self, key: Key) -> "LoaderBatches":
        return type(self)(self.loader, self.device, self.masked, self.prefetch, key)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        loader = self.loader if self.key is None else seeded(self.loader, self.key)
        batches = _of_one_size(loader, self.masked)
        if self.device is None:
            return batches
        move = moved_ahead if self.prefetch else moved
        return move(batches, self.device)


class SizedLoaderBatches(LoaderBatches):
    """The same, where the number of batches is known before they are read."""

    def __len__(self) -> int:
        steps = _steps(self.loader, self.masked)
        assert steps is not None
        return steps


def from_dataloader(
    loader: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    masked: bool = False,
    prefetch: bool = True,
) -> LoaderBatches:
    """Read a `torch.utils.data.DataLoader` as batches for a compiled step.

    Iterated, the result gives the batches of a pass in the loader's own order. Called
    with a key, it gives those of a pass in an order that is a function of the key:
    `train.fit` does so, and goes on in the same order where a run was interrupted.
    For that pass the loader and its samplers draw from a `random.generator(key)` in
    place of their own `generator`, which is left as it was; a sampler with `set_epoch`
    gets a number made from the key. Workers are seeded from it too, so that what a data
    set draws in them by torch is repeated, except with `persistent_workers`, which keep
    their numbers from pass to pass. What can't be repeated: the order of a sampler that
    draws from elsewhere, and what a data set draws without workers.

    Args:
        loader: Gives tensors, or trees of tensors, with a leading batch axis.
        device: Where the batches are put; left where they are if None.
        masked: Give smaller batches too, filled with copies of their first sample.
            Each tuple ends with a mask, bool of shape (batch,), which is False for the
            copies: for a step that `train.make_step(..., masked=True)` made. Otherwise
            a smaller last batch is left out, since its shape would compile the step
            again.
        prefetch: On a CUDA device, read one batch ahead into pinned memory and copy it
            while the device computes. Elsewhere nothing changes.

    Returns:
        An iterable, as often as the loader is, that gives a tuple of trees per step: a
        tuple or list as its elements, anything else, such as a dict, as one. Called
        with a key, it returns the same for that key. It has a length where the loader
        has a sampler of known length and batches of a fixed size.

    Raises:
        TypeError: If `loader` can't be iterated; while iterating, if a leaf is not a
            tensor.
        ValueError: If there is no such device; while iterating, if there is no batch,
            or one differs from the first in structure, dtype or shape (the last may be
            smaller, with `masked` each).

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from functorch_lab import data, random
        >>> samples = TensorDataset(torch.arange(5.0))
        >>> passes = data.from_dataloader(DataLoader(samples, batch_size=2))
        >>> [x.tolist() for (x,) in passes]
        [[0.0, 1.0], [2.0, 3.0]]
        >>> loader = DataLoader(samples, batch_size=2, shuffle=True)
        >>> passes = data.from_dataloader(loader, masked=True)
        >>> key = random.key(0)
        >>> first, again = list(passes(key)), list(passes(key))
        >>> all(torch.equal(a[0], b[0]) for a, b in zip(first, again))
        True
        >>> first[-1][1]
        tensor([ True, False])
    """
    if not isinstance(loader, Iterable):
        raise TypeError(
            f"{_WHERE}: loader: expected a DataLoader or an iterable of batches, got "
            f"{type(loader).__name__}. Wrap a data set in a DataLoader."
        )
    if device is not None:
        device = present_device(device, where=_WHERE)
    kind = LoaderBatches if _steps(loader, masked) is None else SizedLoaderBatches
    return kind(loader, device, masked, prefetch)


def _steps(loader: Any, masked: bool) -> int | None:
    # None where it can't be known: `fit` finds its place in an epoch by this number.
    if not isinstance(loader, DataLoader) or isinstance(
        loader.dataset, IterableDataset
    ):
        return None
    batches: Any = loader.batch_sampler
    try:
        if masked:
            return len(loader)
        if type(batches) is not BatchSampler:
            return None
        samples = len(batches.sampler)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None
    # Fewer samples than a batch holds are one batch, of their own size.
    return samples // batches.batch_size or min(samples, 1 - batches.drop_last)


def _of_one_size(loader: Iterable[Any], masked: bool) -> Iterator[tuple[Any, ...]]:
    first: tuple[Any, int] | None = None
    ragged: tuple[int, int] | None = None
    for number, item in enumerate(loader):
        batch = as_batch(item)
        size = length(batch, where=_WHERE, argument=f"batch {number}")
        if first is None:
            first = batch, size
        if ragged is not None and not masked:
            raise ValueError(
                f"{_WHERE}: batch {ragged[0]}: expected {first[1]} samples in "
                f"every batch but the last, got {ragged[1]}. Use masked=True, or "
                "drop_last=True in the loader."
            )
        _check_alike(first[0], batch, number)
        if size > first[1]:
            raise ValueError(
                f"{_WHERE}: batch {number}: expected {first[1]} samples, as in "
                f"batch 0, got {size}. Use a sampler with a constant batch size."
            )
        if size < first[1]:
            ragged = number, size
        if masked:
            yield _filled(batch, size, first[1])
        elif ragged is None:
            yield batch
    if first is None:
        raise ValueError(
            f"{_WHERE}: loader: expected at least one batch, got none. Check the "
            "data set's length and drop_last against the batch size."
        )


def _filled(batch: tuple[Any, ...], size: int, full: int) -> tuple[Any, ...]:
    device = tree.leaves(batch)[0].device
    mask = torch.arange(full, device=device) < size
    if size < full:
        rows = torch.arange(full, device=device) * mask  # row 0 where it is False
        batch = tree.map(lambda leaf: leaf[rows.to(leaf.device)], batch)
    return *batch, mask


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
