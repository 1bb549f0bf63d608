# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of the parameters, kept beside the optimizer's state.

It is less noisy than the parameters, and is what one evaluates and deploys.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._apply import apply_updates
from functorch_lab.optim._arguments import (
    check_like,
    check_state,
    check_transformation,
    is_hole,
    named,
    trainable,
    widened,
)
from functorch_lab.optim._elementwise import is_elementwise
from functorch_lab.optim._fused import fused
from functorch_lab.optim._hyperparams import (
    Hyperparameter,
    Hyperparameters,
    at,
    values,
)
from functorch_lab.types import GradientTransformation

_WHERE = "optim.ema_params"


@tree.dataclass
class EmaParamsState:
    """The state of `ema_params`.

    Attributes:
        step: updates done, an integer of shape ().
        hyperparams: `decay`, a tensor of shape ().
        scheduled: the same if it follows a schedule: the next update's value.
        ema: the average, structured as the params, in float32 or better.
        inner: the state of the transformation inside.
    """

    step: Tensor
    hyperparams: dict[str, Any]
    scheduled: dict[str, Any]
    ema: Any
    inner: Any


@named(_WHERE)
def ema_params(
    inner: GradientTransformation, decay: Hyperparameter = 0.999
) -> GradientTransformation:
    """Gives the updates of `inner`, and averages the params that come out of them.

    `ema <- decay * ema + (1 - decay) * params` after each update. As in
    `torch.optim.swa_utils.AveragedModel`, the first update sets the average to the
    params, so that it needs no correction. Put it outside: what changes its updates
    afterwards is not in the average. Integer leaves stay as they are in `init`; where
    the updates have a hole, the average stays too.

    Args:
        inner: the transformation whose updates are applied.
        decay: the weight of the past, in [0, 1]; about 1 / (1 - decay) steps count.

    Raises:
        ValueError: decay out of range; in `update`, no params, or what `inner` raises.
        TypeError: `inner` is no transformation, or decay of another kind.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.ema_params(fl.optim.sgd(lr=1.0), decay=0.75)
        >>> params, grads = torch.tensor([4.0]), torch.tensor([-4.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(2):  # params become 8, then 12
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = fl.optim.apply_updates(params, updates)
        >>> fl.optim.get_ema_params(state)  # 0.75 * 8 + 0.25 * 12
        tensor([9.])

    Source:
        B. Polyak and A. Juditsky, "Acceleration of Stochastic Approximation by
        Averaging", SIAM J. Control Optim. 30, 1992; torch's `get_ema_avg_fn`.
    """
    check_transformation(_WHERE, inner)
    hyper = Hyperparameters(_WHERE, decay=decay)

    def init(params: Any) -> EmaParamsState:
        trainable(f"{_WHERE}.init", params)

        def start(leaf: Tensor) -> Tensor:
            return tree.copy(widened(leaf) if leaf.is_floating_point() else leaf)

        ema = tree.map(start, params)
        return EmaParamsState(**hyper.init(params), ema=ema, inner=inner.init(params))

    def update(
        grads: Any, state: EmaParamsState, params: Any = None, **extra: Any
    ) -> tuple[Any, EmaParamsState]:
        place = f"{_WHERE}.update"
        check_state(place, EmaParamsState, hyper.names, state)
        if params is None:
            raise ValueError(
                f"{place}: params: expected the parameters, which are averaged, got "
                "None. Call update(grads, state, params)."
            )
        check_like(place, trainable(place, params), grads)
        updates, after = inner.update(grads, state.inner, params, **extra)
        weight = torch.where(state.step == 0, 1, 1 - values(state, "decay"))

        def average(new: Tensor, u: Any, ema: Tensor) -> Tensor:
            if is_hole(u):
                return ema
            return torch.lerp(ema, new.to(ema.dtype), at(weight, ema))

        ema = tree.map(average, apply_updates(params, updates), updates, state.ema)
        return updates, replace(state, **hyper.advance(state), ema=ema, inner=after)

    if is_elementwise(inner):
        # The average is a tree for its user: joined are the buffers inside alone.
        update.joined = lambda: ema_params(fused(inner), decay)  # pyright: ignore
    return GradientTransformation(init, update)


def get_ema_params(opt_state: Any) -> Any:
    """The average that `ema_params` keeps in an optimizer's state, as params.

    Args:
        opt_state: the state of `ema_params`, or any tree with one in it.

    Returns:
        The averaged params, structured as those that `init` received; half-precision
        ones in float32.

    Raises:
        ValueError: there is no state of `ema_params` in it, or more than one.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.ema_params(fl.optim.adam(lr=0.1))
        >>> fl.optim.get_ema_params(optimizer.init({"w": torch.tensor(2.0)}))
        {'w': tensor(2.)}
    """
    found = _found(opt_state)
    if len(found) != 1:
        raise ValueError(
            "optim.get_ema_params: opt_state: expected one state of ema_params in it, "
            f"got {len(found)}. Make the optimizer as ema_params(inner, decay=0.999)."
        )
    return found[0].ema


def _found(node: Any) -> list[EmaParamsState]:
    if isinstance(node, EmaParamsState):
        return [node]
    children: list[Any] = []
    if isinstance(node, dict):
        children = list(node.values())
    elif isinstance(node, tuple | list):
        children = list(node)
    elif is_dataclass(node):
        children = [getattr(node, field.name) for field in fields(node)]
    return [state for child in children for state in _found(child)]
