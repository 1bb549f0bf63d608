# SPDX-License-Identifier: Apache-2.0
"""A model of one's own: named layers and the function that joins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.nn._sequential import init_each
from functorch_lab.nn._stateful import AnyPart, Part, apply_at, as_stateful, combined
from functorch_lab.types import Layer, StatefulLayer

_RESERVED = {"key", "train"}


@overload
def compose(forward: Callable[..., Any], /, **layers: Part) -> Layer: ...
@overload
def compose(
    forward: Callable[..., Any], /, **layers: AnyPart
) -> Layer | StatefulLayer: ...
def compose(forward: Callable[..., Any], /, **layers: AnyPart) -> Layer | StatefulLayer:
    """A layer from named layers and a function that says how they are joined.

    `forward(m, x)` calls `m.name(x)`: the layer of that name with its params, its key
    and `train` already bound, and with any inputs and options that it takes beside:
    `m.attention(x, mask=mask)`, `m.lstm(x, lengths=lengths)`. Every call gets a key of
    its own, also a second call of the same layer (which shares its params).
    `m.name.params` are the layer's params, for instance to tie weights; `m.train` is
    whether it trains, and `m.key()` a new key for randomness in `forward` itself,
    `None` when `apply` got none. Of a stateful layer, a second call begins with the
    state that the first one left, `m.name.state`.

    Args:
        forward: `forward(m, *inputs, **options)`, any pure function.
        layers: layers, or plain functions, by name.

    Returns:
        A layer whose params are a dict with one entry for each of `layers`; `apply`
        takes the inputs and options of `forward`, beside `key` and `train`, and returns
        what it returns. It is stateful if one of `layers` is, and its state such a
        dict, `()` for those without. Its `apply` raises `TypeError` where `forward`
        gives a layer `key` or `train`, and `ValueError` where it calls a stateful layer
        inside a `vmap` of its own, in which the new state would be lost.

    Raises:
        ValueError: a layer is called "key" or "train", or begins with an underscore.
        TypeError: `forward` is no function, or one of `layers` is neither a layer nor a
            function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> def forward(m, x):
        ...     return m.last(torch.tanh(m.first(x)) + x)
        >>> model = fl.nn.compose(forward, first=fl.nn.linear(3, 3),
        ...                       last=fl.nn.linear(3, 2))
        >>> params = model.init(fl.random.key(0))
        >>> sorted(params), model.apply(params, torch.ones(5, 3)).shape
        (['first', 'last'], torch.Size([5, 2]))
    """
    if isinstance(forward, Layer) or not callable(forward):
        raise TypeError(
            "nn.compose: forward: expected a function forward(m, x), got "
            f"{type(forward).__name__}. Give layers by name, after the function."
        )
    wrong = [name for name in layers if name in _RESERVED or name.startswith("_")]
    if wrong:
        raise ValueError(
            f"nn.compose: layers: expected names other than {sorted(_RESERVED)} and "
            f"without a leading underscore, got {wrong}. Rename them."
        )
    parts = {name: as_stateful("compose", name, p) for name, p in layers.items()}

    def init(key: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        params, state = init_each(list(parts.values()), key)
        return (
            dict(zip(parts, params, strict=True)),
            dict(zip(parts, state, strict=True)),
        )

    def apply(
        params: Any,
        state: Any,
        *inputs: Any,
        key: Tensor | None = None,
        train: bool = False,
        **options: Any,
    ) -> tuple[Any, dict[str, Any]]:
        _check_names("params", params, parts)
        _check_names("state", state, parts)
        bound = _Bound(parts, params, state, key, train)
        y = forward(bound, *inputs, **options)
        return y, {name: getattr(bound, name).state for name in parts}

    return combined(layers.values(), init, apply, dict.fromkeys(parts, ()))


def _check_names(what: str, given: Any, parts: dict[str, StatefulLayer]) -> None:
    """Params or a state with one entry for each layer.

    Raises:
        ValueError: it is no such dict.
    """
    if not isinstance(given, dict) or sorted(given) != sorted(parts):
        got = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(
            f"nn.compose: {what}: expected a dict with {sorted(parts)}, got {got}. "
            f"Pass the {what} that this layer's init made."
        )


class _Bound:
    """The `m` of `forward`: the layers with everything but the input bound."""

    def __init__(
        self,
        parts: dict[str, StatefulLayer],
        params: dict[str, Any],
        state: dict[str, Any],
        key: Tensor | None,
        train: bool,
    ) -> None:
        self.train = train
        self._key = key
        self._drawn = 0
        self._names = list(parts)
        self._around = _transforms_around()
        for name, part in parts.items():
            bound = _BoundLayer(name, part, params[name], state[name], self)
            setattr(self, name, bound)

    def key(self) -> Tensor | None:
        if self._key is None:
            return None
        self._drawn += 1
        return random.fold_in(self._key, self._drawn - 1)

    def __getattr__(self, name: str) -> Any:
        # Reached only for what __init__ did not set.
        raise AttributeError(
            f"nn.compose: forward: m.{name}: expected one of {sorted(self._names)}. "
            "Name it where compose is called."
        )


class _BoundLayer:
    """One layer with its params and state, a key for each call, and `train` bound."""

    def __init__(
        self, name: str, layer: StatefulLayer, params: Any, state: Any, model: _Bound
    ) -> None:
        self.params = params
        self.state = state
        self._name = name
        self._layer = layer
        self._model = model

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        model = self._model
        bound = sorted(_RESERVED & options.keys())
        if bound:
            raise TypeError(
                f"nn.compose: forward: m.{self._name}: expected options other than "
                f"{sorted(_RESERVED)}, which are bound already, got {bound}. Pass them "
                "to the apply of the model."
            )
        options |= {"key": model.key(), "train": model.train}
        inputs = (self.params, self.state, *inputs)
        y, state = apply_at(f"[{self._name!r}]", self._layer, *inputs, **options)
        pairs = zip(tree.leaves(state), tree.leaves(self.state), strict=True)
        changed = any(new is not old for new, old in pairs)
        if changed and _transforms_around() != model._around:
            raise ValueError(
                f"nn.compose: forward: m.{self._name}: expected a call of a stateful "
                "layer outside of the vmap or grad that is in forward, got one inside, "
                "where its new state is lost. Transform the model instead."
            )
        self.state = state
        return y


def _transforms_around() -> int:
    """How many vmaps and grads are active; Dynamo cannot say, so 0 while it traces."""
    if torch.compiler.is_dynamo_compiling():
        return 0
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return functorch.maybe_current_level() or 0
