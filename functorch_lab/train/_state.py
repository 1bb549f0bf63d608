# SPDX-License-Identifier: Apache-2.0
"""Everything that a training run changes, as one tree of tensors."""

from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.train._fuse import effective
from functorch_lab.types import GradientTransformation, Key, Params


@tree.dataclass
class TrainState:
    """The state of a training run: a step is a function from one to the next.

    Attributes:
        step: Steps taken so far, int64, shape ().
        params: The parameters.
        opt_state: The optimizer's state.
        model_state: What the model carries besides parameters, such as running
            statistics; () if nothing.
        key: The run's key, the same in every step: a step draws from this key folded
            with its number.
    """

    step: Tensor
    params: Any
    opt_state: Any
    model_state: Any
    key: Tensor


def init(
    params: Params,
    optimizer: GradientTransformation,
    *,
    key: Key,
    model_state: Any = (),
) -> TrainState:
    """The state before the first step.

    Parameters, model state and key are copied, so that a step which donates its state
    leaves the caller's tensors alone.

    Args:
        params: The initial parameters.
        optimizer: The one that `make_step` gets.
        key: The run's key; moved to the device of the parameters.
        model_state: The initial model state.

    Returns:
        A state with step 0.

    Raises:
        TypeError: If `optimizer` is not a GradientTransformation, or `key` not an int32
            tensor.
        ValueError: If `params` has no tensors, or `key` is not of shape (2,).

    Example:
        >>> import torch
        >>> from functorch_lab import optim, random, train
        >>> params = {"w": torch.tensor([2.0, 3.0])}
        >>> state = train.init(params, optim.sgd(lr=0.1), key=random.key(0))
        >>> int(state.step), state.params["w"].tolist()
        (0, [2.0, 3.0])
    """
    leaves = tree.leaves(params)
    if not leaves:
        raise ValueError(
            "train.init: params: expected a tree with at least one tensor, got "
            f"{params!r}. Pass what the model's init returned."
        )
    check_optimizer("train.init", optimizer)
    _check_key(key)
    device = leaves[0].device
    params = tree.copy(params)
    return TrainState(
        step=torch.zeros((), dtype=torch.int64, device=device),
        params=params,
        opt_state=effective(optimizer, params).init(params),
        model_state=tree.copy(model_state),
        key=tree.copy(key).to(device),
    )


def check_optimizer(where: str, optimizer: object) -> None:
    if not isinstance(optimizer, GradientTransformation):
        raise TypeError(
            f"{where}: optimizer: expected a GradientTransformation, got "
            f"{type(optimizer).__name__}. Make one with optim, e.g. optim.adam(1e-3)."
        )


def check_state(where: str, state: object) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{where}: state: expected a TrainState, got {type(state).__name__}. Make "
            "one with train.init(params, optimizer, key=key)."
        )


def _check_key(key: object) -> None:
    expected = "train.init: key: expected one key, int32 of shape (2,), got"
    if not isinstance(key, Tensor):
        raise TypeError(
            f"{expected} {type(key).__name__} {key!r:.40}. Make one with "
            "random.key(seed)."
        )
    if key.dtype != torch.int32:
        raise TypeError(
            f"{expected} {key.dtype} of shape {tuple(key.shape)}. Make one with "
            "random.key(seed)."
        )
    if key.shape != (2,):
        raise ValueError(
            f"{expected} shape {tuple(key.shape)}. Make one with random.key(seed), or "
            "take one row of random.split(key, n)."
        )
