# SPDX-License-Identifier: Apache-2.0
"""How every figure looks, and how a notebook shows it."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches: a page, or the text of a report
INK, FAINT = "#262626", "#8c8c8c"
# The colours of Okabe and Ito, which colour-blind readers can tell apart, without
# their yellow, too light for a line. Lines beyond seven differ by their dashes.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.")
_FEW = 20  # points of a line that are each marked

_STYLE = {
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@contextmanager
def styled(where: str) -> Iterator[Callable[..., Figure]]:
    """Gives `figure(width, height, **options)`, drawn in our style, not the caller's.

    The caller's settings of matplotlib are put back at the end.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where}: expected matplotlib, which draws the figures, got no such "
            "module. Install it with: pip install 'functorch-lab[lab]'"
        ) from error

    def new(width: float, height: float, **options: Any) -> Figure:
        figure = Figure(figsize=(width, height), **options)
        # A notebook finds it here; without pyplot it has no other way to show it.
        figure._repr_png_ = partial(_png, figure)  # pyright: ignore[reportAttributeAccessIssue]
        return figure

    with style.context(["default", _STYLE]):
        yield new


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of the line `index`."""
    turn, color = divmod(index, len(COLORS))
    return {"color": COLORS[color], "linestyle": DASHES[turn % len(DASHES)]}


def points(axes: Axes, x: Tensor, y: Tensor, **style: Any) -> Any:
    """A line with gaps at NaN; points that it would not show have markers."""
    present = x.isfinite() & y.isfinite()
    around = torch.cat([present.new_zeros(1), present, present.new_zeros(1)])
    alone = present & ~around[:-2] & ~around[2:]
    shown = (present if len(present) <= _FEW else alone).nonzero().flatten().tolist()
    if shown:
        style |= {"marker": "o", "markersize": 4, "markevery": shown}
    return axes.plot(x.tolist(), y.tolist(), **style)[0]


def span(axes: Axes, x: Tensor) -> None:
    """Limits and ticks of a horizontal axis that shows all of `x`, gaps included."""
    from matplotlib.ticker import MaxNLocator

    low, high = (float(end) for end in x.aminmax())
    margin = 0.03 * (high - low) or max(1.0, 0.05 * abs(low))
    axes.set_xlim(low - margin, high + margin)
    whole = bool((x == x.round()).all())
    steps = [1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10]
    ticks = MaxNLocator("auto", integer=whole, steps=steps, min_n_ticks=1)
    axes.xaxis.set_major_locator(ticks)


def dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Names of the axes, ticks and a grid."""
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    # Ticks are made when the figure is drawn, in the style of then.
    axes.tick_params(which="both", labelsize=9, color=INK, labelcolor=INK)
    axes.tick_params(which="major", width=0.8, length=3)
    axes.tick_params(which="minor", width=0.6, length=2)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.8, linestyle="-", alpha=1)


def entitle(figure: Figure, title: str | None) -> None:
    """The title, wrapped to the figure's width."""
    if title:
        width = int(figure.get_figwidth() * 14)
        text = wrapped(title, width)
        _grow(figure, text.count("\n") + 1)
        figure.suptitle(text, fontsize=10, parse_math=False)


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Names below the figure, in as many columns as fit."""
    shown = [wrapped(name) for name in names]
    longest = max(len(line) for name in shown for line in name.split("\n"))
    columns = max(1, min(len(names), int(WIDTH * 13) // (longest + 8)))
    numbers = [str(i) for i in range(len(names))]
    found = figure.legend(handles, numbers, loc="outside lower center", ncols=columns)
    # Written afterwards: matplotlib drops names that begin with an underscore.
    for text, name in zip(found.get_texts(), shown, strict=True):
        text.set(text=name, parse_math=False)
    lines = max(name.count("\n") + 1 for name in shown)
    _grow(figure, math.ceil(len(names) / columns) * lines)


def say_nothing_to_draw(axes: Axes, text: str = "no finite values") -> None:
    axes.set_yticks([])
    axes.text(
        *(0.5, 0.5, text), transform=axes.transAxes, ha="center", va="center", color=INK
    )


def wrapped(text: str, width: int = 80) -> str:
    """The whole text, in lines of at most `width` characters."""
    return "\n".join(
        part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]
    )


def _grow(figure: Figure, lines: int) -> None:
    """Room for lines of text, so that the panels keep theirs."""
    figure.set_figheight(figure.get_figheight() + 0.18 * lines)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
