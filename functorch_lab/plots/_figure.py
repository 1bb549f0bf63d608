# SPDX-License-Identifier: Apache-2.0
"""How every figure looks, and how a notebook shows it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

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


def marked(present: list[bool]) -> dict[str, Any]:
    """Markers for the points that a line without them would not show."""
    alone = [
        i
        for i, here in enumerate(present)
        if here and not any(present[max(i - 1, 0) : i] + present[i + 1 : i + 2])
    ]
    if len(present) <= _FEW:
        alone = [i for i, here in enumerate(present) if here]
    return {"marker": "o", "markersize": 4, "markevery": alone} if alone else {}


def dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Names of the axes, ticks and a grid."""
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    # Ticks are made when the figure is drawn, in the style of then.
    axes.tick_params(labelsize=9, color=INK, labelcolor=INK, width=0.8, length=3)
    axes.tick_params(which="minor", color=INK, width=0.6, length=2)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.8, linestyle="-", alpha=1)


def entitle(figure: Figure, title: str | None) -> None:
    """The title, wrapped to the figure's width."""
    if title:
        width = int(figure.get_figwidth() * 14)
        text = wrapped(title, width)
        figure.suptitle(text, fontsize=10, parse_math=False)


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Names below the figure, in as many columns as fit."""
    longest = max(len(line) for name in names for line in wrapped(name).split("\n"))
    found = figure.legend(
        handles,
        [str(i) for i in range(len(names))],
        loc="outside lower center",
        ncols=max(1, min(len(names), int(WIDTH * 13) // (longest + 8))),
    )
    # Written afterwards: matplotlib drops names that begin with an underscore.
    for text, name in zip(found.get_texts(), names, strict=True):
        text.set(text=wrapped(name), parse_math=False)


def say_nothing_to_draw(axes: Axes, text: str = "no finite values") -> None:
    axes.text(
        *(0.5, 0.5, text), transform=axes.transAxes, ha="center", va="center", color=INK
    )


def wrapped(text: str, width: int = 80) -> str:
    """The whole text, in lines of at most `width` characters."""
    return "\n".join(
        part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
