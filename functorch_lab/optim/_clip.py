# SPDX-License-Identifier: Apache-2.0
"""Clipping by the norm of the whole gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._arguments import (
    check_grads,
    check_state,
    named,
    trainable,
    widened,
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


@named("optim.clip_by_global_norm")
def clip_by_global_norm(max_norm: Hyperparameter) -> GradientTransformation:
    """Shortens the gradient to `max_norm` if the norm over all leaves is larger.

    `fused` joins the leaves before the sum of squares, so its norm differs from the
    per-leaf one by rounding.

    Args:
        max_norm: the largest norm that is left as it is.

    Raises:
        ValueError: max_norm is not positive; in `update`, a None among the grads, or
            grads that differ from the params, if these are passed.
        TypeError: a value of another kind, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.clip_by_global_norm(1.0)
        >>> grads = (torch.tensor([3.0]), torch.tensor([4.0]))
        >>> transformation.update(grads, transformation.init(grads))[0]
        (tensor([0.6000]), tensor([0.8000]))

    References:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural
        networks", 2013, Algorithm 1, arXiv:1211.5063.
    """
    where = "optim.clip_by_global_norm"
    hyper = Hyperparameters(where, max_norm=max_norm)

    def init(params: Any) -> HyperparamsState:
        return HyperparamsState(**hyper.init(trainable(f"{where}.init", params)))

    @elementwise
    def update(
        grads: Any, state: HyperparamsState, params: Any = None, **extra: Any
    ) -> tuple[Any, HyperparamsState]:
        place = f"{where}.update"
        check_state(place, HyperparamsState, hyper.names, state)
        check_grads(place, grads, params)
        grads = tree.map(widened, grads)
        factor = _factor(grads, values(state, "max_norm"))
        updates = tree.map(lambda g: at(factor, g) * g, grads)
        return updates, replace(state, **hyper.advance(state))

    return GradientTransformation(init, update)


def _factor(grads: Any, max_norm: Tensor) -> Tensor:
    total = torch.zeros_like(max_norm)
    for g in tree.leaves(grads):
        total = total + at((g * g).sum(), total)
    # The root has no derivative at 0, and where() would pass its NaN on.
    norm = torch.where(total == 0, 1.0, total).sqrt()
    inside = (total == 0) | (norm <= max_norm)
    return torch.where(inside, 1.0, max_norm / norm)
