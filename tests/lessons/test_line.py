# SPDX-License-Identifier: Apache-2.0
"""Lesson 2 against torch.nn with the same draws, closed forms and NumPy."""

import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn
from torch.testing import assert_close

from course import run


def lesson(name):
    return run("line").variables[name]


def printed(label):
    """The numbers that the lesson printed behind a label, in each line that has it."""
    lines = re.findall(rf"^{re.escape(label)}(.*)$", run("line").printed, re.M)
    assert lines, label
    number = r"-?\d+\.?\d*(?:e[-+]?\d+)?"
    return [[float(v) for v in re.findall(number, line)] for line in lines]


def column(seed, n):
    """The data as a course with torch.nn draws them, of shape (n, 1)."""
    torch.manual_seed(seed)
    x = torch.rand(n, 1)
    x = -2 + 4 * (x - x.min()) / (x.max() - x.min())
    mean, deviation = torch.zeros(x.shape), 1.3 * torch.ones(x.shape)
    return x, 3.0 * x + 2.0 + torch.normal(mean, deviation)


@pytest.fixture(scope="module")
def classic():
    """Ten steps with torch.nn: the params and both losses before and after each."""
    with torch.random.fork_rng():
        data = [column(0, 160), column(1, 20), column(2, 20)]
        module = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    criterion = nn.MSELoss()
    rows = []
    for _ in range(11):
        losses = [criterion(module(x), y) for x, y in data]
        rows.append([module.weight.item(), module.bias.item()])
        rows[-1] += [value.item() for value in losses]
        optimizer.zero_grad()
        losses[0].backward()
        optimizer.step()
    return data, np.array(rows)


def least_squares(x, y):
    table = np.stack([x, np.ones_like(x)], axis=1)
    return np.linalg.lstsq(table, y, rcond=None)[0]


def arrays(x="x", y="y"):
    return lesson(x).double().numpy(), lesson(y).double().numpy()


def vector(params):
    return np.array([params["w"].item(), params["b"].item()])


def second_derivatives(x):
    return 2 * np.array([[np.mean(x**2), np.mean(x)], [np.mean(x), 1.0]])


def test_data_do_not_depend_on_the_shape_drawn(classic):
    for (x, y), name in zip(
        classic[0], ["training", "validation", "test"], strict=True
    ):
        ours = lesson("sets")[name]
        assert_close(ours[0], x[:, 0], rtol=1e-5, atol=1e-6)
        assert_close(ours[1], y[:, 0], rtol=1e-5, atol=1e-5)
    assert [len(xy[0]) for xy in lesson("sets").values()] == [160, 20, 20]


def test_noise_has_the_spread_that_was_asked_for():
    x, y = lesson("points")(7, 200_000)
    noise = y - (3 * x + 2)
    assert abs(noise.std().item() - 1.3) < 0.01
    assert abs(noise.mean().item()) < 0.02
    assert (x.min().item(), x.max().item()) == (-2.0, 2.0)


def test_start_is_what_a_linear_layer_draws_after_the_test_points(classic):
    assert printed("params  ") == [[-0.2032, 0.5817]]
    assert_close(vector(lesson("start")), classic[1][0, :2], rtol=1e-6, atol=1e-7)
    assert_close(printed("classic, start")[0], [-0.2032, 0.5817])


def test_prediction_before_training():
    assert printed("prediction at x = 1:") == [[0.3785]]  # -0.2032 + 0.5817


def test_both_numbers_of_the_slip(classic):
    (x, y), rows = classic[0][0], classic[1]
    slip = nn.functional.mse_loss(x, y).item()
    assert printed("slip: mse(x, y)")[0] == [round(slip, 4)] * 2 == [10.7261] * 2
    right, other = printed("loss: mse(predict(params, x), y)")[0]
    assert right == round(rows[0, 2], 4) == 17.7460
    a, b = arrays()
    w0, b0 = rows[0, :2] + 1
    assert abs(other - np.mean((w0 * a + b0 - b) ** 2)) < 1e-4


def test_one_step():
    x, y = arrays()
    w, b = vector(lesson("start"))
    residual = w * x + b - y
    expected = [2 * np.mean(residual * x), 2 * np.mean(residual)]
    assert_close(printed("grads")[0], expected, rtol=0, atol=1e-4)
    after = [w - 0.5 * expected[0], b - 0.5 * expected[1]]
    assert_close(printed("params after")[0], after, rtol=0, atol=1e-4)
    assert printed("exercise 1: lr 1.0,") == printed("params after")


def test_ten_steps_are_those_of_torch_nn(classic):
    table = np.array([printed(f"{step:4} ")[0] for step in range(11)])
    assert_close(table, classic[1][:, :4], rtol=0, atol=1.1e-4)
    assert table[10].tolist() == [3.1482, 1.9967, 1.2052, 1.8969]


def test_true_and_fitted_line(classic):
    assert printed("on average the noise alone has a loss of") == [[1.69]]
    for k, name in enumerate(["training", "validation", "test"]):
        x, y = classic[0][k]
        true, fitted = printed(f"{name:10}: true line")[0]
        assert abs(true - torch.mean((3 * x + 2 - y) ** 2).item()) < 1e-4
        assert abs(fitted - classic[1][10, 2 + k]) < 1e-4
        # Better by necessity, better by chance, worse by chance.
        assert (fitted < true) == (name != "test")


def test_closed_form_and_scikit_learn():
    x, y = arrays()
    expected = least_squares(x, y)
    library = LinearRegression().fit(x[:, None], y)
    assert_close(expected, np.array([library.coef_[0], library.intercept_]))
    assert_close(vector(lesson("best")), expected, rtol=1e-5, atol=1e-5)
    for label in ["normal equations", "scikit-learn", "best line"]:
        assert printed(label) == [[3.1485, 1.9966]]
    assert_close([3.1485, 1.9966], expected.tolist(), rtol=0, atol=5e-5)
    lowest = np.mean((expected[0] * x + expected[1] - y) ** 2)
    assert_close(printed("lowest loss:"), [[round(lowest, 4)]] * 2)


def test_moved_data_have_the_same_minimum_and_another_surface():
    (x, y), (x_moved, y_moved) = arrays(), arrays("x_moved", "y_moved")
    assert (x_moved.min(), x_moved.max()) == (1.0, 5.0)
    w, b = least_squares(x_moved, y_moved)
    assert_close(np.array([w, b]), least_squares(x, y), rtol=0, atol=1e-5)
    lowest = np.mean((w * x_moved + b - y_moved) ** 2)
    assert abs(lowest - np.mean((w * x + b - y) ** 2)) < 1e-6
    limits = {}
    for name, inputs in [("first data", x), ("moved data", x_moved)]:
        low, high = np.linalg.eigvalsh(second_derivatives(inputs))
        expected = [low, high, 2 / high]
        assert_close(printed(f"{name}: ")[0], expected, rtol=0, atol=1.1e-4)
        limits[name] = 2 / high
    assert 0.7 < limits["first data"] < 0.73
    assert 0.08 < limits["moved data"] < 0.5


def test_surface_is_the_loss():
    x, y = arrays()
    found = lesson("surface")(lesson("x"), lesson("y"))
    for i, j in [(0, 0), (7, 53), (90, 2)]:
        w, b = lesson("ws")[j].item(), lesson("bs")[i].item()
        assert_close(
            found[i, j].item(), np.mean((w * x + b - y) ** 2), rtol=1e-4, atol=0
        )


def test_ravine_takes_a_hundred_times_as_long():
    x, y = arrays("x_moved", "y_moved")
    theta, rows = vector(lesson("start")), {}
    best, away = least_squares(x, y), {}
    for step in range(1001):
        rows[step], away[step] = theta, np.linalg.norm(theta - best)
        residual = theta[0] * x + theta[1] - y
        theta = theta - 0.08 * 2 * np.array([np.mean(residual * x), np.mean(residual)])
    for step in [10, 100, 1000]:
        found = printed(f"lr 0.08, step {step} ")[0]
        assert_close(found, rows[step].tolist(), rtol=0, atol=2e-4)
    first = np.linalg.norm(vector(lesson("path")[10]) - best)
    assert first < 1e-3 < away[100]


def test_factors_of_the_zigzag():
    values = 1 - 0.5 * np.linalg.eigvalsh(second_derivatives(arrays()[0]))
    found = printed("first data, lr 0.5: factors")[0]
    assert_close(found, values.tolist(), rtol=0, atol=1e-4)
    # The last steps before rounding shows are multiplied by the negative factor.
    ws = [params["w"].item() for params in lesson("path")]
    steps = np.diff(ws)
    assert_close(steps[3] / steps[2], values[1], rtol=0.02, atol=0)


def test_rates_on_both_sides_of_the_limit():
    x, y = arrays()
    for rate in [0.1, 0.5, 0.7, 0.73]:
        theta = vector(lesson("start"))
        for _ in range(100):
            residual = theta[0] * x + theta[1] - y
            slope = 2 * np.array([np.mean(residual * x), np.mean(residual)])
            theta = theta - rate * slope
        last = np.mean((theta[0] * x + theta[1] - y) ** 2)
        assert_close(lesson("runs")[rate][-1], last, rtol=2e-3, atol=0)
        assert (last < lesson("losses")[0]) == (rate < 0.716)


@pytest.mark.parametrize(("name", "step"), [("1.0", 70), ("0.5", 18)])
def test_run_stops_at_the_first_loss_that_is_not_finite(name, step):
    text = f"stopped: the loss is inf after step {step} with lr {name}.\n"
    before = r"The losses before it: ([\d.e+]+), ([\d.e+]+), ([\d.e+]+)\n"
    found = re.search(re.escape(text) + before, run("line").printed)
    assert found
    growing = [float(v) for v in found.groups()]
    assert growing == sorted(growing)
    start = lesson("runs")[1.0] if name == "1.0" else lesson("moved_losses")
    assert len(start) == step  # after 0 .. step - 1 steps
    assert np.all(np.isfinite(start))
    assert start[-1] > 1e35
    assert printed("the largest float32:") == [[3.4e38]]


def test_guard_stops_at_nan_and_keeps_what_was_finite(capsys):
    x, y = lesson("x"), lesson("y").clone()
    y[3] = torch.nan
    path, losses = lesson("descend")(lesson("start"), x, y, lr=0.1, steps=5)
    assert (path, losses) == ([], [])
    assert "the loss is nan after step 0" in capsys.readouterr().out


def test_classic_comparison_ends_where_we_do(classic):
    for label in ["classic, ten steps", "here, ten steps", "ten steps"]:
        assert_close(printed(label)[0], classic[1][10, :2].tolist(), rtol=0, atol=1e-4)


def test_exercises():
    x, y = arrays()
    assert lesson("half_lr") == 1.0
    expected = np.mean((0.3 * x - 1.7 - y) ** 2) / 2
    params = {"w": torch.tensor(0.3), "b": torch.tensor(-1.7)}
    found = lesson("half_loss")(params, lesson("x"), lesson("y")).item()
    assert_close(found, expected, rtol=1e-5, atol=0)
    best = least_squares(x, y)
    for name in ["found", "arrived"]:
        assert_close(vector(lesson(name)), best, rtol=1e-3, atol=1e-3)
    bend, (b, c) = lesson("bent")["bend"], lesson("bent")["line"]
    assert_close(
        [bend.item(), b.item(), c.item()], [0.25, -3.0, 5.0], rtol=0, atol=1e-3
    )
