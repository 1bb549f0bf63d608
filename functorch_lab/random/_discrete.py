# SPDX-License-Identifier: Apache-2.0
"""Distributions over integers and categories."""

from typing import Any

import torch
from torch import Tensor

from functorch_lab.random._arguments import (
    FLOATS,
    INTEGERS,
    Shape,
    describe,
    require_covers,
    require_dtype,
    require_key,
    require_probability,
    require_shape,
)
from functorch_lab.random._continuous import gumbel, unit_uniform
from functorch_lab.random._keys import split
from functorch_lab.random._threefry import words


def bernoulli(
    key: Tensor, p: float | Tensor = 0.5, shape: Shape | None = None
) -> Tensor:
    """True with probability p.

    Args:
        key: a key.
        p: probability, a number or a floating-point tensor that broadcasts to `shape`.
        shape: shape of the result; None is the shape of `p`.

    Returns:
        bool of shape `shape`: the draws of ``jax.random.bernoulli``.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong, or the number `p` is outside [0, 1].

    Example:
        >>> from functorch_lab import random
        >>> random.bernoulli(random.key(0), 0.5, (3,))
        tensor([False, False,  True])
    """
    require_key("bernoulli", key)
    require_probability("bernoulli", p)
    if shape is None:
        shape = p.shape if isinstance(p, Tensor) else ()
    shape = require_shape("bernoulli", shape)
    require_covers("bernoulli", shape, p=p)
    dtype = p.dtype if isinstance(p, Tensor) else None
    return unit_uniform(key, shape, require_dtype("bernoulli", dtype)) < p


def rademacher(
    key: Tensor, shape: Shape = (), dtype: torch.dtype = torch.int64
) -> Tensor:
    """-1 or 1, each with probability 1/2.

    Args:
        key: a key.
        shape: shape of the result.
        dtype: an integer or floating-point dtype.

    Returns:
        `shape` signs of `dtype`: the draws of ``jax.random.rademacher``.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong.

    Example:
        >>> from functorch_lab import random
        >>> random.rademacher(random.key(0), (3,))
        tensor([-1, -1,  1])
    """
    require_key("rademacher", key)
    signed = tuple(d for d in INTEGERS if d != torch.uint8)
    dtype = require_dtype("rademacher", dtype, (*FLOATS, *signed))
    return bernoulli(key, 0.5, require_shape("rademacher", shape)).to(dtype) * 2 - 1


def categorical(key: Tensor, logits: Tensor, shape: Shape | None = None) -> Tensor:
    """Indices drawn with probabilities softmax(logits) along the last axis.

    By the Gumbel-max trick: the argmax of logits plus Gumbel noise. Chris J. Maddison,
    Daniel Tarlow and Tom Minka, `A* Sampling`, NeurIPS 2014, section 2,
    arXiv:1411.0030.

    Args:
        key: a key.
        logits: `(*batch, classes)`, unnormalised log-probabilities; -inf never comes.
        shape: shape of the result, `(*sample, *batch)`; None is `batch`.

    Returns:
        int64 of shape `shape`: the draws of ``jax.random.categorical``, ties in
        rounding aside.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong.

    Example:
        >>> import torch
        >>> from functorch_lab import random
        >>> logits = torch.tensor([0.2, 0.8]).log()
        >>> random.categorical(random.key(0), logits, (10,)).sum()
        tensor(7)
    """
    require_key("categorical", key)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            "random.categorical: logits: expected a floating-point tensor, "
            f"got {describe(logits)}. Pass log-probabilities."
        )
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            "random.categorical: logits: expected shape (*batch, classes) with one "
            f"class or more, got {tuple(logits.shape)}. Put the classes last."
        )
    batch = tuple(logits.shape[:-1])
    shape = batch if shape is None else require_shape("categorical", shape)
    require_covers("categorical", shape, logits=logits[..., 0])
    noise = gumbel(key, (*shape, logits.shape[-1]), logits.dtype)
    return torch.argmax(noise + logits, dim=-1)


def randint(
    key: Tensor,
    shape: Shape,
    minval: int | Tensor,
    maxval: int | Tensor,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Integers in [minval, maxval), uniform.

    The remainder of 64 random bits for spans up to 2**16 and of 32 bits for larger
    ones, which biases these by span / 2**32 at most; for ranges beyond int32 twice as
    many bits.

    Args:
        key: a key.
        shape: shape of the result.
        minval: lower bound, included: an int or an integer tensor that broadcasts to
            `shape`.
        maxval: upper bound, excluded, likewise. A tensor maxval that is not above
            minval gives minval.
        dtype: an integer dtype.

    Returns:
        `shape` integers of `dtype`: where the bounds are within int32, those of
        ``jax.random.randint`` in its default mode, else those with x64 enabled.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong, or the ints do not satisfy minval < maxval or
            do not fit `dtype`.

    Example:
        >>> from functorch_lab import random
        >>> random.randint(random.key(0), (5,), 1, 7)
        tensor([2, 1, 3, 2, 6])
    """
    require_key("randint", key)
    shape = require_shape("randint", shape)
    dtype = require_dtype("randint", dtype, INTEGERS)
    require_covers("randint", shape, minval=minval, maxval=maxval)
    _require_range(minval, maxval, dtype)
    info = torch.iinfo(dtype)
    top = info.max if dtype == torch.int64 else info.max + 1
    low, high = _bound(minval, key, info.min, top), _bound(maxval, key, info.min, top)
    span = torch.clamp(high - low, min=1)
    key_a, key_b = split(key).unbind(0)
    a, b = words(key_a, shape), words(key_b, shape)
    wide = dtype == torch.int64
    if wide and not isinstance(minval, Tensor) and not isinstance(maxval, Tensor):
        wide = minval < -(2**31) or maxval > 2**31
        return (low + (_remainder64 if wide else _remainder32)(a, b, span)).to(dtype)
    offset = _remainder32(a, b, span)
    if wide:
        # Tensors do not say on which side of int32 they are: both, and a choice. An
        # int and a tensor of the same value must give the same numbers.
        narrow = (low >= -(2**31)) & (high <= 2**31)
        offset = torch.where(narrow, offset, _remainder64(a, b, span))
    return (low + offset).to(dtype)


def _bound(value: int | Tensor, key: Tensor, least: int, most: int) -> Tensor:
    """A bound as int64, within the range of the result's dtype."""
    if isinstance(value, Tensor):
        return torch.clamp(value.to(torch.int64), least, most)
    return torch.full((), value, dtype=torch.int64, device=key.device)


def _remainder32(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], span: Tensor
) -> Tensor:
    """(2**32 a + b) mod span of two 32-bit draws, as uint32 arithmetic does it."""
    mask = 0xFFFFFFFF
    high = (a[0] ^ a[1]).to(torch.int64) & mask
    low = (b[0] ^ b[1]).to(torch.int64) & mask
    multiplier = 2**16 % span
    multiplier = ((multiplier * multiplier) & mask) % span
    product = ((high % span) * multiplier) & mask
    return ((product + low % span) & mask) % span


def _remainder64(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], span: Tensor
) -> Tensor:
    """The same for two 64-bit draws, as uint64 arithmetic does it; span < 2**63."""
    high, low = _join(*a), _join(*b)
    multiplier = 2**32 % span
    multiplier = _unsigned_remainder(multiplier * multiplier, span)
    product = _unsigned_remainder(high, span) * multiplier
    return _unsigned_remainder(product + _unsigned_remainder(low, span), span)


def _join(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0.to(torch.int64) << 32) | (x1.to(torch.int64) & 0xFFFFFFFF)


def _unsigned_remainder(x: Tensor, span: Tensor) -> Tensor:
    """Remainder of int64 x, read as unsigned, by span, which is in (0, 2**63)."""
    half = (x >> 1) & (2**63 - 1)
    r = 2 * (half % span) + (x & 1)  # below 2 * span, or wrapped to a negative
    return torch.where((r < 0) | (r >= span), r - span, r)


def _require_range(minval: Any, maxval: Any, dtype: torch.dtype) -> None:
    """Raise unless the bounds are integers and, where ints, an interval of `dtype`."""
    for argument, value in (("minval", minval), ("maxval", maxval)):
        if isinstance(value, Tensor):
            valid = not value.is_floating_point() and value.dtype != torch.bool
        else:
            valid = isinstance(value, int | torch.SymInt) and value is not bool(value)
        if not valid:
            raise TypeError(
                f"random.randint: {argument}: expected an integer, "
                f"got {describe(value)}. Convert it to an int."
            )
    info = torch.iinfo(dtype)
    if not isinstance(minval, Tensor) and minval < info.min:
        raise ValueError(
            f"random.randint: minval: expected {info.min} or more for {dtype}, "
            f"got {minval}. Choose a wider dtype."
        )
    if not isinstance(maxval, Tensor) and maxval > info.max + (dtype != torch.int64):
        raise ValueError(
            f"random.randint: maxval: expected {info.max + (dtype != torch.int64)} or "
            f"less for {dtype}, got {maxval}. Choose a wider dtype."
        )
    if isinstance(minval, Tensor) or isinstance(maxval, Tensor):
        return
    if not minval < maxval:
        raise ValueError(
            f"random.randint: minval: expected minval < maxval, got {minval} and "
            f"{maxval}. The upper bound is excluded."
        )
    if maxval - minval >= 2**63:
        raise ValueError(
            "random.randint: maxval: expected maxval - minval below 2**63, got "
            f"{maxval - minval}. Draw random.bits for all the bits."
        )
