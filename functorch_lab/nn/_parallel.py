# SPDX-License-Identifier: Apache-2.0
"""Layers beside one another."""

from __future__ import annotations

from typing import Any, overload

from torch import Tensor

from functorch_lab.nn._sequential import init_each, keys_for
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
def parallel(*layers: Part) -> Layer: ...
@overload
def parallel(*layers: AnyPart) -> Layer | StatefulLayer: ...
def parallel(*layers: AnyPart) -> Layer | StatefulLayer:
    """Each layer on an input of its own: from a tuple of inputs to one of outputs.

    Plain functions around it, in a `sequential`, say where the inputs come from and
    what becomes of the outputs: `lambda x: (x, x)` gives two branches the same input,
    `lambda ys: torch.cat(ys, -1)` joins theirs, and `sum` adds them.

    Args:
        layers: layers, and plain functions of one tensor such as `nn.identity`.

    Returns:
        A layer from a tuple with one entry for each of `layers` to another; its params
        are such a tuple too, `()` for a plain function. It is stateful if one of
        `layers` is, with a state of the same form. A key given to `apply` is split:
        every layer gets its own. Its `apply` raises `ValueError` for params, a state or
        inputs of another length.

    Raises:
        TypeError: one of `layers` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.sequential(
        ...     lambda x: (x, x), fl.nn.parallel(torch.square, fl.nn.identity), sum)
        >>> params = model.init(fl.random.key(0))
        >>> model.apply(params, torch.tensor([2.0, 3.0]))
        tensor([ 6., 12.])

    Source: as `parallel`, `FanOut` and `FanInSum` of `jax.example_libraries.stax`.
    """
    parts = [
        as_stateful("parallel", f"layers[{i}]", part) for i, part in enumerate(layers)
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
        check_tuple("parallel", "params", params, len(parts))
        check_tuple("parallel", "state", state, len(parts))
        if not isinstance(x, tuple | list) or len(x) != len(parts):
            got = (
                f"{type(x).__name__} of length {len(x) if hasattr(x, '__len__') else 1}"
            )
            raise ValueError(
                f"nn.parallel: x: expected a tuple of {len(parts)}, one input for each "
                f"layer, got {got}. Give all the same one with `lambda x: (x, x)` "
                "before, in a sequential."
            )
        keys = keys_for(key, len(parts))
        done = [
            apply_at(f"[{i}]", part, p, s, each, key=k, train=train)
            for i, (part, p, s, each, k) in enumerate(
                zip(parts, params, state, x, keys, strict=True)
            )
        ]
        return tuple(y for y, _ in done), tuple(after for _, after in done)

    return combined(layers, init, apply, ((),) * len(parts))
