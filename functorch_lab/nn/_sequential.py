# SPDX-License-Identifier: Apache-2.0
"""Layers after one another, and a layer around which the input flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _checks
from functorch_lab.types import Layer, StatefulLayer

Part = Layer | Callable[[Tensor], Tensor]


def sequential(*layers: Part) -> Layer:
    """The layers, one after the other.

    Args:
        layers: layers, and plain functions of one tensor such as `nn.relu`.

    Returns:
        A layer whose params are a tuple with one entry for each of `layers`, `()` for a
        plain function. A key given to `apply` is split: every layer gets its own. Its
        `apply` raises `ValueError` for params of another length.

    Raises:
        TypeError: one of `layers` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.sequential(fl.nn.linear(3, 5), fl.nn.relu, fl.nn.linear(5, 2))
        >>> params = model.init(fl.random.key(0))
        >>> len(params), params[1], model.apply(params, torch.ones(7, 3)).shape
        (3, (), torch.Size([7, 2]))
    """
    parts = [
        as_layer("sequential", f"layers[{i}]", part) for i, part in enumerate(layers)
    ]

    def init(key: Tensor) -> tuple[Any, ...]:
        return tuple(
            part.init(k) for part, k in zip(parts, _keys(key, len(parts)), strict=True)
        )

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        if not isinstance(params, tuple | list) or len(params) != len(parts):
            got = type(params).__name__
            raise ValueError(
                f"nn.sequential: params: expected a tuple of {len(parts)}, got {got}"
                f" of length {len(params) if hasattr(params, '__len__') else 1}. Pass "
                "the params that this layer's init made."
            )
        keys = _keys(key, len(parts))
        for part, p, k in zip(parts, params, keys, strict=True):
            x = part.apply(p, x, key=k, train=train)
        return x

    return Layer(init, apply)


def residual(layer: Part) -> Layer:
    """`x + layer(x)`.

    Args:
        layer: a layer, or a plain function, that keeps the shape.

    Returns:
        A layer with the params of `layer`. Its `apply` raises `ValueError` if the layer
        changes the shape.

    Raises:
        TypeError: `layer` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.nn.residual(torch.square).apply((), torch.tensor([2.0, 3.0]))
        tensor([ 6., 12.])

    Source: He et al., Deep Residual Learning for Image Recognition (2015), equation 1,
    arXiv 1512.03385.
    """
    part = as_layer("residual", "layer", layer)

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        y = part.apply(params, x, key=key, train=train)
        if y.shape != x.shape:
            raise ValueError(
                f"nn.residual: layer: expected an output of the input's shape, "
                f"{tuple(x.shape)}, got {tuple(y.shape)}. Keep the shape, for example "
                "with padding='same'."
            )
        return x + y

    return Layer(part.init, apply)


def as_layer(function: str, name: str, part: Any) -> Layer:
    """A layer as it is; a plain function as a layer without parameters.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(part, Layer):
        return part
    # A module is callable, but its parameters would silently not be trained.
    module = isinstance(part, torch.nn.Module)
    if module or isinstance(part, StatefulLayer) or not callable(part):
        raise TypeError(
            f"nn.{function}: {name}: expected a Layer or a plain function, got "
            f"{type(part).__name__}. "
            + ("Use its counterpart in fl.nn." if module else "Make it one.")
        )

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params(function, params)
        return cast(Tensor, part(x))

    return Layer(lambda key: (), apply)


def _keys(key: Tensor | None, number: int) -> tuple[Tensor | None, ...]:
    """One key each, or none; `split` in one go costs less than `fold_in` for each."""
    if key is None or number == 0:
        return (None,) * number
    return random.split(key, number).unbind()
