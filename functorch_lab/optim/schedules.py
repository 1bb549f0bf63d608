# SPDX-License-Identifier: Apache-2.0
"""Schedules: pure functions from the number of updates done to a value.

A schedule stands wherever an optimizer takes a number: `adam(lr=cosine(1e-3, 1000))`.
It receives the step as a tensor of shape (), 0 at the first update, and returns a
tensor of shape () in the dtype of a floating step (for an integer step, the default
dtype). Lengths are in steps. Any function of that kind is a schedule.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from functorch_lab.optim._arguments import named
from functorch_lab.optim._hyperparams import Schedule, known, with_ends

__all__ = ["constant", "cosine", "exponential", "linear", "step", "warmup"]


@named("optim.schedules.constant")
def constant(value: float | Tensor) -> Schedule:
    """The same value at every step.

    Raises:
        ValueError: the value is not finite.
        TypeError: the value is no number.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> fl.optim.schedules.constant(0.5)(torch.tensor(7))
        tensor(0.5000)
    """
    _check("constant", "value", value)
    return with_ends(lambda step: torch.zeros_like(_time(step)) + value, value)


@named("optim.schedules.linear")
def linear(
    init_value: float | Tensor, end_value: float | Tensor, transition_steps: int
) -> Schedule:
    """A straight line from `init_value`, at `end_value` from `transition_steps` on.

    Raises:
        ValueError: a value is not finite, transition_steps is below 1.
        TypeError: a value is no number, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> schedule = fl.optim.schedules.linear(1.0, 0.5, transition_steps=4)
        >>> schedule(torch.tensor([0, 1, 4, 9]))
        tensor([1.0000, 0.8750, 0.5000, 0.5000])
    """
    _check("linear", "init_value", init_value)
    _check("linear", "end_value", end_value)
    _check_steps("linear", "transition_steps", transition_steps)

    def schedule(step: Tensor) -> Tensor:
        fraction = _time(step).clamp(max=transition_steps) / transition_steps
        return init_value + (end_value - init_value) * fraction

    return with_ends(schedule, init_value, end_value)


@named("optim.schedules.cosine")
def cosine(
    init_value: float | Tensor, decay_steps: int, end_value: float | Tensor = 0.0
) -> Schedule:
    """Half a cosine from `init_value`, at `end_value` from `decay_steps` on.

    Raises:
        ValueError: a value is not finite, decay_steps is below 1.
        TypeError: a value is no number, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> schedule = fl.optim.schedules.cosine(1.0, decay_steps=6, end_value=0.5)
        >>> schedule(torch.tensor([0, 2, 6, 9]))
        tensor([1.0000, 0.8750, 0.5000, 0.5000])

    References:
        Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
        2017, equation 5 without restarts, arXiv:1608.03983.
    """
    _check("cosine", "init_value", init_value)
    _check("cosine", "end_value", end_value)
    _check_steps("cosine", "decay_steps", decay_steps)

    def schedule(step: Tensor) -> Tensor:
        fraction = _time(step).clamp(max=decay_steps) / decay_steps
        weight = 0.5 * (1 + torch.cos(math.pi * fraction))
        return end_value + (init_value - end_value) * weight

    return with_ends(schedule, init_value, end_value)


@named("optim.schedules.exponential")
def exponential(init_value: float | Tensor, gamma: float) -> Schedule:
    """Times `gamma` at every step.

    Raises:
        ValueError: init_value is not finite, gamma is not a finite number > 0.
        TypeError: a value is no number, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> fl.optim.schedules.exponential(8.0, gamma=0.5)(torch.tensor([0, 1, 3]))
        tensor([8., 4., 1.])
    """
    _check("exponential", "init_value", init_value)
    _check_gamma("exponential", gamma)

    def schedule(step: Tensor) -> Tensor:
        # rather than a power: one rounding of log(gamma) in float64
        return init_value * torch.exp(_time(step) * math.log(gamma))

    return with_ends(schedule, init_value)


@named("optim.schedules.step")
def step(init_value: float | Tensor, step_size: int, gamma: float = 0.1) -> Schedule:
    """Times `gamma` at every `step_size`-th step.

    Raises:
        ValueError: init_value is not finite, step_size is below 1, gamma is not a
            finite number > 0.
        TypeError: a value is no number, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> schedule = fl.optim.schedules.step(8.0, step_size=3, gamma=0.5)
        >>> schedule(torch.tensor([0, 2, 3, 6]))
        tensor([8., 8., 4., 2.])
    """
    _check("step", "init_value", init_value)
    _check_steps("step", "step_size", step_size)
    _check_gamma("step", gamma)

    def schedule(step: Tensor) -> Tensor:
        return init_value * torch.pow(gamma, torch.floor(_time(step) / step_size))

    return with_ends(schedule, init_value)


@named("optim.schedules.warmup")
def warmup(
    schedule: float | Tensor | Schedule,
    warmup_steps: int,
    init_value: float | Tensor = 0.0,
) -> Schedule:
    """A line from `init_value` to where `schedule` begins, then `schedule` from its 0.

    Args:
        schedule: what follows: a schedule, whose step 0 is step `warmup_steps` here,
            or a number, which then stays.
        warmup_steps: the length of the line.
        init_value: the value at step 0.

    Raises:
        ValueError: a value is not finite, warmup_steps is below 1.
        TypeError: a value is no number, an unknown name.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> after = fl.optim.schedules.linear(1.0, 0.0, transition_steps=2)
        >>> schedule = fl.optim.schedules.warmup(after, warmup_steps=4)
        >>> schedule(torch.tensor([0, 1, 4, 5]))
        tensor([0.0000, 0.2500, 1.0000, 0.5000])
    """
    _check_steps("warmup", "warmup_steps", warmup_steps)
    _check("warmup", "init_value", init_value)
    if isinstance(schedule, Tensor) or not callable(schedule):
        _check("warmup", "schedule", schedule)
        then: Any = constant(schedule)
    else:
        then = schedule

    def warmed(step: Tensor) -> Tensor:
        time = _time(step)
        # `then` is also evaluated before its begin, there at 0: no NaN can come of it.
        after = then((time - warmup_steps).clamp(min=0))
        before = init_value + (after - init_value) * (time / warmup_steps)
        return torch.where(time < warmup_steps, before, after)

    return with_ends(warmed, init_value, *getattr(then, "ends", ()))


def _time(step: Tensor) -> Tensor:
    return step if step.is_floating_point() else step.to(torch.get_default_dtype())


def _check(function: str, name: str, value: Any) -> None:
    where = f"optim.schedules.{function}: {name}: expected a finite number"
    if not isinstance(value, Real | Tensor) or isinstance(value, bool):
        raise TypeError(f"{where}, got {type(value).__name__}. Pass a number.")
    for number in known(value, wait=True):
        if not math.isfinite(float(number)):
            raise ValueError(f"{where}, got {number}. Pass a number.")


def _check_steps(function: str, name: str, value: Any) -> None:
    where = f"optim.schedules.{function}: {name}: expected an integer >= 1"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{where}, got {value!r}. Give a length in steps.")
    if value < 1:
        raise ValueError(f"{where}, got {value}. Give a length in steps.")


def _check_gamma(function: str, gamma: Any) -> None:
    _check(function, "gamma", gamma)
    if isinstance(gamma, Tensor) or gamma <= 0:
        raise ValueError(
            f"optim.schedules.{function}: gamma: expected a Python number > 0, "
            f"got {gamma}. Write 0.1 to divide by ten."
        )
