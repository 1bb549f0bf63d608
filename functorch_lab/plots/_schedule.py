# SPDX-License-Identifier: Apache-2.0
"""Learning rates over the steps of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from functorch_lab.plots import _figure, _numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WHERE = "plots.schedule"
_MOST = 1000  # steps that are evaluated

Schedule = Callable[[Tensor], Any] | float | Tensor


def schedule(
    schedule: Schedule | Mapping[str, Schedule],
    steps: int,
    *,
    labels: Iterable[object] | None = None,
) -> Figure:
    """The learning rate at each step, of one schedule or of several.

    A schedule is called as an optimizer calls it, with one step of shape () at a time;
    of more than 1000 steps, with 1000 of them, evenly spread, the first and the last
    among them.

    Args:
        schedule: A function from the step, 0 at the first update, to the learning rate,
            such as those of `optim.schedules`; or a number, which stays. Or a mapping
            from names to such.
        steps: How many steps to draw, 0 to `steps - 1`.
        labels: Other names for the schedules, in their order.

    Returns:
        The figure.

    Raises:
        TypeError: If a schedule is neither a function nor a number or returns no
            number, or another argument is of the wrong kind.
        ValueError: If a schedule returns more than one number, `steps` is less than 1,
            there is no schedule, or the labels are of another number.
        ModuleNotFoundError: If matplotlib is missing.

    Example:
        >>> from functorch_lab import optim, plots
        >>> halved = optim.schedules.linear(1.0, 0.5, transition_steps=4)
        >>> line = plots.schedule(halved, steps=6).axes[0].lines[0]
        >>> [float(value) for value in line.get_ydata()]
        [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]
    """
    _numbers.check_count(_WHERE, "steps", steps)
    named = isinstance(schedule, Mapping)
    schedules = schedule if isinstance(schedule, Mapping) else {"": schedule}
    if not schedules:
        raise ValueError(
            f"{_WHERE}: schedule: expected at least one, got an empty mapping. "
            "There is nothing to draw."
        )
    shown = [str(name) for name in schedules]
    if labels is not None:
        named, count = True, len(schedules)
        shown = _numbers.names(_WHERE, "labels", labels, count, "schedule")
    at = torch.linspace(0, steps - 1, min(steps, _MOST), dtype=torch.float64).round()
    rates = [
        _rates(f"schedule{[name] if isinstance(schedule, Mapping) else ''}", one, at)
        for name, one in schedules.items()
    ]
    with _figure.styled(_WHERE) as new_figure:
        figure = new_figure(_figure.WIDTH, 3.0, layout="constrained")
        axes = figure.subplots()
        handles = []
        for i, values in enumerate(rates):
            style = {"linewidth": 1.6, **_figure.look(i)}
            handles.append(_figure.points(axes, at, values, **style))
        if not any(bool(values.isfinite().any()) for values in rates):
            _figure.say_nothing_to_draw(axes)
        _figure.dress(axes, "step", "learning rate")
        _figure.span(axes, at)
        if named:
            _figure.legend(figure, handles, shown)
    return figure


def _rates(argument: str, schedule: Any, at: Tensor) -> Tensor:
    """The schedule's numbers at the steps `at`."""
    is_number = isinstance(schedule, (Real, Tensor)) and not isinstance(schedule, bool)
    if is_number:
        values = [schedule] * len(at)
    elif callable(schedule):
        with torch.no_grad():
            values = [schedule(step) for step in at.long()]
    else:
        raise TypeError(
            f"{_WHERE}: {argument}: expected a function of the step or a number, got "
            f"{_numbers.kind(schedule)}. Pass e.g. optim.schedules.cosine(1e-3, 1000)."
        )
    found = _numbers.numbers(_WHERE, f"{argument} at its steps", values)
    if found.ndim != 1:
        raise ValueError(
            f"{_WHERE}: {argument}: expected one number, shape (), at each step, got "
            f"shape {tuple(found.shape[1:])}. Draw one schedule at a time."
        )
    return _numbers.gapped(found)
