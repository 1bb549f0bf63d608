# SPDX-License-Identifier: Apache-2.0
"""Stochastic gradient descent, plain or with momentum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._arguments import (
    check_grads,
    check_like,
    check_state,
    is_hole,
    like_state,
    named,
    trainable,
    widened,
    zeros_like,
)
from functorch_lab.optim._decay import add_decay
from functorch_lab.optim._elementwise import elementwise
from functorch_lab.optim._hyperparams import (
    Hyperparameter,
    Hyperparameters,
    at,
    is_zero,
    values,
)
from functorch_lab.optim._scale import descend
from functorch_lab.types import GradientTransformation


@tree.dataclass
class SGDState:
    """The state of `sgd` and `trace`.

    Attributes:
        step: updates done, an integer of shape ().
        hyperparams: name -> tensor of shape ().
        scheduled: the same for those that follow a schedule: the next update's values.
        momentum_buffer: like the params, at least float32; `()` without momentum.
    """

    step: Tensor
    hyperparams: dict[str, Any]
    scheduled: dict[str, Any]
    momentum_buffer: Any


@named("optim.sgd")
def sgd(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.0,
    dampening: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    nesterov: bool = False,
) -> GradientTransformation:
    """Gradient descent with torch.optim.SGD's options, defaults and order.

    A Python 0 leaves a part out: without momentum there is no buffer, without weight
    decay `update` does not need the params.

    Args:
        lr: the learning rate, per step.
        momentum: the factor of the buffer, per step.
        dampening: the gradient enters the buffer times `1 - dampening`, the first one
            in full.
        weight_decay: times the parameter is added to the gradient.
        nesterov: steps along the gradient plus momentum times the buffer.

    Returns:
        A transformation whose state is an `SGDState`.

    Raises:
        ValueError: a value out of range, nesterov without momentum or with dampening;
            in `update`, grads that differ from the params that init received, or no
            params where weight decay needs them.
        TypeError: a value of another kind, an unknown name; in `update`, the state of
            another optimizer.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.sgd(lr=0.5, momentum=0.5)
        >>> state = optimizer.init(torch.ones(2))
        >>> _, state = optimizer.update(torch.tensor([2.0, 4.0]), state)
        >>> optimizer.update(torch.tensor([2.0, 4.0]), state)[0]
        tensor([-1.5000, -3.0000])

    References:
        Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and
        momentum in deep learning", 2013, equations 1 to 4, with torch's sign and scale.
    """
    _check_nesterov("optim.sgd", momentum, dampening, nesterov)
    parts = {
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
    }
    given = {name: part for name, part in parts.items() if not is_zero(part)}
    return _sgd("optim.sgd", Hyperparameters("optim.sgd", lr=lr, **given), nesterov)


@named("optim.trace")
def trace(
    momentum: Hyperparameter,
    dampening: Hyperparameter = 0.0,
    nesterov: bool = False,
) -> GradientTransformation:
    """The momentum of `sgd`, without learning rate or sign: a part for `chain`.

    Raises:
        ValueError: a value out of range, nesterov without momentum or with dampening.
        TypeError: a value of another kind, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.trace(0.5)
        >>> state = transformation.init(torch.ones(2))
        >>> _, state = transformation.update(torch.tensor([2.0, 4.0]), state)
        >>> transformation.update(torch.tensor([2.0, 4.0]), state)[0]
        tensor([3., 6.])
    """
    _check_nesterov("optim.trace", momentum, dampening, nesterov)
    given = {} if is_zero(dampening) else {"dampening": dampening}
    hyper = Hyperparameters("optim.trace", momentum=momentum, **given)
    return _sgd("optim.trace", hyper, nesterov)


def _check_nesterov(where: str, momentum: Any, dampening: Any, nesterov: bool) -> None:
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise ValueError(
            f"{where}: nesterov: expected momentum > 0 and dampening 0, got "
            f"momentum={momentum} and dampening={dampening}. Pass momentum=0.9."
        )


def _sgd(where: str, hyper: Hyperparameters, nesterov: bool) -> GradientTransformation:
    has_buffer = "momentum" in hyper.names

    def init(params: Any) -> SGDState:
        params = trainable(f"{where}.init", params)
        buffer = tree.map(zeros_like, params) if has_buffer else ()
        return SGDState(**hyper.init(params), momentum_buffer=buffer)

    @elementwise
    def update(
        grads: Any, state: SGDState, params: Any = None, **extra: Any
    ) -> tuple[Any, SGDState]:
        place = f"{where}.update"
        check_state(place, SGDState, hyper.names, state)
        if has_buffer:
            check_like(place, state.momentum_buffer, grads)
            updates = tree.map(like_state, state.momentum_buffer, grads)
        else:
            check_grads(place, grads, params)
            updates = tree.map(widened, grads)
        if "weight_decay" in hyper.names:
            updates = add_decay(place, updates, params, values(state, "weight_decay"))
        buffer = state.momentum_buffer
        if has_buffer:
            buffer = _next_buffer(state, updates, hyper)
            updates = _along(updates, buffer, values(state, "momentum"), nesterov)
        if "lr" in hyper.names:
            updates = descend(updates, values(state, "lr"))
        return updates, replace(state, **hyper.advance(state), momentum_buffer=buffer)

    return GradientTransformation(init, update)


def _next_buffer(state: SGDState, grads: Any, hyper: Hyperparameters) -> Any:
    momentum = values(state, "momentum")

    def plain(buffer: Tensor, g: Any) -> Tensor:
        return buffer if is_hole(g) else at(momentum, buffer) * buffer + g

    if "dampening" not in hyper.names:
        return tree.map(plain, state.momentum_buffer, grads)
    kept = 1 - values(state, "dampening")
    kept = torch.where(state.step == 0, torch.ones_like(kept), kept)
    damped = tree.map(lambda g: at(kept, g) * g, grads)
    return tree.map(plain, state.momentum_buffer, damped)


def _along(grads: Any, buffer: Any, momentum: Tensor, nesterov: bool) -> Any:
    def along(b: Tensor, g: Any) -> Any:
        if is_hole(g):
            return ()
        return g + at(momentum, b) * b if nesterov else b

    return tree.map(along, buffer, grads)
