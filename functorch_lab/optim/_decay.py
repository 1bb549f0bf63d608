# SPDX-License-Identifier: Apache-2.0
"""Weight decay: a fraction of the parameters added to what is to be subtracted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._arguments import (
    check_like,
    check_state,
    is_hole,
    named,
    need_params,
    trainable,
)
from functorch_lab.optim._elementwise import elementwise
from functorch_lab.optim._hyperparams import (
    Hyperparameter,
    Hyperparameters,
    HyperparamsState,
    at,
    values,
)
from functorch_lab.types import GradientTransformation

Selection: TypeAlias = str | Callable[[str, Any], bool]


def chosen_paths(selection: Selection, params: Any) -> set[str]:
    """The paths that a pattern or a predicate chooses."""
    if isinstance(selection, str):
        return set(tree.select(params, selection))
    rows = zip(tree.paths(params), tree.leaves(params), strict=True)
    return {path for path, leaf in rows if selection(path, leaf)}


def add_decay(
    where: str,
    grads: Any,
    params: Any,
    weight_decay: Tensor,
    mask: Selection | None = None,
) -> Any:
    """`grads + weight_decay * params` on the leaves that the mask chooses."""
    params = need_params(where, params)

    def decay(p: Tensor, g: Any) -> Any:
        return () if is_hole(g) else g + at(weight_decay, g) * p.to(g.dtype)

    if mask is None:
        return tree.map(decay, params, grads)
    chosen = chosen_paths(mask, params)
    return tree.map_with_path(
        lambda path, p, g: decay(p, g) if path in chosen else g, params, grads
    )


@named("optim.add_decayed_weights")
def add_decayed_weights(
    weight_decay: Hyperparameter, mask: Selection | None = None
) -> GradientTransformation:
    """Adds `weight_decay * params` to the gradient: the part of `adam` and `adamw`.

    Before `scale_by_adam` in a chain it is an L2 penalty, after it decoupled decay.

    Args:
        weight_decay: the factor, per step.
        mask: which leaves decay: a pattern over dotted paths (`"*.weight"`), or
            `predicate(path, leaf)`; None means all. With a mask `fused` refuses.

    Raises:
        ValueError: weight_decay negative or not finite; in `update`, no params.
        TypeError: a value of another kind, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.add_decayed_weights(0.5, mask="weight")
        >>> params = {"weight": torch.tensor([4.0]), "bias": torch.tensor([4.0])}
        >>> grads = {"weight": torch.tensor([1.0]), "bias": torch.tensor([1.0])}
        >>> transformation.update(grads, transformation.init(params), params)[0]
        {'weight': tensor([3.]), 'bias': tensor([1.])}
    """
    where = "optim.add_decayed_weights"
    hyper = Hyperparameters(where, weight_decay=weight_decay)

    def init(params: Any) -> HyperparamsState:
        params = trainable(f"{where}.init", params)
        if mask is not None:
            chosen_paths(mask, params)  # a pattern without a match raises here
        return HyperparamsState(**hyper.init(params))

    def update(
        grads: Any, state: HyperparamsState, params: Any = None, **extra: Any
    ) -> tuple[Any, HyperparamsState]:
        place = f"{where}.update"
        check_state(place, HyperparamsState, hyper.names, state)
        check_like(place, need_params(place, params), grads)
        decay = values(state, "weight_decay")
        updates = add_decay(place, grads, params, decay, mask)
        return updates, replace(state, **hyper.advance(state))

    return GradientTransformation(init, elementwise(update) if mask is None else update)
