# SPDX-License-Identifier: Apache-2.0
"""What every function of this namespace checks before it draws."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Shape = int | Sequence[int]


def describe(x: Any) -> str:
    """Short text for the `got` part of an error."""
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
    return f"{x!r} ({type(x).__name__})"


def require_key(name: str, key: Any) -> None:
    """Raise unless `key` is one key, an int32 tensor of shape (2,)."""
    if isinstance(key, Tensor) and key.dtype == torch.int32 and key.shape == (2,):
        return
    expected = f"random.{name}: key: expected one key, int32 of shape (2,), got"
    if not isinstance(key, Tensor):
        seed = key if isinstance(key, int) else "seed"
        remedy = f"Make one with random.key({seed})."
        raise TypeError(f"{expected} {describe(key)}. {remedy}")
    if key.dtype != torch.int32:
        raise TypeError(
            f"{expected} {describe(key)}. Make one with random.key(seed), or convert "
            "the two 32-bit words of another library's key to torch.int32."
        )
    remedy = "Make one with random.key(seed)."
    if key.ndim > 1 and key.shape[-1] == 2:
        remedy = "Map over a batch of keys with vmap."
    raise ValueError(f"{expected} {describe(key)}. {remedy}")


def require_shape(name: str, shape: Any, argument: str = "shape") -> tuple[int, ...]:
    """`shape` as a tuple; raise unless it holds integers from 0 up."""
    dims = (shape,) if isinstance(shape, int | torch.SymInt) else shape
    if not isinstance(dims, Sequence) or not all(
        isinstance(d, int | torch.SymInt) and not isinstance(d, bool) for d in dims
    ):
        raise TypeError(
            f"random.{name}: {argument}: expected an int or a tuple of ints, "
            f"got {describe(shape)}. Pass the sizes as Python ints."
        )
    if any(d < 0 for d in dims):
        raise ValueError(
            f"random.{name}: {argument}: expected sizes of 0 or more, "
            f"got {tuple(dims)}. Pass every size; none is inferred."
        )
    return tuple(dims)


def require_covers(name: str, shape: tuple[int, ...], **arguments: Any) -> None:
    """Raise unless every tensor among `arguments` broadcasts to `shape`."""
    for argument, value in arguments.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        padded = (1,) * (len(shape) - value.ndim) + tuple(value.shape)
        if len(padded) != len(shape) or any(
            p not in (1, s) for p, s in zip(padded, shape, strict=True)
        ):
            raise ValueError(
                f"random.{name}: {argument}: expected a shape that broadcasts to "
                f"{shape}, got {tuple(value.shape)}. Give shape= the full result shape."
            )


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def require_dtype(
    name: str, dtype: Any, allowed: tuple[torch.dtype, ...] = FLOATS
) -> torch.dtype:
    """`dtype`, or the default dtype for None; raise unless it is allowed."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in allowed:
        names = ", ".join(str(d) for d in allowed)
        raise TypeError(
            f"random.{name}: dtype: expected one of {names}, got {dtype}. "
            "Draw in one of these and convert the result with .to(dtype)."
        )
    return dtype


def require_probability(name: str, p: Any) -> None:
    """Raise if the Python number `p` is not a probability."""
    if isinstance(p, Tensor):
        if not p.is_floating_point():
            raise TypeError(
                f"random.{name}: p: expected a floating-point tensor, "
                f"got {describe(p)}. Convert it with .to(torch.float32)."
            )
    elif not isinstance(p, int | float | torch.SymFloat):
        raise TypeError(
            f"random.{name}: p: expected a number or a tensor, got {describe(p)}. "
            "Pass a probability between 0 and 1."
        )
    elif not 0 <= p <= 1:
        raise ValueError(
            f"random.{name}: p: expected a probability between 0 and 1, got {p}. "
            "Apply torch.sigmoid first if these are logits."
        )


def as_scalar(value: Any, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A number or tensor as a tensor of `dtype`, on the device of `like`."""
    if isinstance(value, Tensor):
        return value.to(dtype)
    return torch.full((), value, dtype=dtype, device=like.device)


def size(shape: tuple[int, ...]) -> int:
    """Number of elements of `shape`."""
    return math.prod(shape)
