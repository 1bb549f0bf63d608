# SPDX-License-Identifier: Apache-2.0
"""Layers beside the shapes of their params and state, known without any draw.

A model of many layers looks at all its trees before any work with them, and so names
the path of what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.nn._compose import compose
from functorch_lab.nn._sequential import sequential
from functorch_lab.nn._stateful import as_stateful
from functorch_lab.types import Layer, StatefulLayer


class Sized(NamedTuple):
    """A layer; its params and state as tensors without memory."""

    layer: Layer | StatefulLayer
    params: Any
    state: Any = ()


def sized(layer: Layer, **shapes: tuple[int, ...]) -> Sized:
    """A layer with one dict of params."""
    made = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return Sized(layer, made)


def sized_by_init(function: str, name: str, layer: Any) -> Sized:
    """A layer whose init is cheap: it begins with constants, or is small."""
    key = torch.empty(2, dtype=torch.int32, device="meta")
    return Sized(layer, *as_stateful(function, name, layer).init(key))


def sized_sequential(*parts: Sized) -> Sized:
    return Sized(
        sequential(*(part.layer for part in parts)),
        tuple(part.params for part in parts),
        tuple(part.state for part in parts),
    )


def sized_compose(forward: Callable[..., Any], parts: dict[str, Sized]) -> Sized:
    return Sized(
        compose(forward, **{name: part.layer for name, part in parts.items()}),
        {name: part.params for name, part in parts.items()},
        {name: part.state for name, part in parts.items()},
    )


def checked(
    function: str, model: Sized, check: Callable[[Tensor, bool], None]
) -> Layer | StatefulLayer:
    """The layer, which looks at params, state and input before any work.

    Args:
        function: that the model is of.
        model: what it made.
        check: raises for an input `x` that does not fit, given `check(x, train)`.
    """
    layer = model.layer

    def look(kind: str, expected: Any, given: Any) -> None:
        # Dynamo would trace it for nothing; jit looks before it compiles.
        if not torch.compiler.is_dynamo_compiling():
            tree.check_same_structure(
                expected,
                given,
                what=f"nn.{function}",
                names=("those of this model", kind),
                remedy=f"Pass the {kind} that this model's init or apply returned.",
                check_dtype=False,
            )

    if isinstance(layer, Layer):

        def apply(
            params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
        ) -> Tensor:
            look("params", model.params, params)
            check(x, train)
            return layer.apply(params, x, key=key, train=train)

        return Layer(layer.init, apply)

    def apply_stateful(
        params: Any,
        state: Any,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Tensor, Any]:
        look("params", model.params, params)
        look("state", model.state, state)
        check(x, train)
        return layer.apply(params, state, x, key=key, train=train)

    return StatefulLayer(layer.init, apply_stateful)
