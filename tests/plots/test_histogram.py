# SPDX-License-Identifier: Apache-2.0
"""Histograms: counts and edges, what is left out, names, and refusals."""

import math
import re

import numpy as np
import pytest
import torch

from functorch_lab import plots

NAN, INF = math.nan, math.inf


def bars(figure, index=0):
    counts, edges, _ = figure.axes[0].patches[index].get_data()
    return list(counts), list(edges)


def test_whole_numbers_have_a_bin_each():
    figure = plots.histogram(torch.tensor([[3, 5], [3, 2]]))
    assert bars(figure) == ([1, 2, 0, 1], [1.5, 2.5, 3.5, 4.5, 5.5])
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("value", "count")
    assert not figure.legends


def test_given_edges_are_kept_and_the_last_bin_is_closed():
    figure = plots.histogram([2.0, 3.0, 3.5, 7.0, 9.0, 1.0], bins=[2, 3, 7])
    assert bars(figure) == ([1, 3], [2, 3, 7])
    assert figure.axes[0].get_xlabel() == "value (2 of 6 outside the bins)"


@pytest.mark.parametrize("bins", [1, 5, 13])
def test_a_number_of_bins_is_that_of_numpy(bins):
    values = np.random.default_rng(3).standard_normal(211)
    counts, edges = np.histogram(values, bins)
    found = bars(plots.histogram(values, bins=bins))
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(counts))
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(edges))


@pytest.mark.parametrize("n", [2, 7, 50, 1000])
def test_automatic_bins_are_about_those_of_numpy(n):
    values = np.random.default_rng(n).standard_normal(n)
    counts, edges = bars(plots.histogram(values))
    expected = len(np.histogram_bin_edges(values, "auto")) - 1
    assert abs(len(counts) - expected) <= 1 + 0.1 * expected
    assert sum(counts) == n
    assert (edges[0], edges[-1]) == (values.min(), values.max())


def test_outliers_do_not_make_endless_bins():
    values = [1e-6 * i for i in range(99)] + [1e6]
    counts, _ = bars(plots.histogram(values))
    assert counts == [99] + [0] * 98 + [1]


@pytest.mark.parametrize(
    ("value", "edges"),
    [(3.5, (3.325, 3.675)), (3.0, (2.5, 3.5)), (0.0, (-0.5, 0.5))],
)
def test_one_value_has_one_bin(value, edges):
    counts, found = bars(plots.histogram([value] * 5))
    assert counts == [5]
    assert tuple(found) == pytest.approx(edges)


def test_what_is_not_finite_is_counted():
    figure = plots.histogram([2, NAN, 3, INF, -INF], labels=["norm"])
    assert bars(figure) == ([1, 1], [1.5, 2.5, 3.5])
    assert figure.axes[0].get_xlabel() == "norm (3 of 5 not finite)"
    figure = plots.histogram([NAN, INF])
    figure.draw_without_rendering()
    assert figure.axes[0].texts[0].get_text() == "no finite values"


def test_several_sets_share_bins_and_are_named():
    values = {"layer": {"w": [2, 3, 3], "b": torch.tensor([5, 2])}, "_": [4, NAN]}
    figure = plots.histogram(values, title="Norms", bins=[2, 3, 4, 6])
    # Each set is a filled shape and its outline.
    assert [bars(figure, i)[0] for i in (0, 2, 4)] == [[1, 2, 0], [1, 0, 1], [0, 0, 1]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["layer.w", "layer.b", "_ (1 of 2 not finite)"]
    assert figure.axes[0].get_xlabel() == "value"
    assert figure.get_suptitle() == "Norms"
    figure = plots.histogram(values, labels=["p", "q", "r"])
    assert figure.legends[0].get_texts()[1].get_text() == "q"


def test_a_logarithmic_axis_shows_single_counts():
    axes = plots.histogram([2, 2, 2, 3], log_y=True).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] == 0.5


@pytest.mark.parametrize(
    ("values", "log_y"),
    [
        ([1e100, -1e100, 2.5], False),
        ([5e-324, 1e-323], False),
        ([1e15, 1e15 + 1], True),
        ([7.5], True),
        ([2**60, 3], False),
    ],
)
def test_any_numbers_can_be_drawn(values, log_y):
    figure = plots.histogram(values, log_y=log_y)
    figure.draw_without_rendering()
    assert sum(bars(figure)[0]) == len(values)


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        ([], {}, ValueError, "values: expected at least one number, got shape (0,)"),
        ({}, {}, ValueError, "values: expected at least one set of numbers"),
        ({"a": {"b": []}}, {}, ValueError, "values['a.b']: expected at least one numb"),
        (["a"], {}, TypeError, "values: expected real numbers, got list ['a']"),
        (None, {}, TypeError, "values: expected real numbers, got NoneType None"),
        ([2, 3], {"bins": 0}, ValueError, "bins: expected at least 1, got 0"),
        ([2, 3], {"bins": True}, TypeError, "bins: expected an int, got bool True"),
        ([2, 3], {"bins": "fd"}, ValueError, "bins: expected 'auto', a number or edge"),
        ([2, 3], {"bins": [2]}, ValueError, "bins: expected at least two rising"),
        ([2, 3], {"bins": [2, 5, 5]}, ValueError, "bins: expected at least two rising"),
        ([2, 3], {"bins": [2, INF]}, ValueError, "bins: expected at least two rising"),
        ([2, 3], {"bins": 2.5}, ValueError, "bins: expected shape (n,), got ()"),
        ([2, 3], {"log_y": "log"}, TypeError, "log_y: expected True or False"),
        ([2, 3], {"labels": []}, ValueError, "labels: expected 1 names, one per set"),
        ([2, 3], {"title": b"x"}, TypeError, "title: expected a str or None"),
    ],
)  # fmt: skip
def test_refuses(values, options, error, message):
    with pytest.raises(error, match=f"^plots.histogram: .*{re.escape(message)}"):
        plots.histogram(values, **options)
