# SPDX-License-Identifier: Apache-2.0
"""Training a part of the parameters."""

from __future__ import annotations

from typing import Any

import torch

from functorch_lab import tree
from functorch_lab.optim._arguments import check_transformation, is_hole
from functorch_lab.optim._decay import Selection, chosen_paths
from functorch_lab.types import GradientTransformation


def freeze(inner: GradientTransformation, frozen: Selection) -> GradientTransformation:
    """Applies `inner` to some leaves; the frozen ones get zero updates and no state.

    The state is that of `inner` on the other leaves. To join small leaves, write
    `freeze(fused(inner), frozen)`: `fused` cannot see paths.

    Args:
        inner: the transformation of the leaves that are trained.
        frozen: a pattern over dotted paths ("encoder.*"), or `predicate(path, leaf)`
            that is true for frozen leaves, called with the params' leaves where
            `update` receives the params, else with the gradients'.

    Raises:
        ValueError: the pattern matches no leaf (in `init` and `update`).
        TypeError: `inner` is no transformation.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.freeze(fl.optim.sgd(lr=0.5), "encoder.*")
        >>> params = {"encoder": {"w": torch.ones(2)}, "head": torch.ones(2)}
        >>> state = optimizer.init(params)
        >>> optimizer.update(fl.tree.scale(params, 2.0), state)[0]
        {'encoder': {'w': tensor([0., 0.])}, 'head': tensor([-1., -1.])}
    """
    check_transformation("optim.freeze", inner)

    def open_part(reference: Any, whole: Any) -> Any:
        chosen = chosen_paths(frozen, reference)
        return tree.partition(lambda path, leaf: path not in chosen, whole)[0]

    def init(params: Any) -> Any:
        return inner.init(open_part(params, params))

    def update(
        grads: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        reference = grads if params is None else params
        trained = None if params is None else open_part(params, params)
        updates, state = inner.update(
            open_part(reference, grads), state, trained, **extra
        )
        return tree.map(
            lambda g, u: torch.zeros_like(g) if is_hole(u) else u, grads, updates
        ), state

    return GradientTransformation(init, update)
