# SPDX-License-Identifier: Apache-2.0
"""Real-valued distributions."""

import math
from typing import Any

import torch
from torch import Tensor

from functorch_lab.random._arguments import (
    Shape,
    as_scalar,
    describe,
    require_covers,
    require_dtype,
    require_key,
    require_shape,
)
from functorch_lab.random._erfinv import erfinv
from functorch_lab.random._threefry import bits32, bits64

# Bits of the fraction, and the integer type as wide as the number.
_FRACTION = {
    torch.float64: (52, torch.int64),
    torch.float32: (23, torch.int32),
    torch.float16: (10, torch.int16),
    torch.bfloat16: (7, torch.int16),
}


def uniform(
    key: Tensor,
    shape: Shape = (),
    dtype: torch.dtype | None = None,
    minval: float | Tensor = 0.0,
    maxval: float | Tensor = 1.0,
) -> Tensor:
    """Uniform numbers in [minval, maxval).

    Args:
        key: a key.
        shape: shape of the result.
        dtype: a floating-point dtype; None is torch's default dtype.
        minval: lower bound, a number or a tensor that broadcasts to `shape`.
        maxval: upper bound, likewise.

    Returns:
        `shape` numbers of `dtype` on the key's device: for the range [0, 1) the bits of
        ``jax.random.uniform``, for others equal to its numbers up to one rounding.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong, or the numbers minval < maxval do not hold.

    Example:
        >>> from functorch_lab import random
        >>> random.uniform(random.key(0), (2,))
        tensor([0.9477, 0.9786])
    """
    require_key("uniform", key)
    shape = require_shape("uniform", shape)
    dtype = require_dtype("uniform", dtype)
    require_covers("uniform", shape, minval=minval, maxval=maxval)
    _require_order("uniform", "minval", minval, "maxval", maxval)
    return scaled_uniform(key, shape, dtype, minval, maxval)


def normal(key: Tensor, shape: Shape = (), dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers, by inversion.

    Args:
        key: a key.
        shape: shape of the result.
        dtype: a floating-point dtype; None is torch's default dtype.

    Returns:
        `shape` numbers of `dtype`, mean 0 and variance 1, on the key's device; within
        2e-6 of ``jax.random.normal`` in float32, of which most bits are equal.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong.

    Example:
        >>> from functorch_lab import random
        >>> random.normal(random.key(0), (2,))
        tensor([1.6226, 2.0253])
    """
    require_key("normal", key)
    shape = require_shape("normal", shape)
    return standard_normal(key, shape, require_dtype("normal", dtype))


def truncated_normal(
    key: Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
    shape: Shape | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Standard normal numbers given that they lie in the open interval (lower, upper).

    Args:
        key: a key.
        lower: lower bound, a number or a tensor that broadcasts to `shape`.
        upper: upper bound, likewise.
        shape: shape of the result; None is the common shape of the bounds.
        dtype: a floating-point dtype; None is torch's default dtype.

    Returns:
        `shape` numbers of `dtype`, those of ``jax.random.truncated_normal`` up to
        rounding. Their variance is less than 1.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong, or the numbers lower < upper do not hold.

    Example:
        >>> from functorch_lab import random
        >>> random.truncated_normal(random.key(0), -2.0, 2.0, (2,))
        tensor([1.4560, 1.7147])
    """
    require_key("truncated_normal", key)
    dtype = require_dtype("truncated_normal", dtype)
    _require_order("truncated_normal", "lower", lower, "upper", upper)
    lower, upper = as_scalar(lower, key, dtype), as_scalar(upper, key, dtype)
    if shape is None:
        shape = torch.broadcast_shapes(lower.shape, upper.shape)
    shape = require_shape("truncated_normal", shape)
    require_covers("truncated_normal", shape, lower=lower, upper=upper)
    sqrt2 = math.sqrt(2)
    low, high = torch.erf(lower / sqrt2), torch.erf(upper / sqrt2)
    x = sqrt2 * erfinv(scaled_uniform(key, shape, dtype, low, high))
    # Rounding may have left the interval, or landed on its end: on inf, at erfinv(1).
    inside = _next_up(lower.detach()), -_next_up(-upper.detach())
    return torch.minimum(torch.maximum(x, inside[0]), inside[1])


def gumbel(key: Tensor, shape: Shape = (), dtype: torch.dtype | None = None) -> Tensor:
    """Standard Gumbel numbers, -log(-log(u)): adding them to logits samples by argmax.

    Args:
        key: a key.
        shape: shape of the result.
        dtype: a floating-point dtype; None is torch's default dtype.

    Returns:
        `shape` numbers of `dtype`, those of ``jax.random.gumbel`` up to rounding; the
        mean is 0.5772, the variance pi**2 / 6. In float32 none exceeds 16.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong.

    Example:
        >>> from functorch_lab import random
        >>> random.gumbel(random.key(0), (2,))
        tensor([2.9234, 3.8326])
    """
    require_key("gumbel", key)
    shape = require_shape("gumbel", shape)
    dtype = require_dtype("gumbel", dtype)
    tiny = torch.finfo(dtype).tiny
    return -torch.log(-torch.log(scaled_uniform(key, shape, dtype, tiny, 1.0)))


def exponential(
    key: Tensor, shape: Shape = (), dtype: torch.dtype | None = None
) -> Tensor:
    """Exponential numbers of rate 1.

    Args:
        key: a key.
        shape: shape of the result.
        dtype: a floating-point dtype; None is torch's default dtype.

    Returns:
        `shape` numbers of `dtype`, from 0 up, those of ``jax.random.exponential`` up to
        rounding; mean and variance are 1.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong.

    Example:
        >>> from functorch_lab import random
        >>> random.exponential(random.key(0), (2,))
        tensor([2.9501, 3.8434])
    """
    require_key("exponential", key)
    shape = require_shape("exponential", shape)
    dtype = require_dtype("exponential", dtype)
    return -torch.log1p(-unit_uniform(key, shape, dtype))


def orthogonal(
    key: Tensor,
    n: int,
    shape: Shape = (),
    dtype: torch.dtype | None = None,
    m: int | None = None,
) -> Tensor:
    """Orthogonal matrices, uniform over the orthogonal group (Haar measure).

    Francesco Mezzadri, How to generate random matrices from the classical compact
    groups, Notices of the AMS 54(5), 2007, section 5, arXiv:math-ph/0609050.

    Args:
        key: a key.
        n: rows.
        shape: batch shape, in front of the matrix.
        dtype: torch.float32 or torch.float64; None is torch's default dtype.
        m: columns, by default `n`. Of a matrix that is not square the longer side's
            vectors span: rows are orthonormal if n < m, columns if m < n.

    Returns:
        Shape `(*shape, n, m)`: those of ``jax.random.orthogonal`` up to rounding.

    Raises:
        TypeError: if `key` is not a key, or an argument is of a wrong kind.
        ValueError: if a shape is wrong.

    Example:
        >>> from functorch_lab import random
        >>> q = random.orthogonal(random.key(0), 3)
        >>> (q @ q.T).round(decimals=3).abs()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    require_key("orthogonal", key)
    batch = require_shape("orthogonal", shape)
    (n,) = require_shape("orthogonal", (n,), "n")
    (m,) = (n,) if m is None else require_shape("orthogonal", (m,), "m")
    dtype = require_dtype("orthogonal", dtype, (torch.float32, torch.float64))
    z = standard_normal(key, (*batch, max(n, m), min(n, m)), dtype)
    q, r = torch.linalg.qr(z)
    # QR is unique once the diagonal of r is positive; without this q is not uniform.
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)
    return q.mT if n < m else q


def unit_uniform(key: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uniform in [0, 1), from arguments already checked."""
    return _fraction_bits(key, shape, dtype) * 2.0 ** -_FRACTION[dtype][0]


def scaled_uniform(
    key: Tensor, shape: tuple[int, ...], dtype: torch.dtype, minval: Any, maxval: Any
) -> Tensor:
    """Uniform in [minval, maxval), from arguments already checked."""
    u = unit_uniform(key, shape, dtype)
    numbers = not isinstance(minval, Tensor) and not isinstance(maxval, Tensor)
    if numbers and minval == 0 and maxval == 1:
        return u
    low, high = as_scalar(minval, key, dtype), as_scalar(maxval, key, dtype)
    return torch.maximum(u * (high - low) + low, low)


def standard_normal(key: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal, from arguments already checked."""
    count = _FRACTION[dtype][0]
    # Uniform in (-1, 1): the grid of [0, 1), twice as wide, from the first number
    # above -1 up. Every step is exact, and 0 and 1 are never met.
    u = _fraction_bits(key, shape, dtype) * 2.0 ** (1 - count)
    return erfinv(u + (2.0 ** -(count + 1) - 1)) * math.sqrt(2)


def _fraction_bits(key: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A random integer that fills the fraction of `dtype`, held in `dtype`."""
    count, _ = _FRACTION[dtype]
    if dtype == torch.float64:
        drawn = bits64(key, shape) >> (64 - count)
    elif dtype == torch.float32:
        drawn = bits32(key, shape) >> (32 - count)
    else:
        # JAX draws the narrowest unsigned integer that holds the fraction: the lowest
        # 16 bits for float16, the lowest 8 for bfloat16.
        drawn = bits32(key, shape) >> (6 if dtype == torch.float16 else 1)
    return (drawn & ((1 << count) - 1)).to(dtype)


def _next_up(x: Tensor) -> Tensor:
    """The next number above x. torch.nextafter lacks float16, and MPS."""
    integer = _FRACTION[x.dtype][1]
    i = x.view(integer)
    up = torch.where(x > 0, i + 1, i - 1)
    up = torch.where(x == 0, torch.ones_like(i), up)
    return torch.where(x == math.inf, i, up).view(x.dtype)


def _require_order(name: str, low: str, a: Any, high: str, b: Any) -> None:
    """Raise unless a < b, where both are Python numbers, or a bound is no number."""
    for argument, value in ((low, a), (high, b)):
        if not isinstance(value, int | float | Tensor | torch.SymFloat | torch.SymInt):
            raise TypeError(
                f"random.{name}: {argument}: expected a number or a tensor, "
                f"got {describe(value)}. Pass a Python float."
            )
    if not isinstance(a, Tensor) and not isinstance(b, Tensor) and not a < b:
        raise ValueError(
            f"random.{name}: {low}: expected {low} < {high}, got {a} and {b}. "
            "Give the lower bound first."
        )
