# SPDX-License-Identifier: Apache-2.0
"""RMSprop: steps divided by the root of a running mean of the squared gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._arguments import (
    check_like,
    check_state,
    is_hole,
    like_state,
    named,
    trainable,
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
class RMSpropState:
    """The state of `rmsprop` and `scale_by_rms`.

    Attributes:
        step: updates done, an integer of shape ().
        hyperparams: name -> tensor of shape ().
        scheduled: the same for those that follow a schedule: the next update's values.
        square_avg: running mean of the squared gradient, like the params, at least
            float32.
        grad_avg: running mean of the gradient; `()` if not centered.
        momentum_buffer: `()` without momentum.
    """

    step: Tensor
    hyperparams: dict[str, Any]
    scheduled: dict[str, Any]
    square_avg: Any
    grad_avg: Any
    momentum_buffer: Any


# What other libraries call alpha; elsewhere here `decay` is a momentum.
_ALPHA = dict.fromkeys(("decay", "decay_rate", "gamma", "rho"), "alpha")


@named("optim.scale_by_rms", **_ALPHA)
def scale_by_rms(
    *,
    alpha: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    centered: bool = False,
) -> GradientTransformation:
    """RMSprop's direction, without learning rate or sign: a part for `chain`.

    Raises:
        ValueError: alpha outside [0, 1), eps negative or not finite.
        TypeError: a value of another kind, or an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.scale_by_rms(alpha=0.75)
        >>> state = transformation.init(torch.ones(2))
        >>> transformation.update(torch.tensor([8.0, -0.25]), state)[0]
        tensor([ 2.0000, -2.0000])
    """
    where = "optim.scale_by_rms"
    return _rmsprop(where, Hyperparameters(where, alpha=alpha, eps=eps), centered)


@named("optim.rmsprop", **_ALPHA)
def rmsprop(
    lr: Hyperparameter = 1e-2,
    *,
    alpha: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum: Hyperparameter = 0.0,
    centered: bool = False,
) -> GradientTransformation:
    """RMSprop, with torch.optim.RMSprop's options, defaults and order.

    A Python 0 leaves a part out: without momentum there is no buffer, without weight
    decay `update` does not need the params.

    Args:
        lr: the learning rate, per step.
        alpha: the decay rate of the running means, which begin at 0.
        eps: added to the root.
        weight_decay: times the parameter is added to the gradient.
        momentum: the factor of a buffer of the scaled gradients, per step.
        centered: the root of the gradient's variance, in place of its mean square.

    Returns:
        A transformation whose state is an `RMSpropState`.

    Raises:
        ValueError: a value out of range; in `update`, grads that differ from the
            params that init received, or no params where weight decay needs them.
        TypeError: a value of another kind, an unknown name; in `update`, the state of
            another optimizer.

    Examples:
        The first step has the length `lr / sqrt(1 - alpha)`, whatever the gradient's:

        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.rmsprop(lr=0.5, alpha=0.75)
        >>> state = optimizer.init(torch.ones(2))
        >>> updates, state = optimizer.update(torch.tensor([8.0, -0.25]), state)
        >>> updates
        tensor([-1.0000,  1.0000])

    References:
        Tieleman, Hinton, "Lecture 6.5: rmsprop", 2012, slide 29; centered: Graves,
        "Generating Sequences With Recurrent Neural Networks", 2013, equations 38 to
        41, arXiv:1308.0850, with eps outside of the root.
    """
    where = "optim.rmsprop"
    parts = {"weight_decay": weight_decay, "momentum": momentum}
    given = {name: part for name, part in parts.items() if not is_zero(part)}
    hyper = Hyperparameters(where, lr=lr, alpha=alpha, eps=eps, **given)
    return _rmsprop(where, hyper, centered)


def _rmsprop(
    where: str, hyper: Hyperparameters, centered: bool
) -> GradientTransformation:
    has_buffer = "momentum" in hyper.names

    def init(params: Any) -> RMSpropState:
        params = trainable(f"{where}.init", params)
        return RMSpropState(
            **hyper.init(params),
            square_avg=tree.map(zeros_like, params),
            grad_avg=tree.map(zeros_like, params) if centered else (),
            momentum_buffer=tree.map(zeros_like, params) if has_buffer else (),
        )

    @elementwise
    def update(
        grads: Any, state: RMSpropState, params: Any = None, **extra: Any
    ) -> tuple[Any, RMSpropState]:
        place = f"{where}.update"
        check_state(place, RMSpropState, hyper.names, state)
        check_like(place, state.square_avg, grads)
        grads = tree.map(like_state, state.square_avg, grads)
        if "weight_decay" in hyper.names:
            grads = add_decay(place, grads, params, values(state, "weight_decay"))
        fields = _averages(state, grads, centered)
        updates = _direction(grads, fields, values(state, "eps"), centered)
        if has_buffer:
            momentum = values(state, "momentum")
            buffer = tree.map(
                lambda b, u: b if is_hole(u) else at(momentum, b) * b + u,
                state.momentum_buffer,
                updates,
            )
            updates = tree.map(lambda b, u: () if is_hole(u) else b, buffer, updates)
            fields["momentum_buffer"] = buffer
        if "lr" in hyper.names:
            updates = descend(updates, values(state, "lr"))
        return updates, replace(state, **hyper.advance(state), **fields)

    return GradientTransformation(init, update)


def _averages(state: RMSpropState, grads: Any, centered: bool) -> dict[str, Any]:
    """The fields of the next state that hold running means."""
    alpha = values(state, "alpha")

    def mean(m: Tensor, g: Any) -> Tensor:
        return m if is_hole(g) else at(alpha, m) * m + at(1 - alpha, m) * g

    def mean_square(v: Tensor, g: Any) -> Tensor:
        return v if is_hole(g) else at(alpha, v) * v + at(1 - alpha, v) * (g * g)

    fields = {"square_avg": tree.map(mean_square, state.square_avg, grads)}
    if centered:
        fields["grad_avg"] = tree.map(mean, state.grad_avg, grads)
    return fields


def _direction(grads: Any, fields: dict[str, Any], eps: Tensor, centered: bool) -> Any:
    def direction(v: Tensor, g: Any) -> Any:
        if is_hole(g):
            return ()
        # The root has no derivative at 0, and where() would pass its NaN on.
        root = torch.where(v <= 0, 0.0, torch.where(v <= 0, 1.0, v).sqrt())
        return g / (root + at(eps, v))

    spread = fields["square_avg"]
    if centered:
        # Rounding may leave it below 0 where the gradient has hardly changed.
        spread = tree.map(lambda v, m: v - m * m, spread, fields["grad_avg"])
    return tree.map(direction, spread, grads)
