# SPDX-License-Identifier: Apache-2.0
"""Batches of samples that come one after another and need not fit into memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.data._checks import check_count
from functorch_lab.data._epochs import as_batch
from functorch_lab.types import Key

_WHERE = "data.stream"
_DRAWS = 1024  # slots drawn at once: a draw costs as much for 1024 numbers as for one


@dataclass(frozen=True, eq=False)
class _Stream:
    samples: Iterable[Any]
    batch_size: int
    drop_last: bool
    key: Key | None
    buffer_size: int | None

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        samples = _checked(self.samples)
        if self.key is not None and self.buffer_size is not None:
            samples = _shuffled(samples, self.key, self.buffer_size)
        batch: list[Any] = []
        count = 0
        for sample in samples:
            batch.append(sample)
            if len(batch) == self.batch_size:
                count += 1
                yield as_batch(tree.stack(batch))
                batch = []
        if not count and not batch:
            raise ValueError(
                f"{_WHERE}: samples: expected at least one sample, got none. If it is "
                "a generator, which gives its samples once, pass a list, or an object "
                "whose __iter__ starts again."
            )
        if batch and not self.drop_last:
            yield as_batch(tree.stack(batch))
        elif not count:
            raise ValueError(
                f"{_WHERE}: batch_size: expected 1 .. {len(batch)} (the number of "
                f"samples) with drop_last, got {self.batch_size}. Choose a batch that "
                "the data can fill."
            )


def stream(
    samples: Iterable[Any],
    batch_size: int,
    *,
    drop_last: bool = False,
    key: Key | None = None,
    buffer_size: int | None = None,
) -> Iterable[tuple[Any, ...]]:
    """Batches of samples as they come, of which only a few are held at a time.

    With `key` and `buffer_size` the order is shuffled locally: each sample that comes
    takes the place of a random one of those in the buffer, which goes out. The order
    is a pure function of the key and of the order in which samples come, and it is a
    permutation as uniform as that of `epoch` if the buffer holds them all.

    Args:
        samples: Gives samples: tensors, or trees of tensors, without a batch axis. A
            tuple such as (x, y) gives the arguments of a step after its state.
        batch_size: Samples per batch, at least 1.
        drop_last: Leave out a smaller last batch, for which a compiled step would be
            built again.
        key: The key of this pass; the samples stay in their order if None.
        buffer_size: Number of samples among which is shuffled, at least 1.

    Returns:
        An iterable, as often as `samples` is, that gives a tuple of trees per batch,
        every leaf with a leading batch axis; what is not a tuple or list comes as a
        tuple of one.

    Raises:
        TypeError: If `samples` can't be iterated or a size is not an int; while
            iterating, if a leaf is not a tensor.
        ValueError: If a size is less than 1, or of `key` and `buffer_size` only one is
            given; while iterating, if there is no batch, or a sample differs from
            the first in structure, shape or dtype (its number is named).

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> squares = [(torch.tensor(i), torch.tensor(i * i)) for i in range(5)]
        >>> for x, y in data.stream(squares, 2):
        ...     print(x.tolist(), y.tolist())
        [0, 1] [0, 1]
        [2, 3] [4, 9]
        [4] [16]
    """
    if not isinstance(samples, Iterable):
        raise TypeError(
            f"{_WHERE}: samples: expected an iterable of samples, got "
            f"{type(samples).__name__}. Pass a list or an object with __iter__."
        )
    check_count(batch_size, where=_WHERE, argument="batch_size")
    if buffer_size is not None:
        check_count(buffer_size, where=_WHERE, argument="buffer_size")
    if (key is None) != (buffer_size is None):
        given, other = ("buffer_size", "key") if key is None else ("key", "buffer_size")
        raise ValueError(
            f"{_WHERE}: {other}: expected one together with {given}, got None. Give "
            "both to shuffle, or neither."
        )
    return _Stream(samples, batch_size, drop_last, key, buffer_size)


def _checked(samples: Iterable[Any]) -> Iterator[Any]:
    # Each sample as it comes, if it is structured like the first.
    first: Any = None
    for number, sample in enumerate(samples):
        if number == 0:
            _check_leaves(sample)
            first = sample
        names = ("sample 0", f"sample {number}")
        tree.check_same_structure(first, sample, what=_WHERE, names=names)
        yield sample


def _check_leaves(sample: Any) -> None:
    for path, leaf in zip(tree.paths(sample), tree.leaves(sample), strict=True):
        if not isinstance(leaf, Tensor):
            at = f" at {path}" if path else ""
            raise TypeError(
                f"{_WHERE}: sample 0{at}: expected a tensor, got "
                f"{type(leaf).__name__} {leaf!r:.40}. Convert it with torch.as_tensor."
            )


def _shuffled(samples: Iterator[Any], key: Key, size: int) -> Iterator[Any]:
    for_slots, for_rest = random.split(key).unbind(0)
    buffer: list[Any] = []
    slots: list[int] = []
    block = 0
    for sample in samples:
        if len(buffer) < size:
            buffer.append(sample)
            continue
        if not slots:
            draws = random.randint(random.fold_in(for_slots, block), _DRAWS, 0, size)
            slots, block = draws.tolist(), block + 1
        slot = slots.pop()
        yield buffer[slot]
        buffer[slot] = sample
    for slot in random.permutation(for_rest, len(buffer)).tolist():
        yield buffer[slot]
