# SPDX-License-Identifier: Apache-2.0
"""Random orders of things, and choices among them."""

import math
from typing import Any

import torch
from torch import Tensor

from functorch_lab.random._arguments import (
    Shape,
    describe,
    require_key,
    require_shape,
    size,
)
from functorch_lab.random._continuous import gumbel, unit_uniform
from functorch_lab.random._discrete import randint
from functorch_lab.random._keys import split
from functorch_lab.random._threefry import bits32


def permutation(key: Tensor, x: int | Tensor, axis: int = 0) -> Tensor:
    """A random order of 0, ..., x - 1, or of the slices of a tensor.

    Args:
        key: a key.
        x: a number of things, or a tensor.
        axis: the axis of the tensor whose slices are reordered.

    Returns:
        int64 of shape (x,), or a tensor like `x`: the order of
        ``jax.random.permutation``.

    Raises:
        TypeError: if `key` is not a key, or `x` neither int nor tensor.
        ValueError: if `x` is negative or a 0-d tensor, or has no such axis.

    Example:
        >>> from functorch_lab import random
        >>> random.permutation(random.key(0), 5)
        tensor([0, 1, 4, 3, 2])
    """
    require_key("permutation", key)
    n = _count("permutation", "x", x, axis)
    order = _order(key, n)
    return x.index_select(axis, order) if isinstance(x, Tensor) else order


def choice(
    key: Tensor,
    a: int | Tensor,
    shape: Shape = (),
    replace: bool = True,
    p: Tensor | None = None,
    axis: int = 0,
) -> Tensor:
    """Things drawn from 0, ..., a - 1, or slices drawn from a tensor.

    Without replacement and with `p`: Gumbel top-k. Wouter Kool, Herke van Hoof and Max
    Welling, Stochastic Beams and Where to Find Them, ICML 2019, section 2.3,
    arXiv:1903.06059.

    Args:
        key: a key.
        a: a number of things, or a tensor.
        shape: shape of the draws.
        replace: whether a thing may come again.
        p: (things,) probabilities; None is uniform. Without replacement, at least as
            many as there are draws must be above 0.
        axis: the axis of the tensor from which slices are drawn.

    Returns:
        int64 of shape `shape`, or `a` with the axis replaced by `shape`: the draws of
        ``jax.random.choice``, with `p` up to ties in rounding.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong, or there are more draws than things.

    Example:
        >>> from functorch_lab import random
        >>> random.choice(random.key(0), 10, (3,), replace=False)
        tensor([0, 1, 8])
    """
    require_key("choice", key)
    n = _count("choice", "a", a, axis)
    shape = require_shape("choice", shape)
    draws = size(shape)
    if (not replace and draws > n) or (n == 0 and draws):
        raise ValueError(
            f"random.choice: shape: expected at most {n} draws, got {draws}. "
            "Draw fewer, or from more things, or with replace=True."
        )
    if p is not None and (
        not isinstance(p, Tensor) or not p.is_floating_point() or p.shape != (n,)
    ):
        kind = ValueError if isinstance(p, Tensor) else TypeError
        raise kind(
            f"random.choice: p: expected a floating-point tensor of shape ({n},), "
            f"got {describe(p)}. Give one probability per thing."
        )
    index = _draw(key, n, shape, replace, p)
    if not isinstance(a, Tensor):
        return index
    axis = axis % a.ndim
    taken = a.index_select(axis, index.reshape(-1))
    return taken.reshape(*a.shape[:axis], *shape, *a.shape[axis + 1 :])


def _draw(
    key: Tensor, n: int, shape: tuple[int, ...], replace: bool, p: Tensor | None
) -> Tensor:
    """Indices of `shape` below n."""
    if size(shape) == 0:
        return torch.zeros(shape, dtype=torch.int64, device=key.device)
    if p is None:
        if replace:
            return randint(key, shape, 0, n)
        return _order(key, n)[: size(shape)].reshape(shape)
    if replace:
        total = torch.cumsum(p, dim=0)
        r = total[-1] * (1 - unit_uniform(key, shape, p.dtype))
        # The number of thresholds below r; searchsorted has no rule for vmap.
        return (total < r.unsqueeze(-1)).sum(dim=-1)
    score = gumbel(key, (n,), p.dtype) + torch.log(p)
    return torch.topk(score, size(shape)).indices.reshape(shape)


def _order(key: Tensor, n: int) -> Tensor:
    """A random order of 0, ..., n - 1: sorts by random 32-bit keys, as JAX does.

    So many rounds that ties, which a sort leaves in order, leave no trace.
    """
    rounds = math.ceil(3 * math.log(max(1, n)) / math.log(2**32 - 1))
    order = torch.arange(n, dtype=torch.int64, device=key.device)
    for _ in range(rounds):
        key, subkey = split(key).unbind(0)
        # Flipping the sign bit sorts int32 as if unsigned.
        by = bits32(subkey, (n,)) ^ -(2**31)
        order = order.gather(0, torch.sort(by, stable=True).indices)
    return order


def _count(name: str, argument: str, x: Any, axis: int) -> int:
    """How many things there are; raise if `x` does not say."""
    if not isinstance(x, Tensor):
        if not isinstance(x, int | torch.SymInt) or isinstance(x, bool):
            raise TypeError(
                f"random.{name}: {argument}: expected an int or a tensor, "
                f"got {describe(x)}. Pass a number of things, or the things."
            )
        return require_shape(name, (x,), argument)[0]
    if x.ndim == 0:
        raise ValueError(
            f"random.{name}: {argument}: expected a tensor with an axis, "
            f"got {describe(x)}. Pass a number of things as a Python int."
        )
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"random.{name}: axis: expected one of {x.ndim} axes, got {axis}. "
            f"The shape is {tuple(x.shape)}."
        )
    return x.shape[axis]
