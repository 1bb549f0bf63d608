# SPDX-License-Identifier: Apache-2.0
"""Positions in a sequence, added to its vectors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, _rotary, init
from functorch_lab.types import Layer


def sinusoidal_positions(embed_dim: int, *, base: float = 10000.0) -> Layer:
    """Adds sines and cosines of the position: `(..., T, embed_dim)` to the same shape.

    `sin(position / base^(2i / embed_dim))` to feature 2i, the cosine to 2i + 1. There
    is nothing to train, and no length is too long.

    Args:
        embed_dim: size of the last axis of the input, even.
        base: wavelengths are from 2 pi to nearly `2 pi base`.

    Returns:
        A layer with params `()`.
        Its `apply(params, x, positions=None)` takes positions as `rotary` does. It
        raises `ValueError` for an input or positions of other shapes, and `TypeError`
        for an input that is not floating-point, or positions that are no numbers or on
        another device.

    Raises:
        ValueError: `embed_dim` is below 1 or odd, or `base` is not above 0.
        TypeError: `embed_dim` is no integer, or `base` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.sinusoidal_positions(2)
        >>> layer.apply((), torch.zeros(2, 2)).round(decimals=4)  # sin(1), cos(1)
        tensor([[0.0000, 1.0000],
                [0.8415, 0.5403]])

    Source: Vaswani et al., Attention Is All You Need (2017), section 3.5,
    arXiv 1706.03762.
    """
    _checks.size("sinusoidal_positions", "embed_dim", embed_dim)
    if embed_dim % 2:
        raise ValueError(
            "nn.sinusoidal_positions: embed_dim: expected an even number, got "
            f"{embed_dim}. Each frequency has a sine and a cosine."
        )
    _rotary.check_base("sinusoidal_positions", "base", base)

    def apply(
        params: Any,
        x: Tensor,
        positions: Tensor | None = None,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Tensor:
        _checks.no_params("sinusoidal_positions", params)
        _check_input("sinusoidal_positions", x, embed_dim)
        where = _rotary.positions_of(
            "sinusoidal_positions", positions, tuple(x.shape[:-1]), x
        )
        angles = _rotary.angles_of(where, base, x)
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)
        return x + table.to(x.dtype)

    return Layer(lambda key: (), apply)


def learned_positions(
    max_length: int,
    embed_dim: int,
    *,
    weight_init: init.Initializer | None = None,
) -> Layer:
    """Adds a trained vector for each position: `(..., T, embed_dim)` to the same shape.

    Args:
        max_length: the number of vectors, and the greatest T.
        embed_dim: size of the last axis of the input.
        weight_init: an initializer for the weight; by default that of `embedding`,
            normal with mean 0 and standard deviation 1 (GPT-2 and BERT take 0.02).

    Returns:
        A layer.
        Its params are "weight", of shape `(max_length, embed_dim)`. Its
        `apply(params, x, positions=None)` takes positions as `rotary` does, integers
        only and below `max_length`. It raises `ValueError` for params, an input or
        positions of other shapes and for `T` above `max_length`, and `TypeError` for an
        input that is not floating-point or differs from the params in dtype or device,
        or positions that are not. Positions outside the table raise `IndexError` on
        CPU and are undefined elsewhere and under `jit`.

    Raises:
        ValueError: a size below 1.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.learned_positions(3, 2)
        >>> table = torch.tensor([[2.0, 3.0], [5.0, 7.0], [11.0, 13.0]])
        >>> layer.apply({"weight": table}, torch.ones(2, 2))
        tensor([[3., 4.],
                [6., 8.]])

    Source: Gehring et al., Convolutional Sequence to Sequence Learning (2017),
    section 3.1, arXiv 1705.03122.
    """
    _checks.size("learned_positions", "max_length", max_length)
    _checks.size("learned_positions", "embed_dim", embed_dim)
    shape = (max_length, embed_dim)

    def init_(key: Tensor) -> dict[str, Tensor]:
        return {"weight": (weight_init or init.normal())(key, shape)}

    def apply(
        params: Any,
        x: Tensor,
        positions: Tensor | None = None,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Tensor:
        (weight,) = _checks.params("learned_positions", params, {"weight": shape})
        _check_input("learned_positions", x, embed_dim)
        _checks.same_kind("learned_positions", x, weight)
        if x.shape[-2] > max_length and positions is None:
            raise ValueError(
                f"nn.learned_positions: x: expected at most max_length={max_length} "
                f"positions, got shape {tuple(x.shape)}. Cut the sequence, or make the "
                "layer longer."
            )
        if positions is None:
            return x + weight[: x.shape[-2]]
        where = _rotary.positions_of(
            "learned_positions", positions, tuple(x.shape[:-1]), x
        )
        if where.is_floating_point():
            raise TypeError(
                "nn.learned_positions: positions: expected integers, got "
                f"{where.dtype}. The table has nothing between its rows."
            )
        return x + F.embedding(where.long(), weight)

    return Layer(init_, apply)


def _check_input(function: str, x: Tensor, embed_dim: int) -> None:
    """`x` is floating-point, of shape `(..., T, embed_dim)`.

    Raises:
        ValueError: it has another shape.
    """
    _checks.floating(function, x)
    if x.ndim < 2 or x.shape[-1] != embed_dim:
        raise ValueError(
            f"nn.{function}: x: expected shape (..., T, {embed_dim}), got "
            f"{tuple(x.shape)}. Make the layer for the input's last axis."
        )
