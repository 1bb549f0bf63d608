# SPDX-License-Identifier: Apache-2.0
"""Linear relations with noise, drawn from a key."""

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.data._checks import check_count, check_interval, check_scale
from functorch_lab.types import Key


def regression(
    key: Key,
    n: int,
    weight: Tensor | Sequence[float],
    bias: float | Tensor = 0.0,
    *,
    noise: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    """Samples of a linear function with normal noise: y = x @ weight + bias + noise e.

    Args:
        key: Decides all numbers; `x` and `e` do not depend on the other arguments.
        n: Number of samples, at least 1.
        weight: The d true weights, a tensor of shape (d,) or numbers.
        bias: The true intercept.
        noise: Standard deviation of what is added to `y`, 0 or more.

    Returns:
        The samples (x, y), x standard normal of shape (n, d), y of shape (n,). Both
        have the dtype of `weight` if that is a floating point tensor, else the default
        dtype, and are on the key's device.

    Raises:
        TypeError: If `n` is not an int, `noise` not a number, or `weight` neither a
            tensor nor a sequence of numbers.
        ValueError: If `n` < 1, `noise` < 0, or `weight` is not of shape (d,).

    Example:
        >>> from functorch_lab import data, random
        >>> x, y = data.regression(random.key(0), 5, (2.0, -3.0), 4.0)
        >>> true = 2 * x[:, 0] - 3 * x[:, 1] + 4
        >>> x.shape, y.shape, bool(((y - true).abs() < 1e-5).all())
        (torch.Size([5, 2]), torch.Size([5]), True)
    """
    where = "data.regression"
    check_count(n, where=where, argument="n")
    check_scale(noise, where=where, argument="noise")
    if not isinstance(weight, Tensor) and not (
        isinstance(weight, Sequence) and all(isinstance(w, Real) for w in weight)
    ):
        raise TypeError(
            f"{where}: weight: expected a tensor or a sequence of numbers, got "
            f"{type(weight).__name__} {weight!r:.40}. Give e.g. (2.0, -3.4)."
        )
    dtype = torch.get_default_dtype()
    if isinstance(weight, Tensor) and weight.is_floating_point():
        dtype = weight.dtype
    for_x, for_noise = random.split(key).unbind(0)
    weight = torch.as_tensor(weight, dtype=dtype, device=key.device)
    if weight.ndim != 1 or weight.shape[0] == 0:
        raise ValueError(
            f"{where}: weight: expected shape (d,), got {tuple(weight.shape)}. "
            "Give one number per feature, e.g. (2.0, -3.4)."
        )
    x = random.normal(for_x, (n, weight.shape[0]), dtype)
    return x, x @ weight + bias + noise * random.normal(for_noise, (n,), dtype)


def line(
    key: Key,
    n: int,
    *,
    slope: float | Tensor = 3.0,
    intercept: float | Tensor = 2.0,
    noise: float | Tensor = 0.0,
    low: float = -2.0,
    high: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Points on a line, with normal noise: y = slope x + intercept + noise e.

    Args:
        key: Decides all numbers; `e` does not depend on the other arguments.
        n: Number of points, at least 1.
        slope: Of the true line.
        intercept: Of the true line, at x = 0.
        noise: Standard deviation of what is added to `y`, 0 or more.
        low: Least x.
        high: Upper end of x, not reached.

    Returns:
        The points (x, y), each of shape (n, 1) in the default dtype, on the key's
        device; x is uniform in [low, high).

    Raises:
        TypeError: If `n` is not an int or `noise` not a number.
        ValueError: If `n` < 1, `noise` < 0, or not `low` < `high`, both finite.

    Example:
        >>> from functorch_lab import data, random
        >>> x, y = data.line(random.key(0), 5, slope=2.0, intercept=3.0)
        >>> x.shape, bool((y == 2 * x + 3).all())
        (torch.Size([5, 1]), True)
    """
    where = "data.line"
    check_count(n, where=where, argument="n")
    check_scale(noise, where=where, argument="noise")
    check_interval(low, high, where=where)
    for_x, for_noise = random.split(key).unbind(0)
    x = random.uniform(for_x, (n, 1), minval=low, maxval=high)
    return x, slope * x + intercept + noise * random.normal(for_noise, (n, 1))
