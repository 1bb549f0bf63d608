# SPDX-License-Identifier: Apache-2.0
"""A model of one's own: named layers and the function that joins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab import random
from functorch_lab.nn._sequential import Part, as_layer
from functorch_lab.types import Layer

_RESERVED = {"key", "train"}


def compose(forward: Callable[..., Any], /, **layers: Part) -> Layer:
    """A layer from named layers and a function that says how they are joined.

    `forward(m, x)` calls `m.name(x)`: the layer of that name with its params, its key
    and `train` already bound. Every call gets a key of its own, also a second call of
    the same layer (which shares its params). `m.name.params` are the layer's params,
    for instance to tie weights; `m.train` is whether it trains, and `m.key()` a new key
    for randomness in `forward` itself, `None` when `apply` got none.

    Args:
        forward: `forward(m, *inputs)`, any pure function.
        layers: layers, or plain functions of one tensor, by name.

    Returns:
        A layer whose params are a dict with one entry for each of `layers`; `apply`
        takes as many inputs as `forward` and returns what it returns.

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
    parts = {name: as_layer("compose", name, part) for name, part in layers.items()}

    def init(key: Tensor) -> dict[str, Any]:
        if not parts:
            return {}
        keys = random.split(key, len(parts)).unbind()
        return {name: parts[name].init(k) for name, k in zip(parts, keys, strict=True)}

    def apply(
        params: Any, *inputs: Any, key: Tensor | None = None, train: bool = False
    ) -> Any:
        if not isinstance(params, dict) or sorted(params) != sorted(parts):
            got = sorted(params) if isinstance(params, dict) else type(params).__name__
            raise ValueError(
                f"nn.compose: params: expected a dict with {sorted(parts)}, got {got}. "
                "Pass the params that this layer's init made."
            )
        return forward(_Bound(parts, params, key, train), *inputs)

    return Layer(init, apply)


class _Bound:
    """The `m` of `forward`: the layers with everything but the input bound."""

    def __init__(
        self,
        parts: dict[str, Layer],
        params: dict[str, Any],
        key: Tensor | None,
        train: bool,
    ) -> None:
        self.train = train
        self._key = key
        self._drawn = 0
        self._names = list(parts)
        for name, part in parts.items():
            setattr(self, name, _BoundLayer(part, params[name], self))

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
    """One layer with its params, a new key for each call, and `train` bound."""

    def __init__(self, layer: Layer, params: Any, model: _Bound) -> None:
        self.params = params
        self._layer = layer
        self._model = model

    def __call__(self, *inputs: Any) -> Any:
        model = self._model
        return self._layer.apply(
            self.params, *inputs, key=model.key(), train=model.train
        )
