# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix as a table of coloured cells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from functorch_lab.plots import _figure, _numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WHERE = "plots.confusion_matrix"
_MOST = 50  # classes of one figure
_CELL = 0.42  # inches
_LINE = 24  # characters of a class's name in one line


def confusion_matrix(
    counts: Any,
    *,
    labels: Iterable[object] | None = None,
    normalize: bool = False,
    title: str | None = None,
) -> Figure:
    """Samples by true class (row) and predicted class (column), each cell its number.

    A cell's colour is its share of its row, so that rare classes are as visible as
    frequent ones; a row without samples has none.

    Args:
        counts: Numbers of samples, shape (classes, classes), as
            `metrics.confusion_matrix` gives them, of at most 50 classes; some 20 read
            well.
        labels: The classes' names; 0, 1, ... by default.
        normalize: Write shares of the row in the cells, in [0, 1], not counts; a row
            without samples has dashes.
        title: A line above the figure; the accuracy by default, "" for none.

    Returns:
        The figure; `figure.axes[0]` holds the table.

    Raises:
        TypeError: If `counts` has entries that are no numbers, or another argument is
            of the wrong kind.
        ValueError: If `counts` is not square, empty or too large, or has a negative
            or non-finite entry, or the labels are of another number.
        ModuleNotFoundError: If matplotlib is missing.

    Example:
        >>> from functorch_lab import plots
        >>> figure = plots.confusion_matrix([[3, 1], [0, 4]], labels=["cat", "dog"])
        >>> [cell.get_text() for cell in figure.axes[0].texts]
        ['3', '1', '0', '4']
        >>> figure.axes[0].get_title()
        'accuracy 87.5 % (7 of 8)'
    """
    cells = _check_counts(counts)
    _numbers.check_flag(_WHERE, "normalize", normalize)
    _numbers.check_title(_WHERE, title)
    classes = len(cells)
    given = range(classes) if labels is None else labels
    shown = [
        _figure.wrapped(name, _LINE)
        for name in _numbers.names(_WHERE, "labels", given, classes, "class")
    ]
    shares = cells / cells.sum(1, keepdim=True)
    # Weighted samples have fractions.
    digits = ".0f" if bool((cells == cells.round()).all()) else ".2f"
    longest = max(len(line) for name in shown for line in name.split("\n"))
    side = max(_CELL * classes, 2.2)
    with _figure.styled(_WHERE) as new_figure:
        # Room for the names, the axes' names and the bar of colours.
        width, height = side + 0.08 * longest + 1.6, side + 0.08 * longest + 0.9
        figure = new_figure(width, height, layout="compressed")
        axes = figure.subplots()
        image = axes.imshow(shares.nan_to_num(0).numpy(), cmap="Blues", vmin=0, vmax=1)
        texts = _texts(shares, ".2f") if normalize else _texts(cells, digits)
        _write_cells(axes, texts, shares, side / classes)
        _figure.dress(axes, "predicted class", "true class")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        rotation = 90 if longest > 3 and longest * 0.08 > side / classes else 0
        axes.set_xticks(range(classes), shown, rotation=rotation, parse_math=False)
        axes.set_yticks(range(classes), shown, parse_math=False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=30)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.set_label("share of the true class")
        bar.ax.tick_params(labelsize=9, color=_figure.INK, labelcolor=_figure.INK)
        head = _accuracy(cells, digits) if title is None else title
        axes.set_title(_figure.wrapped(head, int(side * 14)), parse_math=False)
        # The layout of a square table settles with its first drawing, and each picture
        # of a figure shall be the same.
        figure.draw_without_rendering()
    return figure


def _check_counts(counts: Any) -> Tensor:
    cells = _numbers.numbers(_WHERE, "counts", counts)
    if cells.ndim != 2 or cells.shape[0] != cells.shape[1]:
        raise ValueError(
            f"{_WHERE}: counts: expected shape (classes, classes), got "
            f"{tuple(cells.shape)}. Pass what metrics.confusion_matrix computes."
        )
    _numbers.not_empty(_WHERE, "counts", cells)
    if len(cells) > _MOST:
        raise ValueError(
            f"{_WHERE}: counts: expected at most {_MOST} classes, got {len(cells)}. "
            f"Choose some, such as counts[:{_MOST}, :{_MOST}]."
        )
    bad = (~_numbers.drawable(cells) | (cells < 0)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise ValueError(
            f"{_WHERE}: counts: expected finite numbers of 0 or more, got "
            f"{cells[row, column]:g} in row {row}, column {column}. "
            "Pass numbers of samples."
        )
    return cells


def _texts(cells: Tensor, digits: str) -> list[list[str]]:
    """The numbers as written, a dash for the share of nothing."""
    return [
        ["-" if math.isnan(value) else f"{value:{digits}}" for value in row]
        for row in cells.tolist()
    ]


def _write_cells(
    axes: Axes, texts: list[list[str]], shares: Tensor, side: float
) -> None:
    longest = max(len(text) for row in texts for text in row)
    # A digit is 0.6 of its height wide; some of the cell stays free.
    size = min(9.0, 0.85 * side * 72 / (0.6 * max(longest, 2)))
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            light = float(shares[i, j]) > 0.6
            color = "white" if light else _figure.INK
            faint = _figure.FAINT if not shares[i, j] else color
            cell = axes.text(j, i, text, ha="center", va="center", fontsize=size)
            # It never sticks out, and to measure hundreds of texts takes seconds.
            cell.set(color=faint, in_layout=False)


def _accuracy(cells: Tensor, digits: str) -> str:
    correct, total = float(torch.trace(cells)), float(cells.sum())
    if not total:
        return "no samples"
    share = f"{100 * correct / total:.1f}"
    return f"accuracy {share} % ({correct:{digits}} of {total:{digits}})"
