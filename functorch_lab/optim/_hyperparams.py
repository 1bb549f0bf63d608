# SPDX-License-Identifier: Apache-2.0
"""Hyperparameters as 0-d tensors in the state: read, changed, swept, differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from functorch_lab import tree

Schedule: TypeAlias = Callable[[Tensor], Tensor | float]
Hyperparameter: TypeAlias = float | Tensor | Schedule

_AT_LEAST_ZERO = ("a finite number >= 0", lambda v: 0 <= v < math.inf)
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": _AT_LEAST_ZERO,
    "lr_decay": _AT_LEAST_ZERO,
    "eps": _AT_LEAST_ZERO,
    "momentum": _AT_LEAST_ZERO,
    "weight_decay": _AT_LEAST_ZERO,
    "alpha": ("a number in [0, 1)", lambda v: 0 <= v < 1),
    "betas": ("two numbers in [0, 1)", lambda v: 0 <= v < 1),
    "decay": ("a number in [0, 1]", lambda v: 0 <= v <= 1),
    "max_norm": ("a number > 0", lambda v: v > 0),
}
_FINITE = ("a finite number", math.isfinite)
_REMEDY = "Pass a number in that range, a 0-d tensor or a schedule."


def known(value: Any, *, wait: bool) -> list[float]:
    """The numbers in a value, none where it is traced, mapped or not there yet."""
    if not isinstance(value, Tensor):
        return [value]
    if torch.compiler.is_dynamo_compiling():
        return []
    torch_c: Any = torch._C
    hidden = (
        type(value) is not Tensor  # a FakeTensor
        or torch_c._functorch.is_functorch_wrapped_tensor(value)  # a sweep
        or torch_c._len_torch_dispatch_stack() > 0  # another kind of trace
        # A device is waited for when an optimizer is made, and never in a step.
        or value.device.type == "meta"
        or (value.device.type != "cpu" and not wait)
    )
    return [] if hidden else value.detach().reshape(-1).tolist()


def with_ends(schedule: Schedule, *ends: Any) -> Schedule:
    """A schedule that says between which values it runs: they are checked by name."""
    schedule.ends = ends  # pyright: ignore[reportFunctionMemberAccess]
    return schedule


def _check_one(
    where: str,
    name: str,
    value: Any,
    shape: tuple[int, ...] = (),
    *,
    wait: bool = False,
) -> None:
    text, holds = _RANGES.get(name, _FINITE)
    if isinstance(value, Tensor):
        if value.shape not in ((), shape) or not value.is_floating_point():
            raise ValueError(
                f"{where}: {name}: expected a floating tensor of shape {shape}, got "
                f"{value.dtype} of shape {tuple(value.shape)}. For one optimizer per "
                "value, vmap over the states."
            )
        numbers, source = known(value, wait=wait), ""
    elif isinstance(value, Real) and not isinstance(value, bool):
        numbers, source = [value], ""
    elif callable(value):
        ends = getattr(value, "ends", ())
        numbers = [number for end in ends for number in known(end, wait=wait)]
        source = " from its schedule"
    else:
        raise TypeError(
            f"{where}: {name}: expected a number, got {type(value).__name__}. {_REMEDY}"
        )
    for number in numbers:
        if not holds(float(number)):
            raise ValueError(
                f"{where}: {name}: expected {text}, got {number}{source}. {_REMEDY}"
            )


def check(where: str, name: str, value: Any, *, wait: bool = False) -> None:
    if name != "betas":
        return _check_one(where, name, value, wait=wait)
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(
            f"{where}: betas: expected two numbers in [0, 1), got {value!r}. "
            "Write betas=(0.9, 0.999)."
        )
    for beta in value:
        _check_one(where, name, beta, wait=wait)
    return None


def is_zero(value: Any) -> bool:
    """Whether a part of an algorithm is left out: a Python 0, never a tensor."""
    return not isinstance(value, Tensor) and not callable(value) and value == 0


@tree.dataclass
class HyperparamsState:
    """The state of a transformation that remembers nothing but its hyperparameters.

    Attributes:
        step: updates done, an integer of shape ().
        hyperparams: name -> tensor of shape ().
        scheduled: the same for those that follow a schedule: the next update's values.
    """

    step: Tensor
    hyperparams: dict[str, Any]
    scheduled: dict[str, Any]


class Hyperparameters:
    """What one transformation was given: the numbers for its state, the schedules."""

    def __init__(self, where: str, **values: Any) -> None:
        for name, value in values.items():
            check(where, name, value, wait=True)
        self.names = tuple(values)
        self.free: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        for name, value in values.items():
            group = tuple(value) if name == "betas" else value
            parts = group if isinstance(group, tuple) else (group,)
            kind = self.schedules if any(map(callable, parts)) else self.free
            kind[name] = group

    def init(self, params: Any) -> dict[str, Any]:
        """The fields `step`, `hyperparams` and `scheduled` of a new state."""
        like = scalar_like(params)
        step = torch.zeros_like(like, dtype=torch.int64)
        return {
            "step": step,
            "hyperparams": {k: _fill(like, v) for k, v in self.free.items()},
            "scheduled": self._scheduled(step, like),
        }

    def advance(self, state: Any) -> dict[str, Any]:
        """The fields `step` and `scheduled` of the next state."""
        step = state.step + 1
        if not self.schedules:
            return {"step": step, "scheduled": {}}
        like = tree.leaves(state.scheduled)[0]
        return {"step": step, "scheduled": self._scheduled(step, like)}

    def _scheduled(self, step: Tensor, like: Tensor) -> dict[str, Any]:
        # The value for the *next* update: evaluated here it is an input of the update's
        # kernel, where a cosine would be computed again for every vector of elements.
        time = step.to(like.dtype)
        return {k: _fill(like, v, time) for k, v in self.schedules.items()}


def scalar_like(params: Any) -> Tensor:
    """A 0-d zero in the precision of the params or better, on their device."""
    leaves = tree.leaves(params)
    if not leaves:
        return torch.zeros(())
    dtype = torch.float32  # what half-precision params are updated in
    for leaf in leaves:
        dtype = torch.promote_types(dtype, leaf.dtype)
    return torch.zeros((), dtype=dtype, device=leaves[0].device)


def _fill(like: Tensor, value: Any, time: Tensor | None = None) -> Any:
    """A value as new tensors of the dtype and device of `like`."""
    if isinstance(value, tuple):
        return tuple([_fill(like, part, time) for part in value])
    if callable(value) and not isinstance(value, Tensor):
        value = value(time)
    if isinstance(value, Tensor):
        # A copy: the state is donated, the caller's tensor stays the caller's.
        return value.to(dtype=like.dtype, device=like.device).clone()
    return torch.full_like(like, float(value))


def values(state: Any, name: str) -> Any:
    """A hyperparameter for the update at hand, free or scheduled."""
    return state.scheduled[name] if name in state.scheduled else state.hyperparams[name]


def at(value: Tensor, leaf: Tensor) -> Tensor:
    """A hyperparameter in the dtype and on the device of a leaf."""
    return value.to(dtype=leaf.dtype, device=leaf.device)


def _dotted(path: str) -> list[str]:
    for bracket in ("['", "']", "[", "]"):
        path = path.replace(bracket, ".")
    return [part for part in path.split(".") if part]


def _index(state: Any) -> dict[str, tuple[str, str, int | None]]:
    """Path -> (dotted name, kind, position in a tuple) of each hyperparameter."""
    found = {}
    for path in tree.paths(state):
        parts = _dotted(path)
        for kind in ("hyperparams", "scheduled"):
            if kind in parts:
                place = parts.index(kind)
                owner, rest = ".".join(parts[:place]), parts[place + 1 :]
                position = int(rest[1]) if len(rest) > 1 else None
                found[path] = owner, rest[0], kind, position
    owners: dict[str, set[str]] = {}
    for owner, name, _, _ in found.values():
        owners.setdefault(name, set()).add(owner)
    index = {}
    for path, (owner, name, kind, position) in found.items():
        alone = len(owners[name]) == 1
        index[path] = (name if alone else f"{owner}.{name}"), kind, position
    return index


def get_hyperparams(state: Any) -> dict[str, Any]:
    """The hyperparameters in an optimizer's state, by name: what the next update uses.

    Scheduled ones are among them. In a chain in which several members have one name,
    the names begin with the member's position: `0.weight_decay`.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> state = fl.optim.sgd(lr=0.5, momentum=0.75).init(torch.ones(2))
        >>> {k: v.item() for k, v in fl.optim.get_hyperparams(state).items()}
        {'lr': 0.5, 'momentum': 0.75}
    """
    result: dict[str, Any] = {}
    found = dict(zip(tree.paths(state), tree.leaves(state), strict=True))
    for path, (name, _, position) in _index(state).items():
        if position is None:
            result[name] = found[path]
        else:
            result[name] = (*result.get(name, ()), found[path])
    return result


def set_hyperparams(state: Any, **changes: Any) -> Any:
    """The same state with other values: nothing is compiled again for them.

    A value is a number or a tensor of the leaf's shape, and it stays attached to the
    graph it comes from: its gradient is the hypergradient. A sweep is
    `vmap(lambda lr: set_hyperparams(optimizer.init(params), lr=lr))(lrs)`.

    Args:
        state: the state of any optimizer or chain.
        **changes: names as `get_hyperparams` gives them; dotted ones by `**{...}`.

    Raises:
        ValueError: no such hyperparameter in this state (those that it has are named);
            one that follows a schedule; a value out of range or of another shape.
        TypeError: a value that is neither number nor tensor.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.sgd(lr=0.5)
        >>> state = fl.optim.set_hyperparams(optimizer.init(torch.ones(2)), lr=0.25)
        >>> optimizer.update(torch.tensor([4.0, 8.0]), state)[0]
        tensor([-1., -2.])
    """
    where = "optim.set_hyperparams"
    index = _index(state)
    free = list(
        dict.fromkeys(n for n, kind, _ in index.values() if kind == "hyperparams")
    )
    scheduled = {n for n, kind, _ in index.values() if kind == "scheduled"}
    for name, value in changes.items():
        if name in scheduled:
            raise ValueError(
                f"{where}: {name}: expected one of {free}, got one that follows a "
                "schedule. Make the optimizer with a number or a tensor instead."
            )
        if name not in free:
            raise ValueError(
                f"{where}: {name}: expected one of {free}, got {name!r}. A part that "
                "was made with 0 is left out: make it with a number that is not 0."
            )
        if name.rpartition(".")[2] == "betas":
            check(where, "betas", value)

    def change(path: str, leaf: Tensor) -> Tensor:
        name, _, position = index.get(path, ("", "", None))
        if name not in changes:
            return leaf
        value = changes[name] if position is None else changes[name][position]
        _check_one(where, name.rpartition(".")[2], value, tuple(leaf.shape))
        if callable(value) and not isinstance(value, Tensor):
            raise TypeError(
                f"{where}: {name}: expected a number or a tensor, got a schedule. "
                "Give schedules to the optimizer when it is made."
            )
        if isinstance(value, Tensor):
            value = value.to(dtype=leaf.dtype, device=leaf.device)
            return value.expand(leaf.shape).clone()
        return torch.full_like(leaf, float(value))

    return tree.map_with_path(change, state)
