# SPDX-License-Identifier: Apache-2.0
"""Running statistics: how they begin, what is asked of them, how they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import init as initializers

_COUNT = "num_batches_tracked"
_NAMES = ("running_mean", "running_var", _COUNT)
_SAME_LAYER = "Pass the state that this layer's init or apply returned."


def init(key: Tensor, channels: int) -> dict[str, Tensor]:
    return {
        "running_mean": initializers.zeros()(key, (channels,)),
        "running_var": initializers.ones()(key, (channels,)),
        _COUNT: torch.zeros((), dtype=torch.int64, device=key.device),
    }


def updated(
    state: dict[str, Tensor],
    mean: Tensor,
    var: Tensor,
    count: int,
    momentum: float | None,
) -> dict[str, Tensor]:
    """The statistics after a batch of `count` values per channel."""
    tracked = state[_COUNT] + 1
    share = 1 / tracked.to(mean.dtype) if momentum is None else momentum
    unbiased = var * (count / (count - 1))
    running = {
        name: ((1 - share) * state[name] + share * batch).to(state[name].dtype)
        for name, batch in [("running_mean", mean), ("running_var", unbiased)]
    }
    return {**running, _COUNT: tracked}


def check(function: str, state: Any, channels: int, x: Tensor) -> None:
    """The state is one of this layer, on the device of `x` and as precise.

    Raises:
        ValueError: its structure or a shape is another.
        TypeError: its dtype or device does not fit.
    """
    if not isinstance(state, dict) or set(state) != set(_NAMES):
        dict_ = isinstance(state, dict)
        got = f"a dict with {sorted(state)}" if dict_ else type(state).__name__
        raise ValueError(
            f"nn.{function}: state: expected a dict with {sorted(_NAMES)}, got {got}. "
            f"{_SAME_LAYER}"
        )
    for name in _NAMES:
        leaf, shape = state[name], () if name == _COUNT else (channels,)
        if not isinstance(leaf, Tensor) or leaf.shape != shape:
            got = tuple(leaf.shape) if isinstance(leaf, Tensor) else repr(leaf)
            raise ValueError(
                f"nn.{function}: state[{name!r}]: expected a tensor of shape {shape}, "
                f"got {got}. {_SAME_LAYER}"
            )
        if leaf.device != x.device:
            raise TypeError(
                f"nn.{function}: x: expected device {leaf.device}, as the state has, "
                f"got {x.device}. Move one of them with fl.tree.to."
            )
        if name != _COUNT and torch.promote_types(x.dtype, leaf.dtype) != leaf.dtype:
            raise TypeError(
                f"nn.{function}: x: expected {leaf.dtype}, as state[{name!r}] has, or "
                f"a less precise dtype, got {x.dtype}. Convert the state with "
                "fl.tree.cast."
            )
