# SPDX-License-Identifier: Apache-2.0
"""What multi_head_attention asks of its sizes, its params and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import _checks, _rotary

NAME = "multi_head_attention"
Shapes = dict[str, dict[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Sizes:
    """Of the last axes, and numbers of heads."""

    embed: int
    k: int
    v: int
    heads: int
    kv_heads: int
    head: int

    def shapes(self, bias: bool) -> Shapes:
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        weights = {
            "q_proj": (queries, self.embed),
            "k_proj": (keys, self.k),
            "v_proj": (keys, self.v),
            "out_proj": (self.embed, queries),
        }
        return {
            name: {"weight": shape, "bias": shape[:1]} if bias else {"weight": shape}
            for name, shape in weights.items()
        }


def sizes(
    embed_dim: int,
    num_heads: int,
    num_kv_heads: int | None,
    head_dim: int | None,
    kdim: int | None,
    vdim: int | None,
) -> Sizes:
    """The sizes with what is not given filled in.

    Raises:
        ValueError: they are too small or do not divide.
    """
    given = {"embed_dim": embed_dim, "num_heads": num_heads, "kdim": kdim, "vdim": vdim}
    given |= {"num_kv_heads": num_kv_heads, "head_dim": head_dim}
    for name, value in given.items():
        if value is not None or name in {"embed_dim", "num_heads"}:
            _checks.size(NAME, name, value)
    if head_dim is None and embed_dim % num_heads:
        raise ValueError(
            f"nn.{NAME}: num_heads: expected a divisor of embed_dim={embed_dim}, got "
            f"{num_heads}. Choose one, or give head_dim."
        )
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_heads % kv_heads:
        raise ValueError(
            f"nn.{NAME}: num_kv_heads: expected a divisor of num_heads={num_heads}, "
            f"got {kv_heads}. Each head of keys serves equally many of queries."
        )
    return Sizes(
        embed=embed_dim,
        k=embed_dim if kdim is None else kdim,
        v=embed_dim if vdim is None else vdim,
        heads=num_heads,
        kv_heads=kv_heads,
        head=embed_dim // num_heads if head_dim is None else head_dim,
    )


def params(given: Any, shapes: Shapes) -> list[list[Tensor]]:
    """Weight and bias of each linear map.

    Raises:
        ValueError: the structure or a shape is another than expected.
    """
    if isinstance(given, dict) and all(isinstance(p, dict) for p in given.values()):
        given = {f"{a}.{b}": given[a][b] for a in given for b in given[a]}
    expected = {f"{a}.{b}": shapes[a][b] for a in shapes for b in shapes[a]}
    tensors = iter(_checks.params(NAME, given, expected))
    return [[next(tensors) for _ in shapes[name]] for name in shapes]


def sources(
    x: Tensor, context: Tensor | None, values: Tensor | None, of: Sizes, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What queries, keys and values are made of.

    Raises:
        ValueError: a shape is another than expected, or one is missing.
    """
    _sequence("x", x, of.embed, weight)
    if context is None:
        if values is not None or not of.embed == of.k == of.v:
            raise ValueError(
                f"nn.{NAME}: context: expected shape (..., S, {of.k}), got None. Give "
                "what keys are made of; without it, all are made of x."
            )
        return x, x, x
    _sequence("context", context, of.k, weight)
    if values is None and of.k != of.v:
        raise ValueError(
            f"nn.{NAME}: values: expected shape (..., S, {of.v}), got None. Give them, "
            f"or make the layer with vdim={of.k} to make values of the context."
        )
    if values is None:
        return x, context, context
    _sequence("values", values, of.v, weight)
    if values.shape[-2] != context.shape[-2]:
        raise ValueError(
            f"nn.{NAME}: values: expected {context.shape[-2]} vectors, as context has, "
            f"got shape {tuple(values.shape)}. Each key has one value."
        )
    return x, context, values


def _sequence(name: str, given: Any, features: int, weight: Tensor) -> None:
    """A tensor `(..., T, features)` of the dtype and device of the weight.

    Raises:
        TypeError: it is of another kind.
        ValueError: it has another shape.
    """
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(
            f"nn.{NAME}: {name}: expected a floating-point tensor, got {kind}. Convert "
            "it, or embed integers with nn.embedding first."
        )
    if given.ndim < 2 or given.shape[-1] != features:
        raise ValueError(
            f"nn.{NAME}: {name}: expected shape (..., T, {features}), got "
            f"{tuple(given.shape)}. Make the layer for the last axis of its inputs."
        )
    if given.device != weight.device:
        raise TypeError(
            f"nn.{NAME}: {name}: expected device {weight.device}, as the params have, "
            f"got {given.device}. Move one of them with .to(device)."
        )
    autocast = torch.is_autocast_enabled(given.device.type)
    if given.dtype != weight.dtype and not autocast:
        raise TypeError(
            f"nn.{NAME}: {name}: expected {weight.dtype}, as the params have, got "
            f"{given.dtype}. Convert with .to({weight.dtype}) or fl.tree.cast."
        )


def leading(
    x: Tensor, context: Tensor, values: Tensor, is_causal: bool
) -> tuple[int, ...]:
    """The axes before the sequence, of all three together.

    Raises:
        ValueError: they do not broadcast, or lengths differ where they must not.
    """
    if is_causal and x.shape[-2] != context.shape[-2]:
        raise ValueError(
            f"nn.{NAME}: context: expected {x.shape[-2]} vectors, as x has, with "
            f"is_causal=True, got shape {tuple(context.shape)}. Say with a mask which "
            "of them come later."
        )
    try:
        return tuple(
            torch.broadcast_shapes(*(t.shape[:-2] for t in (x, context, values)))
        )
    except RuntimeError as error:
        raise ValueError(
            f"nn.{NAME}: context: expected leading axes that broadcast with those of "
            f"x, {tuple(x.shape)}, got {tuple(context.shape)}"
            f"{'' if values is context else f' and values {tuple(values.shape)}'}. "
            "Give every sequence its context."
        ) from error


def mask(given: Any, shape: tuple[int, ...], x: Tensor) -> Tensor | None:
    """A mask that broadcasts to `shape`, the axes `(..., num_heads, L, S)`.

    Raises:
        TypeError: it is neither boolean nor floating-point, or on another device.
        ValueError: it has another shape.
    """
    if given is None:
        return None
    is_tensor = isinstance(given, Tensor)
    if not is_tensor or not (given.dtype == torch.bool or given.is_floating_point()):
        kind = given.dtype if is_tensor else type(given).__name__
        raise TypeError(
            f"nn.{NAME}: mask: expected a boolean tensor, True where a query may look, "
            f"or a floating-point one, got {kind}. Convert with mask.bool()."
        )
    if given.device != x.device:
        raise TypeError(
            f"nn.{NAME}: mask: expected device {x.device}, as x has, got "
            f"{given.device}. Move one of them with .to(device)."
        )
    allowed = [shape[-2:], (*shape[:-3], *shape[-2:]), shape]
    for axes in allowed:
        fits = all(n in {1, m} for n, m in zip(given.shape, axes, strict=False))
        if given.ndim == len(axes) and fits:
            return given.unsqueeze(-3) if axes is allowed[1] else given
    shapes = " or ".join(str(tuple(axes)) for axes in dict.fromkeys(allowed))
    raise ValueError(
        f"nn.{NAME}: mask: expected shape {shapes}, or 1 for an axis, got "
        f"{tuple(given.shape)}. Give a padding mask (..., S) as mask[..., None, :]."
    )


def dropout(share: float, key: Tensor | None) -> float:
    """The share that is dropped, for which there is a key.

    Raises:
        ValueError: there is none.
    """
    if share and key is None:
        raise ValueError(
            f"nn.{NAME}: key: expected a key with train=True and dropout, got None. "
            "Pass key= to apply, a new one for each step, from fl.random.split."
        )
    return share


def rotary_base(rotary: object, head_dim: int) -> float | None:
    """The base, if positions are turned at all.

    Raises:
        ValueError: it is not above 0, or a head has an odd size.
    """
    if rotary is False:
        return None
    base = 10000.0 if rotary is True else rotary
    _rotary.check_base(NAME, "rotary", base)
    if head_dim % 2:
        raise ValueError(
            f"nn.{NAME}: rotary: expected an even head_dim, got {head_dim}. Pairs of "
            "features are turned; choose another head_dim."
        )
    return float(base)  # pyright: ignore[reportArgumentType] - checked


def positions(
    given: Any, base: float | None, x: Tensor, context: Tensor | None
) -> Tensor | None:
    """Positions that broadcast to the axes `(..., T)` of `x`, or none without a base.

    Raises:
        ValueError: they have another shape, or nothing to do.
    """
    if base is None:
        if given is not None:
            raise ValueError(
                f"nn.{NAME}: positions: expected None without rotary positions, got "
                f"{type(given).__name__}. Make the layer with rotary=True."
            )
        return None
    if context is not None:
        raise ValueError(
            f"nn.{NAME}: context: expected None with rotary positions, which count "
            f"within one sequence, got shape {tuple(context.shape)}. Make a layer for "
            "cross-attention without rotary."
        )
    return _rotary.positions_of(NAME, given, tuple(x.shape[:-1]), x)
