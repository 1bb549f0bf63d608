# SPDX-License-Identifier: Apache-2.0
"""Scaling to an interval with the training part's extremes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from functorch_lab.data._checks import check_interval
from functorch_lab.data._splits import scaled_alike


def min_max(
    train: Any,
    *others: Any,
    dims: Sequence[int] = (0,),
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[Any, ...]:
    """Shift and scale features so that those of `train` reach from `low` to `high`.

    Least and greatest value are those of `train` alone, so that `others` may lie
    outside the interval. A feature that is constant in `train` becomes `low` there: it
    is shifted, and scaled by `high - low` alone. Leaves that are not floating point,
    such as labels, are returned as they are.

    Args:
        train: Tree of tensors, each of shape (n, ...).
        others: Trees of the same structure, scaled with the numbers of `train`.
        dims: The axes that share one pair of extremes: (0,) treats every feature by
            itself, (0, 2, 3) every channel of images (n, channels, height, width).
        low: What the least value becomes, exactly.
        high: What the greatest value becomes, exactly.

    Returns:
        The scaled trees, `train` first.

    Raises:
        TypeError: If a leaf of `train` is not a tensor.
        ValueError: If not `low` < `high`, both finite, `train` is empty, a value is
            not finite (the first such index is named), or `others` are structured
            differently.

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> train, test = torch.tensor([[1.0], [5.0]]), torch.tensor([[9.0]])
        >>> [x.tolist() for x in data.min_max(train, test)]
        [[[0.0], [1.0]], [[2.0]]]
    """
    check_interval(low, high, where="data.min_max")
    scale = partial(_min_max, low=low, high=high)
    return scaled_alike("data.min_max", scale, train, others, dims)


def _min_max(
    leaves: tuple[Tensor, ...], dims: tuple[int, ...], *, low: float, high: float
) -> list[Tensor]:
    least = leaves[0].amin(dims, keepdim=True)
    span = leaves[0].amax(dims, keepdim=True) - least
    span = torch.where(span > 0, span, torch.ones_like(span))
    shares = [(leaf - least) / span for leaf in leaves]
    # Unlike low + (high - low) share, exact at both ends.
    return [(1 - share) * low + share * high for share in shares]
