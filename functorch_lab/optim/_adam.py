# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW: steps scaled by the gradient's first and second moments."""

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
from functorch_lab.optim._decay import Selection, add_decay, chosen_paths
from functorch_lab.optim._elementwise import elementwise
from functorch_lab.optim._hyperparams import (
    Hyperparameter,
    Hyperparameters,
    at,
    is_zero,
    scalar_like,
    values,
)
from functorch_lab.optim._scale import descend
from functorch_lab.types import GradientTransformation


@tree.dataclass
class AdamState:
    """The state of `adam`, `adamw` and `scale_by_adam`.

    Attributes:
        step: updates done, an integer of shape ().
        hyperparams: name -> tensor of shape (); `betas` is a pair.
        scheduled: the same for those that follow a schedule: the next update's values.
        exp_avg: running mean of the gradient, like the params, at least float32.
        exp_avg_sq: running mean of its square.
        bias_correction: `1 - beta**step` for both betas, each of shape ().
    """

    step: Tensor
    hyperparams: dict[str, Any]
    scheduled: dict[str, Any]
    exp_avg: Any
    exp_avg_sq: Any
    bias_correction: tuple[Tensor, Tensor]


@named("optim.scale_by_adam")
def scale_by_adam(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
) -> GradientTransformation:
    """Adam's direction, without learning rate or sign: a part for `chain`.

    Raises:
        ValueError: betas outside [0, 1), eps negative or not finite.
        TypeError: a value of another kind, or an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> transformation = fl.optim.scale_by_adam(eps=1.0)
        >>> state = transformation.init(torch.ones(2))
        >>> transformation.update(torch.tensor([1.0, -3.0]), state)[0]
        tensor([ 0.5000, -0.7500])
    """
    hyper = Hyperparameters("optim.scale_by_adam", betas=betas, eps=eps)
    return _adam("optim.scale_by_adam", hyper)


@named("optim.adam")
def adam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Adam, with torch.optim.Adam's defaults; weight decay is an L2 penalty.

    Args:
        lr: the learning rate, per step.
        betas: the decay rates of the two running means.
        eps: added to the root of the second moment.
        weight_decay: times the parameter is added to the gradient. A Python 0 leaves
            the part out, and then `update` does not need the params.

    Returns:
        A transformation whose state is an `AdamState`.

    Raises:
        ValueError: a value out of range; in `update`, grads that differ from the
            params that init received, or no params where weight decay needs them.
        TypeError: a value of another kind, an unknown name; in `update`, the state of
            another optimizer.

    Examples:
        The first step has the length lr, whatever the gradient's:

        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.adam(lr=0.5)
        >>> state = optimizer.init(torch.ones(2))
        >>> updates, state = optimizer.update(torch.tensor([8.0, -0.25]), state)
        >>> updates
        tensor([-0.5000,  0.5000])

    References:
        Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2015, Algorithm 1,
        arXiv:1412.6980.
    """
    decay = {} if is_zero(weight_decay) else {"weight_decay": weight_decay}
    hyper = Hyperparameters("optim.adam", lr=lr, betas=betas, eps=eps, **decay)
    return _adam("optim.adam", hyper)


@named("optim.adamw")
def adamw(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 1e-2,
    mask: Selection | None = None,
) -> GradientTransformation:
    """Adam with decoupled weight decay, with torch.optim.AdamW's defaults.

    Args:
        lr: the learning rate, per step.
        betas: the decay rates of the two running means.
        eps: added to the root of the second moment.
        weight_decay: each step takes the fraction `lr * weight_decay` of a parameter
            away. A Python 0 leaves the part out.
        mask: which leaves decay: a pattern over dotted paths (`"*.weight"`), or
            `predicate(path, leaf)`; None means all. With a mask `fused` refuses.

    Returns:
        A transformation whose state is an `AdamState`.

    Raises:
        ValueError: as `adam`; in `update`, no params.
        TypeError: as `adam`.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.adamw(lr=0.5, weight_decay=0.25)
        >>> params = torch.tensor([8.0, 16.0])
        >>> state = optimizer.init(params)
        >>> optimizer.update(torch.ones(2), state, params)[0]
        tensor([-1.5000, -2.5000])

    References:
        Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2019,
        Algorithm 2, arXiv:1711.05101.
    """
    decay = {} if is_zero(weight_decay) else {"weight_decay": weight_decay}
    hyper = Hyperparameters("optim.adamw", lr=lr, betas=betas, eps=eps, **decay)
    return _adam("optim.adamw", hyper, decoupled=True, mask=mask)


def _adam(
    where: str,
    hyper: Hyperparameters,
    *,
    decoupled: bool = False,
    mask: Selection | None = None,
) -> GradientTransformation:
    decays = "weight_decay" in hyper.names

    def init(params: Any) -> AdamState:
        params = trainable(f"{where}.init", params)
        if mask is not None:
            chosen_paths(mask, params)  # a pattern without a match raises here
        zero = scalar_like(params)
        return AdamState(
            **hyper.init(params),
            exp_avg=tree.map(zeros_like, params),
            exp_avg_sq=tree.map(zeros_like, params),
            bias_correction=(zero, zero.clone()),
        )

    def update(
        grads: Any, state: AdamState, params: Any = None, **extra: Any
    ) -> tuple[Any, AdamState]:
        place = f"{where}.update"
        check_state(place, AdamState, hyper.names, state)
        check_like(place, state.exp_avg, grads)
        grads = tree.map(like_state, state.exp_avg, grads)
        if decays and not decoupled:
            grads = add_decay(place, grads, params, values(state, "weight_decay"), mask)
        moments = _moments(state, grads)
        updates = _direction(grads, moments, values(state, "eps"))
        if decays and decoupled:
            decay = values(state, "weight_decay")
            updates = add_decay(place, updates, params, decay, mask)
        if "lr" in hyper.names:
            updates = descend(updates, values(state, "lr"))
        return updates, replace(state, **hyper.advance(state), **moments)

    return GradientTransformation(init, elementwise(update) if mask is None else update)


def _moments(state: AdamState, grads: Any) -> dict[str, Any]:
    """The fields of the next state that hold running means."""
    beta1, beta2 = values(state, "betas")
    c1, c2 = state.bias_correction

    def first(m: Tensor, g: Any) -> Tensor:
        return m if is_hole(g) else at(beta1, m) * m + at(1 - beta1, m) * g

    def second(v: Tensor, g: Any) -> Tensor:
        return v if is_hole(g) else at(beta2, v) * v + at(1 - beta2, v) * (g * g)

    return {
        "exp_avg": tree.map(first, state.exp_avg, grads),
        "exp_avg_sq": tree.map(second, state.exp_avg_sq, grads),
        # Running products: `1 - beta**step` loses digits, and in a fused kernel the
        # power is computed again for every vector of elements.
        "bias_correction": (beta1 * c1 + (1 - beta1), beta2 * c2 + (1 - beta2)),
    }


def _direction(grads: Any, moments: dict[str, Any], eps: Tensor) -> Any:
    # Once for all elements: divisions are what an element's update spends its time on.
    c1, c2 = moments["bias_correction"]
    scale1, scale2 = 1 / c1, c2.rsqrt()

    def direction(m: Tensor, v: Tensor, g: Any) -> Any:
        if is_hole(g):
            return ()
        # The root has no derivative at 0, and where() would pass its NaN on.
        root = torch.where(v == 0, 0.0, torch.where(v == 0, 1.0, v).sqrt())
        return (m * at(scale1, m)) / (root * at(scale2, m) + at(eps, m))

    return tree.map(direction, moments["exp_avg"], moments["exp_avg_sq"], grads)
