# SPDX-License-Identifier: Apache-2.0
"""Layers after one another, and a layer around which the input flows."""

from __future__ import annotations

from typing import Any, overload

from torch import Tensor

from functorch_lab import random
from functorch_lab.nn._stateful import (
    AnyPart,
    Part,
    apply_at,
    as_stateful,
    check_tuple,
    combined,
)
from functorch_lab.types import Layer, StatefulLayer


@overload
def sequential(*layers: Part) -> Layer: ...
@overload
def sequential(*layers: AnyPart) -> Layer | StatefulLayer: ...
def sequential(*layers: AnyPart) -> Layer | StatefulLayer:
    """The layers, one after the other.

    Args:
        layers: layers, and plain functions of one tensor such as `nn.relu`.

    Returns:
        A layer whose params are a tuple with one entry for each of `layers`, `()` for a
        plain function; stateful if one of `layers` is, and then with a state of the
        same form, `()` for those without. A key given to `apply` is split: every layer
        gets its own. Its `apply` raises `ValueError` for params or a state of another
        length.

    Raises:
        TypeError: one of `layers` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.sequential(fl.nn.linear(3, 5), fl.nn.relu, fl.nn.linear(5, 2))
        >>> params = model.init(fl.random.key(0))
        >>> len(params), params[1], model.apply(params, torch.ones(7, 3)).shape
        (3, (), torch.Size([7, 2]))
        >>> model = fl.nn.sequential(fl.nn.batch_norm(3, spatial_dims=0), model)
        >>> params, state = model.init(fl.random.key(0))
        >>> y, state = model.apply(params, state, torch.ones(7, 3), train=True)
        >>> y.shape, state[0]["num_batches_tracked"], state[1]
        (torch.Size([7, 2]), tensor(1), ())
    """
    parts = [
        as_stateful("sequential", f"layers[{i}]", part) for i, part in enumerate(layers)
    ]

    def init(key: Tensor) -> tuple[Any, Any]:
        return init_each(parts, key)

    def apply(
        params: Any,
        state: Any,
        x: Any,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> tuple[Any, Any]:
        check_tuple("sequential", "params", params, len(parts))
        check_tuple("sequential", "state", state, len(parts))
        keys, after = keys_for(key, len(parts)), []
        for i, (part, p, s, k) in enumerate(
            zip(parts, params, state, keys, strict=True)
        ):
            x, s_after = apply_at(f"[{i}]", part, p, s, x, key=k, train=train)
            after.append(s_after)
        return x, tuple(after)

    return combined(layers, init, apply, ((),) * len(parts))


@overload
def residual(layer: Part) -> Layer: ...
@overload
def residual(layer: AnyPart) -> Layer | StatefulLayer: ...
def residual(layer: AnyPart) -> Layer | StatefulLayer:
    """`x + layer(x)`.

    Args:
        layer: a layer, or a plain function, that keeps the shape.

    Returns:
        A layer with the params of `layer`, stateful if `layer` is. Its `apply` takes
        what that of `layer` takes, further inputs and options such as `mask=` too. It
        raises `ValueError` if `layer` changes the shape.

    Raises:
        TypeError: `layer` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.nn.residual(torch.square).apply((), torch.tensor([2.0, 3.0]))
        tensor([ 6., 12.])

    Source: He et al., Deep Residual Learning for Image Recognition (2015), equation 1,
    arXiv 1512.03385.
    """
    part = as_stateful("residual", "layer", layer)

    def apply(
        params: Any,
        state: Any,
        x: Tensor,
        *inputs: Any,
        key: Tensor | None = None,
        train: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        y, state = part.apply(
            params, state, x, *inputs, key=key, train=train, **options
        )
        if y.shape != x.shape:
            raise ValueError(
                f"nn.residual: layer: expected an output of the input's shape, "
                f"{tuple(x.shape)}, got {tuple(y.shape)}. Keep the shape, for example "
                "with padding='same'."
            )
        return x + y, state

    return combined([layer], part.init, apply, ())


def init_each(parts: list[StatefulLayer], key: Tensor) -> tuple[Any, Any]:
    """A tuple of the params, and one of the states, each part with a key of its own."""
    keys = keys_for(key, len(parts))
    made = [part.init(k) for part, k in zip(parts, keys, strict=True)]
    return tuple(params for params, _ in made), tuple(state for _, state in made)


def keys_for(key: Tensor | None, number: int) -> tuple[Tensor | None, ...]:
    """One key each, or none; `split` in one go costs less than `fold_in` for each."""
    if key is None or number == 0:
        return (None,) * number
    return random.split(key, number).unbind()
