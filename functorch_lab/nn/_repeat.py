# SPDX-License-Identifier: Apache-2.0
"""Copies of one layer after one another, with their params in one tree."""

from __future__ import annotations

from typing import Any, overload

from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.nn import _checks
from functorch_lab.nn._sequential import keys_for
from functorch_lab.nn._stateful import AnyPart, Part, as_stateful, combined
from functorch_lab.types import Layer, StatefulLayer


@overload
def repeat(layer: Part, n: int) -> Layer: ...
@overload
def repeat(layer: AnyPart, n: int) -> Layer | StatefulLayer: ...
def repeat(layer: AnyPart, n: int) -> Layer | StatefulLayer:
    """The layer `n` times, one after the other, each time with params of its own.

    As `sequential` of `n` such layers, but the params are one tree of the structure of
    one layer's. The loop is unrolled, so that it has every derivative; compilation
    takes as long as that of `n` layers.

    Args:
        layer: a layer, or a plain function, that takes its own output.
        n: how often, at least 1.

    Returns:
        A layer with the params of `layer`, each leaf with a new leading axis of `n`;
        stateful if `layer` is, with a state of the same form. A key given to `apply` is
        split: every copy gets its own; further options, such as `mask=`, go to all.
        Its `apply` raises `ValueError` for params or a
        state without that axis.

    Raises:
        ValueError: `n` is below 1.
        TypeError: `n` is no integer, or `layer` neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.repeat(fl.nn.linear(2, 2, bias=False), 3)
        >>> model.init(fl.random.key(0))["weight"].shape
        torch.Size([3, 2, 2])
        >>> weight = torch.stack([torch.eye(2) * scale for scale in (2.0, 3.0, 5.0)])
        >>> model.apply({"weight": weight}, torch.tensor([1.0, 10.0]))
        tensor([ 30., 300.])
    """
    _checks.size("repeat", "n", n)
    part = as_stateful("repeat", "layer", layer)

    def init(key: Tensor) -> tuple[Any, Any]:
        made = [part.init(k) for k in random.split(key, n).unbind()]
        params, state = zip(*made, strict=True)
        return tree.stack(params), tree.stack(state)

    def apply(
        params: Any,
        state: Any,
        x: Any,
        *,
        key: Tensor | None = None,
        train: bool = False,
        **options: Any,
    ) -> tuple[Any, Any]:
        rows = zip(
            _unstacked("params", params, n),
            _unstacked("state", state, n),
            keys_for(key, n),
            strict=True,
        )
        after = []
        for p, s, k in rows:
            x, s_after = part.apply(p, s, x, key=k, train=train, **options)
            after.append(s_after)
        return x, tree.stack(after)

    return combined([layer], init, apply, ())


def _unstacked(name: str, given: Any, n: int) -> list[Any]:
    """The tree of each copy.

    Raises:
        ValueError: a leaf lacks the leading axis of the copies.
    """
    leaves = tree.leaves(given)
    for path, leaf in zip(tree.paths(given), leaves, strict=True):
        if leaf.ndim == 0 or leaf.shape[0] != n:
            raise ValueError(
                f"nn.repeat: {name} at {path}: expected a leading axis of n = {n}, "
                f"got shape {tuple(leaf.shape)}. Pass the {name} that this layer's "
                "init made, or stack those of the copies with fl.tree.stack."
            )
    return tree.unstack(given) if leaves else [given] * n
