# SPDX-License-Identifier: Apache-2.0
"""How much is computed at once where the whole would be batch x parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from functorch_lab import tree

# The numbers that a buffer may hold: 64 MiB in float32. One matrix of a leaf, which the
# plain gradient forms as well, may be larger.
NUMBERS = 2**24

T = TypeVar("T")


def spans(total: int, each: int) -> list[tuple[int, int]]:
    """The ranges of as many items, of `each` numbers, as a buffer holds."""
    step = max(1, NUMBERS // max(1, each))
    return [(begin, min(begin + step, total)) for begin in range(0, total, step)]


def count(use: object) -> int:
    """How many samples a use is of."""
    return tree.leaves(use)[0].shape[0]


def samples(use: T, begin: int, end: int) -> T:
    """The use of some of the samples."""
    if (begin, end) == (0, count(use)):
        return use
    return tree.map(lambda tensor: tensor[begin:end], use)


def over_samples(function: Callable[..., Tensor], each: int, *uses: object) -> Tensor:
    """`function(*uses)`, of as many samples at a time as a buffer holds.

    Args:
        function: gives a tensor with a leading axis of samples.
        each: the numbers that it needs for one sample.
        uses: what it takes, of the same samples.
    """
    parts = [
        function(*[samples(use, *span) for use in uses])
        for span in spans(count(uses[0]), each)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
