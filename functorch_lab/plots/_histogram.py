# SPDX-License-Identifier: Apache-2.0
"""How often values occur."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from functorch_lab.plots import _figure, _numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WHERE = "plots.histogram"
_MOST = 100  # bins of "auto"


def histogram(
    values: Any,
    *,
    bins: str | int | Sequence[float] = "auto",
    log_y: bool = False,
    labels: Iterable[object] | None = None,
    title: str | None = None,
) -> Figure:
    """How many values fall into each bin, of one set of values or of several overlaid.

    A bin holds its left edge, and the last one its right edge too. Values that are not
    finite, or outside given edges, are counted beside the set's name.

    Args:
        values: Numbers of any shape; or a mapping from names to them, nested mappings
            giving dotted names. All share the bins.
        bins: How many bins there are, or their edges, rising. "auto": one for each
            whole number where all values are whole and span less than 100; else the
            more of what the rules of Freedman and Diaconis and of Sturges say, at
            most 100.
        log_y: A logarithmic vertical axis.
        labels: Other names for the sets, in their order; the name of a single one
            stands at the horizontal axis.
        title: A line above the figure.

    Returns:
        The figure.

    Raises:
        TypeError: If `values` has entries that are no numbers, or another argument is
            of the wrong kind.
        ValueError: If a set is empty, `bins` are less than 1 or don't rise, or the
            labels are of another number.
        ModuleNotFoundError: If matplotlib is missing.

    Example:
        >>> from functorch_lab import plots
        >>> figure = plots.histogram([2, 3, 3, 5, float("nan")])
        >>> counts, edges, _ = figure.axes[0].patches[0].get_data()
        >>> [int(count) for count in counts], [float(edge) for edge in edges]
        ([1, 2, 0, 1], [1.5, 2.5, 3.5, 4.5, 5.5])
        >>> figure.axes[0].get_xlabel()
        'value (1 of 5 not finite)'
    """
    sets = _sets(values)
    _numbers.check_flag(_WHERE, "log_y", log_y)
    _numbers.check_title(_WHERE, title)
    shown = list(sets)
    if labels is not None:
        shown = _numbers.names(_WHERE, "labels", labels, len(sets), "set of values")
    finite = [one[_numbers.drawable(one)] for one in sets.values()]
    edges = _edges(bins, torch.cat(finite))
    shown = [
        name + _missing(one, kept, edges)
        for name, one, kept in zip(shown, sets.values(), finite, strict=True)
    ]
    single = len(sets) == 1
    with _figure.styled(_WHERE) as new_figure:
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(_figure.WIDTH, 3.0, layout="constrained")
        axes = figure.subplots()
        handles = []
        for i, kept in enumerate(finite):
            counts = _counts(kept, edges).tolist()
            color, style = _figure.look(i).values()
            fill = {"fill": True, "alpha": 0.85 if single else 0.3, "color": color}
            handles.append(axes.stairs(counts, edges.tolist(), **fill))
            if not single:
                axes.stairs(counts, edges.tolist(), color=color, linestyle=style)
        if not any(len(kept) for kept in finite):
            _figure.say_nothing_to_draw(axes)
        elif log_y:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.5)
        else:
            axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        _figure.dress(axes, shown[0] if single else "value", "count")
        axes.grid(visible=False, axis="x")
        if not single:
            _figure.legend(figure, handles, shown)
        _figure.entitle(figure, title)
    return figure


def _sets(values: Any, name: str = "") -> dict[str, Tensor]:
    """Flat numbers by dotted name."""
    if not isinstance(values, Mapping):
        argument = f"values[{name!r}]" if name else "values"
        found = _numbers.numbers(_WHERE, argument, values).flatten()
        return {name or "value": _numbers.not_empty(_WHERE, argument, found)}
    found = {}
    for key, inner in values.items():
        found |= _sets(inner, f"{name}.{key}" if name else str(key))
    if not found:
        raise ValueError(
            f"{_WHERE}: values: expected at least one set of numbers, got an empty "
            "mapping. There is nothing to draw."
        )
    return found


def _edges(bins: Any, finite: Tensor) -> Tensor:
    if isinstance(bins, str):
        if bins != "auto":
            raise ValueError(
                f"{_WHERE}: bins: expected 'auto', a number or edges, got {bins!r}. "
                "Leave it out for 'auto'."
            )
        return _auto(finite)
    if isinstance(bins, int):
        _numbers.check_count(_WHERE, "bins", bins)
        low, high = _limits(finite)
        return torch.linspace(low, high, bins + 1, dtype=torch.float64)
    edges = _numbers.series(_WHERE, "bins", bins)
    rises = len(edges) > 1 and bool((edges.diff() > 0).all())
    if not rises or not _numbers.drawable(edges).all():
        raise ValueError(
            f"{_WHERE}: bins: expected at least two rising, finite edges, got "
            f"{edges.tolist()!r:.60}. Sort them, or pass a number of bins."
        )
    return edges


def _auto(finite: Tensor) -> Tensor:
    low, high = _limits(finite)
    if not finite.numel():
        return torch.tensor([low, high], dtype=torch.float64)
    if bool((finite == finite.round()).all()):
        first, last = float(finite.min()), float(finite.max())
        if last - first < 100 and max(abs(first), abs(last)) < 2**50:
            return torch.arange(first - 0.5, last + 1, dtype=torch.float64)
    if low < float(finite.min()):  # one value
        return torch.tensor([low, high], dtype=torch.float64)
    n, ordered = len(finite), finite.sort().values
    spread = float(ordered[3 * (n - 1) // 4] - ordered[(n - 1) // 4])
    width = 2 * spread / n ** (1 / 3)
    count = max(math.log2(n) + 1, (high - low) / width if width > 0 else 0)
    bins = min(math.ceil(count), _MOST)
    return torch.linspace(low, high, bins + 1, dtype=torch.float64)


def _limits(finite: Tensor) -> tuple[float, float]:
    """Smallest and largest value, widened where they are one."""
    if not finite.numel():
        return 0.0, 1.0
    low, high = (float(value) for value in finite.aminmax())
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    return low - (0.05 * size or 0.5), high + (0.05 * size or 0.5)


def _counts(finite: Tensor, edges: Tensor) -> Tensor:
    """How many values are in each bin, the last of which is closed."""
    inside = finite[(finite >= edges[0]) & (finite <= edges[-1])]
    index = torch.bucketize(inside, edges, right=True) - 1
    bins = len(edges) - 1
    return torch.bincount(index.clamp(max=bins - 1), minlength=bins)


def _missing(values: Tensor, finite: Tensor, edges: Tensor) -> str:
    """What is not drawn, for the set's name."""
    lost = len(values) - len(finite)
    outside = len(finite) - int(_counts(finite, edges).sum())
    parts = [f"{lost} of {len(values)} not finite"] if lost else []
    parts += [f"{outside} of {len(values)} outside the bins"] if outside else []
    return f" ({', '.join(parts)})" if parts else ""
