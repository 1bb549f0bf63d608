# SPDX-License-Identifier: Apache-2.0
"""Schedules: the learning rate at each step, and refusals."""

import math
import re
from itertools import pairwise

import pytest
import torch

from functorch_lab import plots
from functorch_lab.optim import schedules


def points(line):
    return [list(line.get_xdata()), list(line.get_ydata())]


def test_each_step_has_its_rate():
    (axes,) = plots.schedule(schedules.step(8.0, 3, gamma=0.5), 7).axes
    (line,) = axes.lines
    assert points(line) == [[0, 1, 2, 3, 4, 5, 6], [8, 8, 8, 4, 4, 4, 2]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "learning rate")
    assert not axes.figure.legends


def test_several_are_named_and_numbers_stay():
    figure = plots.schedule(
        {
            "warm": schedules.warmup(0.5, 2),
            "none": 0.25,
            "tensor": torch.tensor(0.75, requires_grad=True),
            "own": lambda step: 1 / (step.item() + 2),
        },
        3,
    )
    rates = [points(line)[1] for line in figure.axes[0].lines]
    assert rates == [[0, 0.25, 0.5], [0.25] * 3, [0.75] * 3, [1 / 2, 1 / 3, 1 / 4]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["warm", "none", "tensor", "own"]
    figure = plots.schedule(0.25, 2, labels=["mine"])
    assert figure.legends[0].get_texts()[0].get_text() == "mine"


def test_it_is_called_as_an_optimizer_calls_it():
    seen = []

    def schedule(step):
        seen.append(step)
        return step * 0.5

    plots.schedule(schedule, 3)
    assert [(s.shape, s.dtype) for s in seen] == [((), torch.int64)] * 3
    assert [s.item() for s in seen] == [0, 1, 2]


def test_long_ones_are_sampled_with_both_ends():
    (line,) = plots.schedule(lambda step: step * 2, 3001).axes[0].lines
    steps, rates = points(line)
    assert len(steps) == 1000
    assert (steps[0], steps[-1]) == (0, 3000)
    assert all(step == round(step) for step in steps)
    assert rates == [2 * step for step in steps]
    assert max(b - a for a, b in pairwise(steps)) <= 4


def test_values_that_are_not_finite_leave_gaps():
    figure = plots.schedule(lambda s: [math.inf, 0.5, math.nan][s], 3)
    line = figure.axes[0].lines[0]
    assert [math.isnan(rate) for rate in points(line)[1]] == [True, False, True]
    assert line.get_markevery() == [1]
    figure = plots.schedule(math.nan, 1)
    figure.draw_without_rendering()
    assert figure.axes[0].texts[0].get_text() == "no finite values"


@pytest.mark.parametrize(
    ("schedule", "options", "error", "message"),
    [
        ("cosine", {}, TypeError, "schedule: expected a function of the step or a num"),
        ({"a": True}, {}, TypeError, "schedule['a']: expected a function of the step"),
        (lambda step: "0.5", {}, TypeError, "schedule at its steps: expected real num"),
        (lambda step: None, {}, TypeError, "NoneType is no number"),
        (lambda step: torch.ones(2) * step, {}, ValueError,
         "schedule: expected one number, shape (), at each step, got shape (2,)"),
        (torch.ones(3), {}, ValueError, "at each step, got shape (3,)"),
        ({}, {}, ValueError, "schedule: expected at least one, got an empty mapping"),
        (0.5, {"steps": 0}, ValueError, "steps: expected at least 1, got 0"),
        (0.5, {"steps": 2.0}, TypeError, "steps: expected an int, got float 2.0"),
        (0.5, {"labels": ["a", "b"]}, ValueError,
         "labels: expected 1 names, one per schedule, got 2"),
    ],
)  # fmt: skip
def test_refuses(schedule, options, error, message):
    with pytest.raises(error, match=f"^plots.schedule: .*{re.escape(message)}"):
        plots.schedule(schedule, **{"steps": 2, **options})
