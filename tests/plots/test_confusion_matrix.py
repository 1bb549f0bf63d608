# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix: cells, colours, names, and refusals."""

import math
import re
from typing import Any

import pytest
import torch

from functorch_lab import metrics, plots

COUNTS = [[3, 1, 0], [2, 5, 1], [0, 0, 0]]


def cells(figure):
    """Texts by their place, row by row."""
    found = {t.get_position()[::-1]: t.get_text() for t in figure.axes[0].texts}
    return [found[place] for place in sorted(found)]


def test_cells_hold_counts_and_colours_shares():
    figure = plots.confusion_matrix(COUNTS)
    axes = figure.axes[0]
    assert cells(figure) == ["3", "1", "0", "2", "5", "1", "0", "0", "0"]
    image: Any = axes.images[0]
    torch.testing.assert_close(
        torch.tensor(image.get_array().tolist()),
        torch.tensor([[3 / 4, 1 / 4, 0], [2 / 8, 5 / 8, 1 / 8], [0, 0, 0]]),
    )
    assert image.get_clim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "2"]
    assert axes.get_title() == "accuracy 66.7 % (8 of 12)"
    assert figure.axes[1].get_ylabel() == "share of the true class"


def test_normalized_cells_hold_shares_of_the_row():
    figure = plots.confusion_matrix(COUNTS, normalize=True)
    expected = ["0.75", "0.25", "0.00", "0.25", "0.62", "0.12", "-", "-", "-"]
    assert cells(figure) == expected
    assert figure.axes[0].get_title() == "accuracy 66.7 % (8 of 12)"


def test_rows_are_true_and_columns_predicted_as_in_metrics():
    metric = metrics.confusion_matrix(2)
    prediction, target = torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 1, 0])
    figure = plots.confusion_matrix(
        metric.compute(metric.update(metric.init(), prediction, target))
    )
    assert cells(figure) == ["1", "2", "0", "1"]


def test_classes_have_names():
    names = ["cat", "a dog with a very long name, and $more$ of it", "_"]
    axes = plots.confusion_matrix(COUNTS, labels=names).axes[0]
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [" ".join(t.get_text().split()) for t in ticks] == names
    axes = plots.confusion_matrix(COUNTS, labels=torch.tensor([2, 5, 7])).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["2", "5", "7"]


@pytest.mark.parametrize(("title", "shown"), [("Mine", "Mine"), ("", "")])
def test_the_title_can_be_chosen(title, shown):
    assert plots.confusion_matrix(COUNTS, title=title).axes[0].get_title() == shown


def test_no_samples_have_no_accuracy():
    assert plots.confusion_matrix([[0, 0], [0, 0]]).axes[0].get_title() == "no samples"


def test_weights_are_shown_with_two_digits():
    figure = plots.confusion_matrix([[2.5, 0.125], [3.0, 7.0]])
    assert cells(figure) == ["2.50", "0.12", "3.00", "7.00"]


@pytest.mark.parametrize("classes", [1, 12])
def test_numbers_fit_into_their_cells(classes):
    counts = torch.full((classes, classes), 1234567) - 3 * torch.eye(classes).long()
    figure = plots.confusion_matrix(counts)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert len(axes.texts) == classes**2
    text = axes.texts[0].get_window_extent()
    cell = axes.get_window_extent()
    assert text.width < cell.width / classes
    assert text.height < cell.height / classes
    points = 72 * (text.height / figure.dpi)
    assert points > 5  # legible


def test_numbers_on_dark_cells_are_white():
    axes = plots.confusion_matrix([[9, 1], [5, 5]]).axes[0]
    colors = [text.get_color() for text in axes.texts]
    assert [color == "white" for color in colors] == [True, False, False, False]


@pytest.mark.parametrize(
    ("counts", "options", "error", "message"),
    [
        (torch.ones(2, 3), {}, ValueError,
         "counts: expected shape (classes, classes), got (2, 3)"),
        (torch.ones(5), {}, ValueError, "counts: expected shape (classes, classes)"),
        (torch.ones(0, 0), {}, ValueError, "counts: expected at least one number"),
        ([[3, 5], [2]], {}, ValueError, "entries of one shape, got (1,) and (2,)"),
        ([["a"]], {}, TypeError, "counts: expected real numbers"),
        ([[3, 2], [5, -7]], {}, ValueError,
         "expected finite numbers of 0 or more, got -7 in row 1, column 1"),
        ([[3, math.nan], [5, 7]], {}, ValueError, "got nan in row 0, column 1"),
        (torch.ones(51, 51), {}, ValueError, "expected at most 50 classes, got 51"),
        (COUNTS, {"labels": ["a"]}, ValueError,
         "labels: expected 3 names, one per class, got 1"),
        (COUNTS, {"labels": "abc"}, TypeError, "labels: expected a list of 3 names"),
        (COUNTS, {"normalize": "row"}, TypeError, "normalize: expected True or False"),
        (COUNTS, {"title": 5}, TypeError, "title: expected a str or None, got int 5"),
    ],
)  # fmt: skip
def test_refuses(counts, options, error, message):
    match = f"^plots.confusion_matrix: .*{re.escape(message)}"
    with pytest.raises(error, match=match):
        plots.confusion_matrix(counts, **options)
