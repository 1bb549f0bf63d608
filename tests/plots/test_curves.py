# SPDX-License-Identifier: Apache-2.0
"""Curves: what is drawn where, smoothing, gaps, names, and refusals."""

import math
import re
from typing import Any

import pytest
import torch

from functorch_lab import plots

NAN, INF = math.nan, math.inf


def points(line: Any) -> tuple[list[float], list[float]]:
    return list(line.get_xdata()), list(line.get_ydata())


def same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(
        torch.tensor(actual, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        equal_nan=True,
    )


def names(figure: Any) -> list[str]:
    return [t.get_text() for legend in figure.legends for t in legend.get_texts()]


COLUMNS = {"step": [10, 20, 40], "loss": [8.0, 4.0, 2.0], "lr": [0.5, 0.3, 0.2]}
ROWS = [
    {"epoch": 2, "step": 10, "loss": 8.0},
    {"epoch": 3, "step": 20, "loss": torch.tensor(4.0), "accuracy": 0.75},
    {"epoch": 4, "step": 40, "loss": 2.0, "accuracy": 0.5},
]


@pytest.mark.parametrize("run", [COLUMNS, ROWS, tuple(ROWS)])
def test_columns_and_rows_are_drawn_over_steps(run):
    (axes,) = plots.curves(run).axes
    (line,) = axes.lines
    same(points(line), ([10, 20, 40], [8, 4, 2]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert not axes.figure.legends


def test_rows_without_an_entry_leave_a_gap():
    (axes,) = plots.curves(ROWS, "accuracy", x="epoch").axes
    same(points(axes.lines[0]), ([2, 3, 4], [NAN, 0.75, 0.5]))
    assert axes.get_xlabel() == "epoch"


@pytest.mark.parametrize(
    "run",
    [[7.0, 5.0], torch.tensor([7, 5]), {"loss": torch.tensor([7.0, 5.0])}],
)
def test_steps_are_counted_from_one_where_there_are_none(run):
    same(points(plots.curves(run).axes[0].lines[0]), ([1, 2], [7, 5]))


def test_each_column_has_a_panel_and_each_run_a_line():
    runs = {"adam": COLUMNS, "_sgd $x": {"loss": [3.0, 5.0], "lr": [0.7, 0.9]}}
    figure = plots.curves(runs, ["lr", "loss"], title="Two")
    upper, lower = figure.axes
    same(points(upper.lines[0]), ([10, 20, 40], [0.5, 0.3, 0.2]))
    same(points(upper.lines[1]), ([1, 2], [0.7, 0.9]))
    same(points(lower.lines[1]), ([1, 2], [3, 5]))
    assert [upper.get_ylabel(), lower.get_ylabel()] == ["lr", "loss"]
    assert [upper.get_xlabel(), lower.get_xlabel()] == ["", "step"]
    assert names(figure) == ["adam", "_sgd $x"]
    assert figure.get_suptitle() == "Two"
    colors = [line.get_color() for line in upper.lines]
    assert colors == [line.get_color() for line in lower.lines]
    assert len(set(colors)) == 2
    handles = [line.get_color() for line in figure.legends[0].get_lines()]
    assert handles == colors


def test_runs_of_rows_have_names_too():
    figure = plots.curves({"a": ROWS, "b": ROWS[:2]})
    same(points(figure.axes[0].lines[1]), ([10, 20], [8, 4]))
    assert names(figure) == ["a", "b"]


def test_labels_replace_names_and_long_ones_are_kept_whole():
    long = "weight decay " * 15
    figure = plots.curves({"a": COLUMNS, "b": COLUMNS}, labels=["first", long])
    assert names(figure)[0] == "first"
    assert names(figure)[1].split() == long.split()
    assert max(len(line) for line in names(figure)[1].split("\n")) <= 80
    assert names(plots.curves([3.0, 2.0], labels=["one"])) == ["one"]


def test_the_eighth_line_differs_by_its_dashes():
    figure = plots.curves({str(i): {"loss": [2.0, 3.0]} for i in range(28)})
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert looks[0][0] == looks[7][0]
    assert len(set(looks)) == 28


def test_smoothing_is_the_corrected_average_and_skips_gaps():
    (axes,) = plots.curves([8.0, NAN, 4.0, INF, 2.0], smooth=0.5).axes
    raw, smooth = axes.lines
    same(points(raw)[1], [8, NAN, 4, NAN, 2])
    # By hand 4 over 1/2, then 2 + 2 over 3/4, then 1 + 1 + 1 over 7/8.
    same(points(smooth), ([1, 2, 3, 4, 5], [8, NAN, 16 / 3, NAN, 24 / 7]))
    assert raw.get_color() == smooth.get_color()
    assert raw.get_alpha() == 0.3
    assert smooth.get_alpha() is None


def test_smoothing_of_a_constant_is_the_constant():
    smooth = plots.curves([3.7] * 50, smooth=0.99).axes[0].lines[1]
    same(points(smooth)[1], [3.7] * 50)


def test_a_logarithmic_axis_leaves_out_what_is_not_positive():
    (axes,) = plots.curves([100.0, -2.0, 0.0, 0.1], log_y=True).axes
    assert axes.get_yscale() == "log"
    same(points(axes.lines[0])[1], [100, NAN, NAN, 0.1])


def test_gaps_at_the_ends_are_inside_the_axes():
    (axes,) = plots.curves([NAN, 5.0, 3.0, NAN, INF]).axes
    low, high = axes.get_xlim()
    assert low < 1
    assert high > 5


def test_single_points_between_gaps_are_marked():
    values = [2.0] * 30 + [NAN, 3.0, NAN] + [2.0] * 5 + [NAN, 7.0]
    assert plots.curves(values).axes[0].lines[0].get_markevery() == [31, 39]
    assert plots.curves([5.0]).axes[0].lines[0].get_markevery() == [0]
    assert plots.curves([5.0, NAN, 3.0]).axes[0].lines[0].get_markevery() == [0, 2]
    assert plots.curves([2.0] * 21).axes[0].lines[0].get_marker() == "None"


@pytest.mark.parametrize(
    ("values", "log_y"),
    [([NAN], False), ([NAN, INF, -INF], True), ([1e308, -1e308], False), ([-2], True)],
)
def test_nothing_finite_is_said(values, log_y):
    figure = plots.curves(values, log_y=log_y, smooth=0.5)
    figure.draw_without_rendering()
    (text,) = figure.axes[0].texts
    assert text.get_text() == "no finite values"


@pytest.mark.parametrize(
    "values", [[1e100, -1e100, 1e-100], [5e-324, 7.0], [2.5] * 7, [0.0, 0.0], [3]]
)
def test_any_numbers_can_be_drawn(values):
    figure = plots.curves({"step": [v * 3 for v in values], "loss": values})
    figure.draw_without_rendering()
    plots.curves(values, log_y=True, smooth=0.9).draw_without_rendering()


def test_whole_steps_have_whole_ticks():
    for values in ([5.0], [5.0, 3.0], [5.0] * 50):
        ticks = plots.curves(values).axes[0].get_xticks()
        assert len(ticks)
        assert all(tick == round(tick) for tick in ticks)


class Logged:
    logs: Any = None
    epochs: Any = None


@pytest.mark.parametrize(
    ("runs", "options", "error", "message"),
    [
        (COLUMNS, {"y": "los"}, ValueError, "y: expected a column of runs, got 'los'. N"
         "earest: loss"),
        ({"a": COLUMNS, "b": {"lr": [2.0]}}, {}, ValueError,
         "y: expected a column of runs['b'], got 'loss'. Nearest: lr."),
        (ROWS, {"y": "acuracy"}, ValueError, "Nearest: accuracy"),
        (COLUMNS, {"x": "epoch"}, ValueError, "x: expected a column of runs, got 'epo"),
        ({"loss": [2.0, 3.0], "step": [5]}, {}, ValueError,
         "runs: expected columns of one length, got 1 of 'step' and 2 of 'loss'"),
        ({}, {}, ValueError, "runs: expected at least one column or run, got an empty"),
        ([], {}, ValueError, "runs: expected at least one number"),
        ({"loss": []}, {}, ValueError, "runs['loss']: expected at least one number"),
        ({"loss": torch.ones(2, 3)}, {}, ValueError,
         "runs['loss']: expected shape (n,), got (2, 3)"),
        ({"a": {"loss": ["2"]}}, {}, TypeError,
         "runs['a']['loss']: expected real numbers, got list ['2']"),
        ({"loss": torch.ones(3, dtype=torch.complex64)}, {}, TypeError, "complex"),
        ({"loss": torch.ones(3, device="meta")}, {}, TypeError, "no values"),
        ([2.0, None], {}, TypeError, "runs: expected real numbers"),
        ([10**400], {}, TypeError, "runs: expected real numbers"),
        ("loss", {}, TypeError, "runs: expected real numbers, got str 'loss'"),
        (3.5, {}, ValueError, "runs: expected shape (n,), got ()"),
        (Logged(), {}, TypeError, "got Logged. Pass its .logs (per step) or its .epo"),
        ([2.0], {"y": ["loss", "lr"]}, ValueError, "y: expected one name for the numb"),
        (COLUMNS, {"y": []}, ValueError, "y: expected at least one column"),
        (COLUMNS, {"y": 3}, TypeError, "y: expected the name of a column or a list"),
        (COLUMNS, {"y": [3]}, TypeError, "y: expected the name of a column or a list"),
        (COLUMNS, {"x": 3}, TypeError, "x: expected the name of a column, got int 3"),
        (COLUMNS, {"log_y": 1}, TypeError, "log_y: expected True or False, got int 1"),
        (COLUMNS, {"smooth": 1.0}, ValueError, "smooth: expected a number in [0, 1)"),
        (COLUMNS, {"smooth": -0.5}, ValueError, "got -0.5. The nearer to 1, the smoo"),
        (COLUMNS, {"smooth": NAN}, ValueError, "smooth: expected a number in [0, 1)"),
        (COLUMNS, {"smooth": "0.5"}, TypeError, "smooth: expected a number in [0, 1)"),
        (COLUMNS, {"labels": ["a", "b"]}, ValueError,
         "labels: expected 1 names, one per run, got 2"),
        (COLUMNS, {"labels": "a"}, TypeError, "labels: expected a list of 1 names"),
        (COLUMNS, {"title": 3}, TypeError, "title: expected a str or None, got int 3"),
    ],
)  # fmt: skip
def test_refuses(runs, options, error, message):
    with pytest.raises(error, match=f"^plots.curves: .*{re.escape(message)}"):
        plots.curves(runs, **options)
