# SPDX-License-Identifier: Apache-2.0
"""Curves: columns of training logs over steps or epochs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from functorch_lab.plots import _figure, _numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WHERE = "plots.curves"
_HEIGHT = 2.4  # inches of a panel


def curves(
    runs: Any,
    y: str | Sequence[str] = "loss",
    *,
    x: str = "step",
    log_y: bool = False,
    smooth: float = 0.0,
    labels: Iterable[object] | None = None,
    title: str | None = None,
) -> Figure:
    """Columns of one or more runs as lines, a panel for each column.

    A value that is NaN or infinite, or not positive where `log_y`, leaves a gap in its
    line. Lines differ by colour, from the eighth on by dashes too. Runs that have names
    are named below the panels.

    Smoothing is the exponential moving average `s[t] = smooth * s[t-1] + (1 - smooth) *
    y[t]` from `s[0] = 0`, divided by its weights' sum `1 - smooth**t`, over the finite
    values; the values themselves stand faintly behind it.

    Args:
        runs: One run, or a mapping from names to runs. A run is a mapping from names of
            columns to their numbers, shape (n,), as `History.logs` is; or a list of
            rows, each a mapping from names to a number, as `History.epochs` is, where a
            row without an entry leaves a gap. Or the numbers of one line.
        y: The column to draw, or a list of columns.
        x: The column of the horizontal axis. Where a run has no column "step", and for
            the numbers of one line, steps are counted from 1.
        log_y: A logarithmic vertical axis.
        smooth: How much of the average each step keeps, in [0, 1); 0 draws the values
            as they are.
        labels: Other names for the runs, in their order.
        title: A line above the figure.

    Returns:
        The figure; `figure.axes` are its panels.

    Raises:
        TypeError: If `runs` is of another kind, a column has entries that are no
            numbers, or another argument is of the wrong kind.
        ValueError: If there is nothing to draw, a column is not there, columns differ
            in length, `smooth` is outside [0, 1), or the labels are of another number.
        ModuleNotFoundError: If matplotlib is missing.

    Example:
        >>> from functorch_lab import plots
        >>> figure = plots.curves({"loss": [8.0, 4.0, 2.0]}, smooth=0.5)
        >>> raw, smoothed = figure.axes[0].lines
        >>> [float(step) for step in raw.get_xdata()]
        [1.0, 2.0, 3.0]
        >>> # (8/2) / (1/2), (8/4 + 4/2) / (3/4), (8/8 + 4/4 + 2/2) / (7/8)
        >>> [round(float(value), 3) for value in smoothed.get_ydata()]
        [8.0, 5.333, 3.429]
    """
    columns = _columns_asked(y)
    _check_options(x, log_y, smooth, title)
    found, named = _as_runs(runs, columns)
    lines = {
        name: _lines(f"runs{[name] if named else ''}", run, columns, x)
        for name, run in found.items()
    }
    shown = list(lines)
    if labels is not None:
        shown, named = _numbers.names(_WHERE, "labels", labels, len(lines), "run"), True
    with _figure.styled(_WHERE) as new_figure:
        height = _HEIGHT * len(columns) + 0.5
        figure = new_figure(_figure.WIDTH, height, layout="constrained")
        panels = figure.subplots(len(columns), sharex=True, squeeze=False)[:, 0]
        handles = []
        for panel, column in zip(panels, columns, strict=True):
            drawn = [run[column] for run in lines.values()]
            handles = _draw(panel, drawn, log_y, smooth)
            _figure.dress(panel, x if panel is panels[-1] else "", column)
        if named:
            _figure.legend(figure, handles, shown)
        _figure.entitle(figure, title)
    return figure


def smoothed(values: Sequence[float], smooth: float) -> list[float]:
    """The average of `curves`; NaN where a value is not finite."""
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        if not math.isfinite(value):
            found.append(math.nan)
            continue
        mean = smooth * mean + (1 - smooth) * value
        weight = smooth * weight + (1 - smooth)
        found.append(mean / weight)
    return found


Line = tuple[Tensor, Tensor]


def _draw(axes: Axes, lines: Sequence[Line], log_y: bool, smooth: float) -> list[Any]:
    """One line for each run; those that the legend shows."""
    handles, found = [], False
    for i, (x, y) in enumerate(lines):
        values = _numbers.gapped(y, y >= 1 / _numbers.LARGEST if log_y else None)
        style = {"linewidth": 1.6, **_figure.look(i)}
        if smooth:
            faint = {"linewidth": 1.0, "color": style["color"], "alpha": 0.3}
            _figure.points(axes, x, values, **faint)
            averages = smoothed(values.tolist(), smooth)
            values = torch.tensor(averages, dtype=torch.float64)
        handles.append(_figure.points(axes, x, values, **style))
        found |= bool(values.isfinite().any())
    steps = torch.cat([x for x, _ in lines])
    if steps.isfinite().any():
        _figure.span(axes, steps[steps.isfinite()])
    if not found:
        _figure.say_nothing_to_draw(axes)
    elif log_y:
        axes.set_yscale("log")
    return handles


def _columns_asked(y: Any) -> list[str]:
    columns = [y] if isinstance(y, str) else y
    is_list = isinstance(columns, Sequence) and not isinstance(columns, bytes)
    if not is_list or not all(isinstance(name, str) for name in columns):
        raise TypeError(
            f"{_WHERE}: y: expected the name of a column or a list of names, got "
            f"{_numbers.kind(y)}. Write e.g. y='loss'."
        )
    if not columns:
        raise ValueError(
            f"{_WHERE}: y: expected at least one column, got an empty list. "
            "Write e.g. y=['loss', 'grad_norm']."
        )
    return list(dict.fromkeys(columns))


def _check_options(x: Any, log_y: Any, smooth: Any, title: Any) -> None:
    if not isinstance(x, str):
        raise TypeError(
            f"{_WHERE}: x: expected the name of a column, got {_numbers.kind(x)}. "
            "Write e.g. x='epoch'."
        )
    _numbers.check_flag(_WHERE, "log_y", log_y)
    _numbers.check_title(_WHERE, title)
    if isinstance(smooth, bool) or not isinstance(smooth, Real):
        raise TypeError(
            f"{_WHERE}: smooth: expected a number in [0, 1), got "
            f"{_numbers.kind(smooth)}. Write e.g. smooth=0.9."
        )
    if not 0 <= float(smooth) < 1:
        raise ValueError(
            f"{_WHERE}: smooth: expected a number in [0, 1), got {smooth}. "
            "The nearer to 1, the smoother."
        )


def _as_runs(runs: Any, columns: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Runs by name, and whether the names are the caller's."""
    if isinstance(runs, Mapping):
        if not runs:
            raise ValueError(
                f"{_WHERE}: runs: expected at least one column or run, got an empty "
                "mapping. There is nothing to draw."
            )
        if all(isinstance(run, Mapping) or _is_rows(run) for run in runs.values()):
            return {str(name): run for name, run in runs.items()}, True
        return {"": runs}, False
    if _is_rows(runs):
        return {"": runs}, False
    if hasattr(runs, "logs") and hasattr(runs, "epochs"):
        raise TypeError(
            f"{_WHERE}: runs: expected columns or rows, got {type(runs).__name__}. "
            "Pass its .logs (per step) or its .epochs."
        )
    numbers = _numbers.series(_WHERE, "runs", runs)
    if len(columns) > 1:
        raise ValueError(
            f"{_WHERE}: y: expected one name for the numbers of one line, got "
            f"{list(columns)}. Pass a mapping from names of columns to numbers."
        )
    return {"": {columns[0]: numbers}}, False


def _is_rows(run: Any) -> bool:
    is_list = isinstance(run, list | tuple) and len(run) > 0
    return is_list and all(isinstance(row, Mapping) for row in run)


def _lines(where: str, run: Any, columns: Sequence[str], x: str) -> dict[str, Line]:
    """Horizontal and vertical numbers of each column of a run."""
    if not isinstance(run, Mapping):
        known = {name for row in run for name in row}
        run = {
            name: [row.get(name, math.nan) for row in run]
            for name in (x, *columns)
            if name in known
        } | dict.fromkeys(sorted(known - {x, *columns}), ())
    found = {}
    for column in columns:
        values = _column(where, run, column)
        steps = torch.arange(1, len(values) + 1, dtype=torch.float64)
        if x in run or x != "step":
            steps = _column(where, run, x, "x")
        if len(steps) != len(values):
            raise ValueError(
                f"{_WHERE}: {where}: expected columns of one length, got "
                f"{len(steps)} of {x!r} and {len(values)} of {column!r}. "
                "Pass the columns of one run."
            )
        found[column] = _numbers.gapped(steps), values
    return found


def _column(where: str, run: Mapping[str, Any], name: str, option: str = "y") -> Tensor:
    if name in run:
        return _numbers.series(_WHERE, f"{where}[{name!r}]", run[name])
    known = [str(column) for column in run]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known[:5]
    raise ValueError(
        f"{_WHERE}: {option}: expected a column of {where}, got {name!r}. "
        f"Nearest: {', '.join(near)}."
    )
