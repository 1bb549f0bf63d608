# SPDX-License-Identifier: Apache-2.0
"""What combinators are made of: layers, stateful layers and plain functions as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.types import Layer, StatefulLayer

Part = Layer | Callable[[Any], Any]
AnyPart = Part | StatefulLayer


def stateful(layer: AnyPart) -> StatefulLayer:
    """The layer as a stateful one, whose state is `()`.

    Combinators do it by themselves: `sequential`, `residual`, `compose`, `parallel` and
    `repeat` of layers, one of which is stateful, are stateful. It is for a function of
    one's own that expects a state whatever the model, such as a loss for
    `train.make_step(..., stateful=True)`.

    Args:
        layer: a layer, a plain function, or a stateful layer, which is returned as it
            is.

    Returns:
        A stateful layer with the params of `layer`, whose `apply` takes the inputs and
        options of that of `layer`. It raises `ValueError` for a state other than `()`.

    Raises:
        TypeError: `layer` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.stateful(fl.nn.linear(3, 2))
        >>> params, state = model.init(fl.random.key(0))
        >>> y, state = model.apply(params, state, torch.ones(5, 3), train=True)
        >>> y.shape, state
        (torch.Size([5, 2]), ())
    """
    return as_stateful("stateful", "layer", layer)


def as_stateful(function: str, name: str, part: Any) -> StatefulLayer:
    """A stateful layer as it is; another part as one whose state is `()`.

    Raises:
        TypeError: it is no part.
    """
    if isinstance(part, StatefulLayer):
        return part
    layer = as_layer(function, name, part)

    def apply(
        params: Any,
        state: Any,
        *inputs: Any,
        key: Tensor | None = None,
        train: bool = False,
        **options: Any,
    ) -> tuple[Any, Any]:
        no_state(function, state)
        return layer.apply(params, *inputs, key=key, train=train, **options), ()

    return StatefulLayer(lambda key: (layer.init(key), ()), apply)


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
            + (
                "Use its counterpart in fl.nn, or the layer of from_module."
                if module
                else "Make it one."
            )
        )

    def apply(
        params: Any,
        *inputs: Any,
        key: Tensor | None = None,
        train: bool = False,
        **options: Any,
    ) -> Any:
        _checks.no_params(function, params)
        return part(*inputs, **options)

    return Layer(lambda key: (), apply)


def apply_at(path: str, part: StatefulLayer, *inputs: Any, **options: Any) -> Any:
    """What the part's `apply` returns; its errors say at which path it stands."""
    try:
        return part.apply(*inputs, **options)
    except (TypeError, ValueError) as error:
        head, colon, rest = str(error).partition(": ")
        if colon and head.startswith("nn."):
            name, _, inner = head.partition(" at ")
            error.args = (f"{name} at {path}{inner}: {rest}",)
        raise


def combined(
    parts: Iterable[Any],
    init: Callable[..., Any],
    apply: Callable[..., Any],
    empty: Any,
) -> Any:
    """The pair of a combinator, as a stateful layer if one of its parts is.

    Otherwise as a layer: with `empty`, the state of parts that have none, filled in.
    """
    if any(isinstance(part, StatefulLayer) for part in parts):
        return StatefulLayer(init, apply)

    def init_(key: Tensor) -> Any:
        return init(key)[0]

    def apply_(
        params: Any,
        *inputs: Any,
        key: Tensor | None = None,
        train: bool = False,
        **options: Any,
    ) -> Any:
        return apply(params, empty, *inputs, key=key, train=train, **options)[0]

    return Layer(init_, apply_)


def check_tuple(function: str, name: str, given: Any, length: int) -> None:
    """Params or a state with one entry for each part.

    Raises:
        ValueError: it is no tuple of that length.
    """
    if not isinstance(given, tuple | list) or len(given) != length:
        raise ValueError(
            f"nn.{function}: {name}: expected a tuple of {length}, got "
            f"{type(given).__name__} of length "
            f"{len(given) if hasattr(given, '__len__') else 1}. Pass the {name} that "
            "this layer's init made."
        )


def no_state(function: str, given: Any) -> None:
    """The state of a layer that has none.

    Raises:
        ValueError: it is not `()`.
    """
    if not isinstance(given, tuple) or len(given):
        raise ValueError(
            f"nn.{function}: state: expected (), got {type(given).__name__} of length "
            f"{len(given) if hasattr(given, '__len__') else 1}. Pass the state that "
            "this layer's init made."
        )
