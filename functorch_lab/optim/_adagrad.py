# SPDX-License-Identifier: Apache-2.0
"""Adagrad: steps divided by the root of the sum of all squared gradients so far."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real
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
    known,
    values,
)
from functorch_lab.optim._scale import descend
from functorch_lab.types import GradientTransformation


@tree.dataclass
class AdagradState:
    """The state of `adagrad` and `scale_by_rss`.

    Attributes:
        step: updates done, an integer of shape ().
        hyperparams: name -> tensor of shape ().
        scheduled: the same for those that follow a schedule: the next update's values.
        sum: sum of the squared gradients, like the params, at least float32.
    """

    step: Tensor
    hyperparams: dict[str, Any]
    scheduled: dict[str, Any]
    sum: Any


@named("optim.scale_by_rss")
def scale_by_rss(
    *, initial_accumulator_value: float | Tensor = 0.0, eps: Hyperparameter = 1e-10
) -> GradientTransformation:
    """Adagrad's direction, without learning rate or sign: a part for `chain`.

    Raises:
        ValueError: a value negative or not finite.
        TypeError: a value of another kind, or an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.scale_by_rss(initial_accumulator_value=9.0)
        >>> state = transformation.init(torch.ones(2))
        >>> transformation.update(torch.tensor([4.0, 0.0]), state)[0]
        tensor([0.8000, 0.0000])
    """
    where = "optim.scale_by_rss"
    return _adagrad(where, Hyperparameters(where, eps=eps), initial_accumulator_value)


@named("optim.adagrad")
def adagrad(
    lr: Hyperparameter = 1e-2,
    *,
    lr_decay: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    initial_accumulator_value: float | Tensor = 0.0,
    eps: Hyperparameter = 1e-10,
) -> GradientTransformation:
    """Adagrad, with torch.optim.Adagrad's options, defaults and order.

    A Python 0 leaves a part out: without weight decay `update` does not need the
    params.

    Args:
        lr: the learning rate, per step.
        lr_decay: after `n` updates the learning rate is `lr / (1 + n * lr_decay)`.
        weight_decay: times the parameter is added to the gradient.
        initial_accumulator_value: where the sums of squares begin: a number or a tensor
            of shape (), used by `init` alone.
        eps: added to the root of the sum.

    Returns:
        A transformation whose state is an `AdagradState`.

    Raises:
        ValueError: a value out of range; in `update`, grads that differ from the
            params that init received, or no params where weight decay needs them.
        TypeError: a value of another kind, an unknown name; in `update`, the state of
            another optimizer.

    Examples:
        The same gradient again and again gives steps of `lr / sqrt(n)`:

        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.adagrad(lr=0.5)
        >>> grads = torch.tensor([8.0, -0.25])
        >>> updates, state = optimizer.update(grads, optimizer.init(torch.ones(2)))
        >>> updates
        tensor([-0.5000,  0.5000])
        >>> optimizer.update(grads, state)[0]
        tensor([-0.3536,  0.3536])

    References:
        Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and
        Stochastic Optimization", 2011, figure 1 with diagonal matrices.
    """
    where = "optim.adagrad"
    parts = {"lr_decay": lr_decay, "weight_decay": weight_decay}
    given = {name: part for name, part in parts.items() if not is_zero(part)}
    hyper = Hyperparameters(where, lr=lr, eps=eps, **given)
    return _adagrad(where, hyper, initial_accumulator_value)


def _check_initial(where: str, value: Any) -> None:
    if isinstance(value, Tensor):
        if value.shape != () or not value.is_floating_point():
            raise ValueError(
                f"{where}: initial_accumulator_value: expected a floating tensor of "
                f"shape (), got {value.dtype} of shape {tuple(value.shape)}. "
                "Pass one number for all parameters."
            )
    elif not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{where}: initial_accumulator_value: expected a number, got "
            f"{type(value).__name__}. It is used once, by init: no schedule."
        )
    for number in known(value, wait=True):
        if not 0 <= float(number) < math.inf:
            raise ValueError(
                f"{where}: initial_accumulator_value: expected a finite number >= 0, "
                f"got {number}. Pass a number in that range or a 0-d tensor."
            )


def _adagrad(
    where: str, hyper: Hyperparameters, initial: float | Tensor
) -> GradientTransformation:
    _check_initial(where, initial)

    def init(params: Any) -> AdagradState:
        params = trainable(f"{where}.init", params)

        def begin(p: Tensor) -> Tensor:
            if isinstance(initial, Tensor):
                return zeros_like(p) + at(initial, zeros_like(p))
            return zeros_like(p) + initial

        return AdagradState(**hyper.init(params), sum=tree.map(begin, params))

    @elementwise
    def update(
        grads: Any, state: AdagradState, params: Any = None, **extra: Any
    ) -> tuple[Any, AdagradState]:
        place = f"{where}.update"
        check_state(place, AdagradState, hyper.names, state)
        check_like(place, state.sum, grads)
        grads = tree.map(like_state, state.sum, grads)
        if "weight_decay" in hyper.names:
            grads = add_decay(place, grads, params, values(state, "weight_decay"))
        total = tree.map(lambda s, g: s if is_hole(g) else s + g * g, state.sum, grads)
        updates = _direction(grads, total, values(state, "eps"))
        if "lr" in hyper.names:
            updates = descend(updates, _learning_rate(state, hyper))
        return updates, replace(state, **hyper.advance(state), sum=total)

    return GradientTransformation(init, update)


def _learning_rate(state: AdagradState, hyper: Hyperparameters) -> Tensor:
    lr = values(state, "lr")
    if "lr_decay" not in hyper.names:
        return lr
    return lr / (1 + state.step.to(lr.dtype) * values(state, "lr_decay"))


def _direction(grads: Any, total: Any, eps: Tensor) -> Any:
    def direction(s: Tensor, g: Any) -> Any:
        if is_hole(g):
            return ()
        # The root has no derivative at 0, and where() would pass its NaN on.
        root = torch.where(s == 0, 0.0, torch.where(s == 0, 1.0, s).sqrt())
        return g / (root + at(eps, s))

    return tree.map(direction, total, grads)
