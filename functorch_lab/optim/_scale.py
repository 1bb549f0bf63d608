# SPDX-License-Identifier: Apache-2.0
"""Multiplying the updates by a number: the last part of most chains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    Schedule,
    at,
    values,
)
from functorch_lab.types import GradientTransformation


@named("optim.scale")
def scale(step_size: Hyperparameter) -> GradientTransformation:
    """Multiplies the updates by `step_size`; descent needs a negative one.

    Raises:
        ValueError: step_size is not finite; in `update`, a None among the grads, or
            grads that differ from the params, if these are passed.
        TypeError: a value of another kind, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.scale(-0.5)
        >>> state = transformation.init(torch.ones(2))
        >>> transformation.update(torch.tensor([2.0, 4.0]), state)[0]
        tensor([-1., -2.])
    """
    return _scale("optim.scale", Hyperparameters("optim.scale", step_size=step_size))


@named("optim.scale_by_schedule")
def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    """Multiplies the updates by `step_size_fn(step)`, step 0 at the first update.

    Raises:
        TypeError: step_size_fn is not callable.
        ValueError: in `update`, as `scale`.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.scale_by_schedule(lambda step: -1 / (step + 1))
        >>> state = transformation.init(torch.ones(2))
        >>> _, state = transformation.update(torch.tensor([2.0, 4.0]), state)
        >>> transformation.update(torch.tensor([2.0, 4.0]), state)[0]
        tensor([-1., -2.])
    """
    where = "optim.scale_by_schedule"
    if not callable(step_size_fn):
        raise TypeError(
            f"{where}: step_size_fn: expected a function step -> value, "
            f"got {type(step_size_fn).__name__}. For a number write scale(...)."
        )
    return _scale(where, Hyperparameters(where, step_size=step_size_fn))


def descend(directions: Any, lr: Tensor) -> Any:
    """Updates that go against the directions: the last step of every algorithm."""
    return tree.map(lambda d: -at(lr, d) * d, directions)


def _scale(where: str, hyper: Hyperparameters) -> GradientTransformation:
    def init(params: Any) -> HyperparamsState:
        return HyperparamsState(**hyper.init(trainable(f"{where}.init", params)))

    @elementwise
    def update(
        grads: Any, state: HyperparamsState, params: Any = None, **extra: Any
    ) -> tuple[Any, HyperparamsState]:
        place = f"{where}.update"
        check_state(place, HyperparamsState, hyper.names, state)
        check_grads(place, grads, params)
        step_size = values(state, "step_size")
        updates = tree.map(lambda g: at(step_size, g) * g, tree.map(widened, grads))
        return updates, replace(state, **hyper.advance(state))

    return GradientTransformation(init, update)
