# SPDX-License-Identifier: Apache-2.0
"""Splitting a data set by key, and scaling it with the training part's statistics."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.data._checks import check_finite, length
from functorch_lab.types import Key


def split(key: Key, arrays: Any, fractions: Sequence[float]) -> tuple[Any, ...]:
    """Divide a data set at random into disjoint parts that together are all of it.

    Part sizes are the differences of the rounded cumulative fractions. Which sample
    goes where is a pure function of the key and of the number of samples.

    Args:
        key: The key that orders the samples.
        arrays: Tree of tensors, each of shape (n, ...).
        fractions: Share of each part; positive, together 1.

    Returns:
        One tree per fraction, structured as `arrays`.

    Raises:
        TypeError: If a leaf is not a tensor, or `fractions` no sequence of numbers.
        ValueError: If the fractions are not positive or do not add up to 1, a part
            would be empty, or the leaves differ in length.

    Example:
        >>> import torch
        >>> from functorch_lab import data, random
        >>> parts = data.split(random.key(0), torch.arange(10), (0.8, 0.2))
        >>> [len(part) for part in parts], int(sum(part.sum() for part in parts))
        ([8, 2], 45)
    """
    where = "data.split"
    n = length(arrays, where=where)
    if not isinstance(fractions, Sequence) or not all(
        isinstance(f, Real) for f in fractions
    ):
        raise TypeError(
            f"{where}: fractions: expected a sequence of numbers, got {fractions!r}. "
            "Give e.g. (0.8, 0.2)."
        )
    total = sum(fractions)
    if not fractions or not all(f > 0 for f in fractions) or abs(total - 1) > 1e-6:
        raise ValueError(
            f"{where}: fractions: expected positive shares that add up to 1, got "
            f"{tuple(fractions)} (sum {total:g}). Give e.g. (0.8, 0.2)."
        )
    ends = [round(n * sum(fractions[: i + 1])) for i in range(len(fractions))]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if 0 in sizes:
        raise ValueError(
            f"{where}: fractions: expected parts of at least one sample, got sizes "
            f"{sizes} for n = {n}. Give larger fractions or more samples."
        )
    order = random.permutation(key, n)
    return tuple(
        tree.map(lambda leaf, rows=rows: leaf[rows.to(leaf.device)], arrays)
        for rows in order.split(sizes)
    )


def standardize(
    train: Any, *others: Any, dims: Sequence[int] = (0,)
) -> tuple[Any, ...]:
    """Shift and scale features to mean 0 and standard deviation 1.

    Mean and (population) standard deviation are those of `train` alone: statistics
    of held-out samples would leak into training. A feature that is constant in
    `train` is shifted, not scaled. Leaves that are not floating point, such as
    labels, are returned as they are.

    Args:
        train: Tree of tensors, each of shape (n, ...).
        others: Trees of the same structure, scaled with the numbers of `train`.
        dims: The axes that share one mean: (0,) treats every feature by itself,
            (0, 2, 3) every channel of images (n, channels, height, width).

    Returns:
        The scaled trees, `train` first.

    Raises:
        TypeError: If a leaf of `train` is not a tensor.
        ValueError: If `train` is empty, a value is not finite (the first such index
            is named), or `others` are structured differently.

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> train, test = torch.tensor([[1.0], [5.0]]), torch.tensor([[9.0]])
        >>> [x.tolist() for x in data.standardize(train, test)]
        [[[-1.0], [1.0]], [[3.0]]]
    """
    return scaled_alike("data.standardize", _standardized, train, others, dims)


def scaled_alike(
    where: str,
    scale: Callable[[tuple[Tensor, ...], tuple[int, ...]], list[Tensor]],
    train: Any,
    others: Sequence[Any],
    dims: Sequence[int],
) -> tuple[Any, ...]:
    # `scale` is given a floating leaf of train and the same leaf of each other tree.
    length(train, where=where, argument="train")
    for other in others:
        if tree.structure(other) != tree.structure(train):
            raise ValueError(
                f"{where}: others: expected the structure of train, "
                f"{tree.structure(train)}, got {tree.structure(other)}. Pass the same "
                "kind of tree for every part."
            )
    for number, part in enumerate((train, *others)):
        name = f"others[{number - 1}]" if number else "train"
        for path, leaf in zip(tree.paths(part), tree.leaves(part), strict=True):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                argument = f"{name} at {path}" if path else name
                check_finite(leaf, where=where, argument=argument)
    columns = zip(*(tree.leaves(part) for part in (train, *others)), strict=True)
    scaled = [
        scale(column, tuple(dims)) if column[0].is_floating_point() else column
        for column in columns
    ]
    return tuple(
        tree.unflatten(tree.structure(train), part)
        for part in zip(*scaled, strict=True)
    )


def _standardized(leaves: tuple[Tensor, ...], dims: tuple[int, ...]) -> list[Tensor]:
    train = leaves[0]
    mean = train.mean(dims, keepdim=True)
    std = train.std(dims, keepdim=True, correction=0)
    # A constant feature has a rounding error for its deviation, not exactly zero.
    floor = 10 * torch.finfo(train.dtype).eps * mean.abs()
    std = torch.where(std > floor, std, torch.ones_like(std))
    return [(leaf - mean) / std for leaf in leaves]
