# SPDX-License-Identifier: Apache-2.0
"""Lesson 7: each number it names, against NumPy, torch.nn, SciPy or scikit-learn."""

import ast
import re

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, QuantileRegressor
from torch import nn

from course import run


def lesson():
    return run("losses").variables


def printed():
    return run("losses").printed


def value_after(label):
    """What the lesson printed behind a label, as Python reads it."""
    found = re.findall(rf"^{re.escape(label)} *(.*)$", printed(), re.MULTILINE)
    assert len(found) == 1, (label, found)
    return ast.literal_eval(found[0])


def softmax(z):
    e = np.exp(np.asarray(z, np.float64) - np.max(z))
    return e / e.sum()


def test_one_prediction_23_5_against_25():
    assert value_after("squared error:") == (23.5 - 25) ** 2 == 2.25
    assert value_after("absolute error:") == abs(23.5 - 25) == 1.5


def test_four_predictions():
    errors = np.array([23.5, 19, 21.5, 30]) - np.array([25.0, 18, 22, 24])
    assert value_after("errors:") == errors.tolist()
    assert value_after("MSE:") == (errors**2).mean()
    assert value_after("MAE:") == np.abs(errors).mean()
    squared, absolute = errors**2, np.abs(errors)
    assert f"in MSE: {squared[3] / squared.sum():.0%}" in printed()
    assert f"in MAE: {absolute[3] / absolute.sum():.0%}" in printed()
    assert squared[3] / squared.sum() > 0.9
    assert absolute[3] / absolute.sum() == 2 / 3


def test_the_slip_of_the_shapes():
    predictions, targets = np.array([23.5, 19, 21.5, 30]), np.array([25.0, 18, 22, 24])
    wrong = ((predictions[:, None] - targets[None, :]) ** 2).mean()
    assert f"wrong: {wrong}, over the shape (4, 4) in place of (4,)" in printed()
    assert "expected the shape of prediction, (4, 1), got (4,)" in printed()


def test_the_pulls_of_the_losses():
    grid, pulls = lesson()["grid"].numpy(), lesson()["pulls"]
    np.testing.assert_allclose(pulls["squared"], 2 * grid, atol=1e-6)
    np.testing.assert_allclose(pulls["Huber"], grid.clip(-1, 1), atol=1e-6)
    away = np.abs(grid) > 1e-3
    np.testing.assert_array_equal(pulls["absolute"][away], np.sign(grid[away]))
    assert pulls["Huber"].abs().max() == 1


def huber(error):
    size = np.abs(error)
    return np.where(size <= 1, error**2 / 2, size - 0.5)


def test_the_best_constants_are_mean_and_median():
    waits, best = lesson()["waits"].numpy().astype(np.float64), lesson()["best"]
    assert best["squared"] == pytest.approx(waits.mean(), abs=0.006)
    assert best["absolute"] == pytest.approx(np.median(waits), abs=0.006)
    found = minimize(lambda c: huber(c - waits).sum(), x0=[4.0], tol=1e-9)
    assert best["Huber"] == pytest.approx(found.x.item(), abs=0.006)
    assert f"mean {waits.mean():.2f}, median {np.median(waits):.2f}" in printed()


def test_the_lines_of_the_three_losses():
    variables = lesson()
    x = variables["x"].numpy().astype(np.float64)[:, None]
    y, wrong = (variables[name].numpy().astype(np.float64) for name in ("y", "y_wrong"))
    squared, clean = LinearRegression().fit(x, wrong), LinearRegression().fit(x, y)
    absolute = QuantileRegressor(quantile=0.5, alpha=0).fit(x, wrong)
    tail = minimize(
        lambda p: huber(p[0] * x[:, 0] + p[1] - wrong).mean(), x0=[2.0, 1.0], tol=1e-10
    )
    expected = {
        "squared": (squared.coef_[0], squared.intercept_),
        "absolute": (absolute.coef_[0], absolute.intercept_),
        "Huber": tuple(tail.x),
        "squared, point corrected": (clean.coef_[0], clean.intercept_),
    }
    for name, (w, b) in expected.items():
        line = variables["lines"][name]
        assert line["w"].item() == pytest.approx(w, abs=0.01), name
        assert line["b"].item() == pytest.approx(b, abs=0.01), name


def test_only_the_squared_line_gives_the_samples_up():
    variables = lesson()
    x, y = variables["x"][:-1], variables["y"][:-1]
    far = {
        name: (line["w"] * x + line["b"] - y).abs().mean().item()
        for name, line in variables["lines"].items()
    }
    best = far["squared, point corrected"]
    assert far["absolute"] < 1.1 * best
    assert far["Huber"] < 1.1 * best
    assert far["squared"] > 2 * best
    assert len(variables["x"]) == 21


def test_cross_entropy_of_two_beliefs():
    label = torch.tensor([1])
    for text, belief in (("0.83/0.17", [0.83, 0.17]), ("0.21/0.79", [0.21, 0.79])):
        expected = -np.log(belief[1])
        line = f"{text}: H(p, q) = {expected:.4f}, by the library {expected:.4f}"
        assert line in printed()
        logits = torch.tensor([belief]).log()
        classic = nn.CrossEntropyLoss()(logits, label).item()
        assert classic == pytest.approx(expected, rel=1e-6)
    assert "0.83/0.17: H(p, q) = 1.7720" in printed()
    assert "0.21/0.79: H(p, q) = 0.2357" in printed()
    assert f"had class 0 come, at first: {-np.log(0.83):.4f}" in printed()
    assert value_after("class 1 as one-hot:") == [0, 1]


def test_the_naive_softmax_breaks_and_log_softmax_does_not():
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(np.float32(89)))
    assert np.exp(np.float32(-110)) == 0
    assert "exp(89) = inf, exp(-110) = 0.0" in printed()
    rows = re.findall(r"naive +(\S+), with log-softmax +(\S+)", printed())
    logits = ([2.0, 1.0], [0.0, -110.0], [100.0, 90.0])
    expected = [np.logaddexp(a, b) - b for a, b in logits]  # in float64
    assert [row[0] for row in rows] == [f"{expected[0]:.4f}", "inf", "nan"]
    assert [row[1] for row in rows] == [f"{e:.4f}" for e in expected]


def test_the_gradient_is_softmax_minus_one_hot():
    logits = torch.tensor([0.83, 0.17]).log().requires_grad_()
    loss = nn.functional.cross_entropy(logits, torch.tensor(1))
    (expected,) = torch.autograd.grad(loss, logits)
    assert value_after("gradient:") == pytest.approx(expected.tolist(), abs=0.005)
    assert value_after("softmax - one-hot:") == [0.83, round(0.17 - 1, 2)]
    torch.testing.assert_close(lesson()["slopes"], expected)


def test_the_squared_error_of_a_probability_hardly_pulls_where_it_is_wrong():
    lead = torch.tensor(-8.0, requires_grad=True)
    (slope,) = torch.autograd.grad((torch.sigmoid(lead) - 1) ** 2, lead)
    (steep,) = torch.autograd.grad(nn.functional.softplus(-lead), lead)
    assert abs(slope) < 1e-3
    assert steep < -0.999
    variables = lesson()
    for name, expected in (("squared_loss", slope), ("entropy_loss", steep)):
        found = variables["fl"].grad(variables[name])(lead.detach())
        torch.testing.assert_close(found, expected)


def test_kl_is_what_cross_entropy_has_beyond_the_entropy():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    cross, entropy = -(p * np.log(q)).sum(), -(p * np.log(p)).sum()
    kl, other = (p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()
    assert f"{cross:.4f} = H(p) + KL(p, q) = {entropy:.4f} + {kl:.4f}" in printed()
    assert f"KL(q, p) = {other:.4f}, KL(p, p) = 0.0000" in printed()
    assert f"{kl:.4f}" != f"{other:.4f}"
    surprise = -np.log(0.17)
    assert f"one-hot: H(p, q) = {surprise:.4f}, KL(p, q) = {surprise:.4f}" in printed()
    for name in ("by_cross", "by_kl"):
        np.testing.assert_allclose(lesson()[name], q - p, atol=1e-6)


def test_label_smoothing_has_a_finite_best_lead():
    target = np.array([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    assert value_after("smoothed target:") == [round(t, 4) for t in target]
    for c, found in lesson()["smooth"].items():
        logits = np.array([0, c, 0])
        expected = -(target * np.log(softmax(logits))).sum()
        assert found == pytest.approx(expected, rel=1e-5)
        plain = -np.log(softmax(logits)[1])
        assert f"lead {c:5.2f}: one-hot {plain:.4f}, smoothed {expected:.4f}" in (
            printed()
        )
    best = np.log(target[1] / target[0])
    assert best == pytest.approx(3.33, abs=0.005)
    assert min(lesson()["smooth"], key=lesson()["smooth"].get) == 3.33


def test_the_hinge_stops_pulling_beyond_the_margin():
    rows = re.findall(r"scores (.*): loss (\S+), gradient (.*)$", printed(), re.M)
    assert len(rows) == 3
    for scores, loss, gradient in rows:
        z = ast.literal_eval(scores)
        expected = max(0, 1 + max(z[0], z[2]) - z[1])
        assert float(loss) == pytest.approx(expected, abs=0.05)
        pull = [1.0, -1.0, 0.0] if expected else [0.0, 0.0, 0.0]
        assert ast.literal_eval(gradient) == pull
    # For two classes torch's sum is ours, but divided by the number of classes.
    variables = lesson()
    ours = variables["fl"].losses.hinge(variables["pairs"], variables["ones"])
    theirs = nn.MultiMarginLoss(reduction="none")(variables["pairs"], variables["ones"])
    torch.testing.assert_close(ours, 2 * theirs)


def test_classic_losses_say_the_same():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    errors = np.array([-1.5, 1, -0.5, 6])
    kl = [(p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()]
    expected = {
        "MSE": (errors**2).mean(),
        "MAE": np.abs(errors).mean(),
        "Huber": huber(errors).mean(),
        "entropy": -(np.log(q[0]) + np.log(p[2])) / 2,
        "KL": np.mean(kl),
    }
    for name, value in expected.items():
        found = re.findall(rf"^{name} +(\d\S*)  (\S+)$", printed(), re.MULTILINE)
        assert [float(f) for f in found[0]] == pytest.approx([value] * 2, abs=6e-5)
    assert f"KL divided by the classes as well: {np.mean(kl) / 3:.4f}" in printed()
    twice = -np.log(softmax([0.21, 0.79])[1])
    assert f"softmax taken twice: {twice:.4f} in place of {-np.log(0.79):.4f}" in (
        printed()
    )


def test_exercises_1_and_2():
    z = torch.tensor([300.0, -7.0, 299.0])
    torch.testing.assert_close(lesson()["log_softmax"](z), z.log_softmax(-1))
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    m = (p + q) / 2
    expected = ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2
    assert f"exercise 2: {expected:.4f}, at most {np.log(2):.4f}" in printed()


def test_exercise_3_the_band():
    variables = lesson()
    u, v = variables["u"].numpy().astype(np.float64), variables["v"].numpy()
    assert ((variables["shares"] - variables["qs"]).abs() < 0.01).all()
    for i, q in enumerate((0.1, 0.5, 0.9)):
        line = QuantileRegressor(quantile=q, alpha=0).fit(u[:, None], v)
        w, b = (variables["found"][name][i].item() for name in ("w", "b"))
        assert w == pytest.approx(line.coef_[0], abs=0.05)
        assert b == pytest.approx(line.intercept_, abs=0.05)
