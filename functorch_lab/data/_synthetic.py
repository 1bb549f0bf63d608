# SPDX-License-Identifier: Apache-2.0
"""Small classification data sets in the plane, drawn from a key."""

import math

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.data._checks import check_count, check_scale
from functorch_lab.types import Key

# Leg length and wingspan.
_FLAMINGO, _DUCK = (8.0, 7.0), (5.0, 3.0)


def birds(
    key: Key, n: int = 10, *, sigma: float | Tensor = 1.5
) -> tuple[Tensor, Tensor]:
    """Two kinds of birds by leg length and wingspan: two overlapping normal clouds.

    Args:
        key: Decides all numbers.
        n: Number of birds of each kind, at least 1.
        sigma: Standard deviation of both features within a kind, 0 or more.

    Returns:
        The birds (x, y) on the key's device. x has the shape (2 n, 2) and the default
        dtype: first n flamingos around (8, 7), then n ducks around (5, 3). y is int64
        of shape (2 n,), 0 for a flamingo and 1 for a duck.

    Raises:
        TypeError: If `n` is not an int or `sigma` not a number.
        ValueError: If `n` < 1 or `sigma` < 0.

    Example:
        >>> from functorch_lab import data, random
        >>> x, y = data.birds(random.key(0), 2, sigma=0.0)
        >>> x.tolist(), y.tolist()
        ([[8.0, 7.0], [8.0, 7.0], [5.0, 3.0], [5.0, 3.0]], [0, 0, 1, 1])
    """
    check_count(n, where="data.birds", argument="n")
    check_scale(sigma, where="data.birds", argument="sigma")
    spread = sigma * random.normal(key, (2 * n, 2))
    means = torch.tensor((_FLAMINGO, _DUCK), dtype=spread.dtype, device=key.device)
    y = torch.arange(2 * n, device=key.device) // n
    return means[y] + spread, y


def circles(
    key: Key, n: int, *, noise: float | Tensor = 0.1, factor: float | Tensor = 0.5
) -> tuple[Tensor, Tensor]:
    """Two circles around the origin, which no line separates.

    Args:
        key: Decides all numbers.
        n: Number of samples in all, at least 2.
        noise: Standard deviation of what is added to both coordinates, 0 or more.
        factor: Radius of the inner circle, between 0 and 1; that of the outer is 1.

    Returns:
        The samples (x, y) on the key's device. x has the shape (n, 2) and the default
        dtype, at uniformly random angles: first the outer circle, then n // 2 samples
        of the inner one. y is int64 of shape (n,), 0 outside and 1 inside.

    Raises:
        TypeError: If `n` is not an int, or `noise` or `factor` not a number.
        ValueError: If `n` < 2, `noise` < 0, or `factor` is not between 0 and 1.

    Example:
        >>> from functorch_lab import data, random
        >>> x, y = data.circles(random.key(0), 5, noise=0.0)
        >>> x.norm(dim=1).round(decimals=4).tolist(), y.tolist()
        ([1.0, 1.0, 1.0, 0.5, 0.5], [0, 0, 0, 1, 1])
    """
    where = "data.circles"
    check_count(n, where=where, argument="n", least=2)
    check_scale(noise, where=where, argument="noise")
    check_scale(factor, where=where, argument="factor")
    if not isinstance(factor, Tensor) and not 0 < factor < 1:
        raise ValueError(
            f"{where}: factor: expected a radius between 0 and 1, got {factor}. "
            "The outer circle has radius 1."
        )
    for_angle, for_noise = random.split(key).unbind(0)
    y = (torch.arange(n, device=key.device) >= n - n // 2).long()
    angle = 2 * math.pi * random.uniform(for_angle, (n,))
    radius = 1 - (1 - factor) * y.to(angle.dtype)
    x = radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=-1)
    return x + noise * random.normal(for_noise, (n, 2)), y


def checkerboard(
    key: Key, n: int, *, squares: int = 4, noise: float | Tensor = 0.0
) -> tuple[Tensor, Tensor]:
    """Points in a square, labelled by the colour of their square of a checkerboard.

    Args:
        key: Decides all numbers.
        n: Number of samples, at least 1.
        squares: Squares along each side, at least 1.
        noise: Standard deviation of what is added to both coordinates after the label
            is found, 0 or more.

    Returns:
        The samples (x, y) on the key's device. x has the shape (n, 2) and the default
        dtype, uniform in [-1, 1) before noise. y is int64 of shape (n,), 0 in the lower
        left square and 1 in its neighbours.

    Raises:
        TypeError: If `n` or `squares` is not an int, or `noise` not a number.
        ValueError: If `n` < 1, `squares` < 1, or `noise` < 0.

    Example:
        >>> from functorch_lab import data, random
        >>> x, y = data.checkerboard(random.key(0), 50, squares=2)
        >>> bool((y == (x[:, 0] * x[:, 1] < 0)).all())
        True
    """
    where = "data.checkerboard"
    check_count(n, where=where, argument="n")
    check_count(squares, where=where, argument="squares")
    check_scale(noise, where=where, argument="noise")
    for_x, for_noise = random.split(key).unbind(0)
    x = random.uniform(for_x, (n, 2), minval=-1.0, maxval=1.0)
    square = ((x + 1) * (squares / 2)).floor().long()
    return x + noise * random.normal(for_noise, (n, 2)), square.sum(-1) % 2


def spirals(
    key: Key,
    n: int,
    *,
    classes: int = 2,
    turns: float | Tensor = 1.0,
    noise: float | Tensor = 0.1,
) -> tuple[Tensor, Tensor]:
    """Interleaved spiral arms, one per class, from the origin to the unit circle.

    A sample at radius r of arm c lies at the angle 2 pi (turns r + c / classes).

    Args:
        key: Decides all numbers.
        n: Number of samples in all, at least one per class.
        classes: Number of arms, at least 1.
        turns: How often an arm goes around, anticlockwise; negative for clockwise.
        noise: Standard deviation of what is added to both coordinates, 0 or more.

    Returns:
        The samples (x, y) on the key's device. x has the shape (n, 2) and the default
        dtype, with radii uniform in [0, 1) before noise. y is int64 of shape (n,), in
        the order of the classes, whose sizes differ by one at most.

    Raises:
        TypeError: If `n` or `classes` is not an int, or `noise` not a number.
        ValueError: If `classes` < 1, `n` < `classes`, or `noise` < 0.

    Example:
        >>> from functorch_lab import data, random
        >>> x, y = data.spirals(random.key(0), 5, turns=0.0, noise=0.0)
        >>> x[:, 0].sign().tolist(), y.tolist()  # two half-lines
        ([1.0, 1.0, 1.0, -1.0, -1.0], [0, 0, 0, 1, 1])
    """
    where = "data.spirals"
    check_count(classes, where=where, argument="classes")
    check_count(n, where=where, argument="n", least=classes)
    check_scale(noise, where=where, argument="noise")
    for_radius, for_noise = random.split(key).unbind(0)
    y = torch.arange(n, device=key.device) * classes // n
    radius = random.uniform(for_radius, (n, 1))[:, 0]
    angle = 2 * math.pi * (turns * radius + y / classes)
    x = radius[:, None] * torch.stack((angle.cos(), angle.sin()), dim=-1)
    return x + noise * random.normal(for_noise, (n, 2)), y
