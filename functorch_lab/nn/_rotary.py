# SPDX-License-Identifier: Apache-2.0
"""Queries and keys that carry their positions as angles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import _checks


def rotary(
    x: Tensor,
    positions: Tensor | None = None,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
) -> Tensor:
    """Turns each pair of features by `position / base^(2i / dim)`, for the pair `i`.

    Rotated so, a query and a key have a product that depends on the distance of their
    positions and not on these. Angles are computed in float32, or float64 for that
    input.

    Args:
        x: queries or keys, `(..., T, dim)` with an even `dim`.
        positions: integers or, to stretch a sequence, fractions: `(T,)` or any shape
            that broadcasts to `(..., T)`; 0 to T - 1 if not given.
        base: how much slower the last pair turns than the first, nearly.
        interleaved: whether features 2i and 2i + 1 are a pair, as in the paper; if not,
            i and i + dim / 2 are, as in Llama and GPT-NeoX. The two differ by the order
            of the features.

    Returns:
        A tensor like `x`.

    Raises:
        ValueError: `x` has no axes `(T, dim)`, `dim` is odd, `positions` do not
            broadcast to `(..., T)`, or `base` is not above 0.
        TypeError: `x` is not floating-point, or `positions` are no numbers or on
            another device.

    Example:
        >>> import math, torch, functorch_lab as fl
        >>> x = torch.tensor([[3.0, 2.0], [3.0, 2.0]])
        >>> fl.nn.rotary(x, torch.tensor([0.0, math.pi / 2])).round(decimals=4)
        tensor([[ 3.,  2.],
                [-2.,  3.]])

    Source: Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding
    (2021), equations 15 and 34, arXiv 2104.09864.
    """
    _checks.floating("rotary", x)
    if x.ndim < 2 or x.shape[-1] % 2 or x.shape[-1] == 0:
        raise ValueError(
            f"nn.rotary: x: expected shape (..., T, dim) with an even dim, got "
            f"{tuple(x.shape)}. Rotate an even number of features."
        )
    check_base("rotary", "base", base)
    positions = positions_of("rotary", positions, tuple(x.shape[:-1]), x)
    return turned(x, rotation(positions, base, x), interleaved=interleaved)


def rotation(positions: Tensor, base: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles by which `rotary` turns `x`."""
    angles = angles_of(positions, base, x)
    return angles.cos(), angles.sin()


def turned(
    x: Tensor, cos_sin: tuple[Tensor, Tensor], *, interleaved: bool = False
) -> Tensor:
    """`x`, its pairs of features turned."""
    cos, sin = cos_sin
    wide = x.to(cos.dtype)
    if interleaved:
        first, second = wide.unflatten(-1, (x.shape[-1] // 2, 2)).unbind(-1)
    else:
        first, second = wide.chunk(2, -1)
    parts = [first * cos - second * sin, second * cos + first * sin]
    y = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    return y.to(x.dtype)


def angles_of(positions: Tensor, base: float, x: Tensor) -> Tensor:
    """Of shape `(*positions.shape, dim / 2)`, in float32 or wider."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    dim = x.shape[-1]
    exponents = torch.arange(0, dim, 2, device=x.device, dtype=dtype) / dim
    # A product, as in Llama: far along, the rounding of an angle is visible.
    return positions[..., None].to(dtype) * (1.0 / base**exponents)


def check_base(function: str, name: str, value: object) -> None:
    """A number above 0.

    Raises:
        TypeError: it is no number.
        ValueError: it is not above 0.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(
            f"nn.{function}: {name}: expected a number above 0, got "
            f"{type(value).__name__}. Usual are 10000.0 and 500000.0."
        )
    if not value > 0:
        raise ValueError(
            f"nn.{function}: {name}: expected a number above 0, got {value}. Usual are "
            "10000.0 and 500000.0."
        )


def positions_of(
    function: str, positions: Any, axes: tuple[int, ...], x: Tensor
) -> Tensor:
    """Numbers that broadcast to `axes`, the axes `(..., T)` of x; by default a count.

    Raises:
        TypeError: they are no numbers, or on another device.
        ValueError: they do not broadcast.
    """
    if positions is None:
        return torch.arange(axes[-1], device=x.device)
    is_tensor = isinstance(positions, Tensor)
    kind = positions.dtype if is_tensor else type(positions).__name__
    if not is_tensor or positions.dtype == torch.bool or positions.is_complex():
        raise TypeError(
            f"nn.{function}: positions: expected a tensor of integers, got {kind}. "
            "Count with torch.arange."
        )
    if positions.device != x.device:
        raise TypeError(
            f"nn.{function}: positions: expected device {x.device}, as x has, got "
            f"{positions.device}. Move one of them with .to(device)."
        )
    last = axes[len(axes) - positions.ndim :]
    fits = all(n in {1, m} for n, m in zip(positions.shape, last, strict=False))
    if positions.ndim > len(axes) or not fits:
        raise ValueError(
            f"nn.{function}: positions: expected a shape that broadcasts to {axes}, "
            f"the axes (..., T) of x, got {tuple(positions.shape)}. Give one position "
            "for each vector."
        )
    return positions
