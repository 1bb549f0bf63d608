# SPDX-License-Identifier: Apache-2.0
"""Lesson 4 against exact fractions, torch.nn with torch.optim, and closed forms."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from course import run

POINTS = [
    *[("0.11", "1.24"), ("0.20", "1.40"), ("0.49", "2.00")],
    *[("0.65", "2.27"), ("0.67", "2.41"), ("0.83", "2.52")],
]
X, Y = (np.array([float(p[axis]) for p in POINTS]) for axis in (0, 1))
TABLE = np.stack([X, np.ones(6)], axis=1)


def lesson(name):
    return run("four_ways").variables[name]


def printed(label):
    """The numbers that the lesson printed behind a label, in each line that has it."""
    lines = re.findall(rf"^{re.escape(label)}(.*)$", run("four_ways").printed, re.M)
    assert lines, label
    number = r"-?\d+\.?\d*(?:e[-+]?\d+)?"
    return [[float(v) for v in re.findall(number, line)] for line in lines]


def loss(theta):
    return np.mean((TABLE @ theta - Y) ** 2)


def least_squares():
    """By Cramer's rule in exact fractions."""
    x, y = ([Fraction(p[axis]) for p in POINTS] for axis in (0, 1))
    sx, sy = sum(x), sum(y)
    sxx, sxy = sum(a * a for a in x), sum(a * b for a, b in zip(x, y, strict=True))
    w = (6 * sxy - sx * sy) / (6 * sxx - sx * sx)
    return np.array([float(w), float((sy - w * sx) / 6)])


@pytest.fixture(scope="module")
def classic():
    """Params after each of 4000 epochs of torch.nn, torch.optim and a DataLoader."""
    data = TensorDataset(torch.tensor(X)[:, None], torch.tensor(Y)[:, None])
    generator = torch.Generator().manual_seed(0)
    sampler = SubsetRandomSampler(range(6), generator=generator)
    module = nn.Linear(1, 1).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.fill_(1.0)
    optimizer, criterion = torch.optim.SGD(module.parameters(), lr=0.01), nn.MSELoss()
    loader, rows = DataLoader(data, batch_size=2, sampler=sampler), [[1.0, 1.0]]
    with torch.random.fork_rng():
        for _ in range(4000):
            for x, y in loader:
                optimizer.zero_grad()
                criterion(module(x), y).backward()
                optimizer.step()
            rows.append([module.weight.item(), module.bias.item()])
    return np.array(rows)


def test_the_six_points():
    assert_close(lesson("x"), X, rtol=0, atol=0)
    assert_close(lesson("y"), Y, rtol=0, atol=0)


def test_loss_at_one_one_as_mean_half_and_sum():
    total = sum((Fraction(x) + 1 - Fraction(y)) ** 2 for x, y in POINTS)
    found = printed("mean of the squares")[0]
    assert found == [0.2875, 0.1438, 1.7251]
    expected = [float(total) / 6, float(total) / 12, float(total)]
    assert_close(found, expected, rtol=0, atol=5e-5)


def test_order_has_every_sample_once_per_epoch_and_is_reshuffled():
    order = lesson("order")
    assert order.shape == (4000, 3, 2)
    assert (
        printed("")[0] == [] or "12000 steps of 2 samples" in run("four_ways").printed
    )
    epochs = order.reshape(4000, 6)
    assert_close(np.sort(epochs), np.tile(np.arange(6), (4000, 1)))
    assert len(np.unique(epochs, axis=0)) > 700  # of the 720 that there are
    generator = torch.Generator().manual_seed(0)
    sampler = SubsetRandomSampler(range(6), generator=generator)
    first = [[int(i) for i in sampler] for _ in range(2)]
    assert_close(epochs[:2], np.array(first))


def test_path_is_that_of_torch_nn(classic):
    assert_close(lesson("path"), classic, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["by hand", "fl.grad", "optimizer", "model"])
def test_each_way_ends_at_the_same_params(classic, way):
    assert lesson("results")[way].dtype == np.float64
    assert_close(lesson("results")[way], classic[4000], rtol=0, atol=1e-12)
    line = re.search(rf"^{way:9}  .*True$", run("four_ways").printed, re.M)
    assert line
    w, b = re.findall(r"[wb] (\d\.\d{12})", line[0])
    assert_close([float(w), float(b)], classic[4000].tolist(), rtol=0, atol=1e-12)


def test_each_way_took_all_steps():
    assert lesson("epochs") * 3 == 12000
    assert re.search(r"b = 1.047860, step 12000$", run("four_ways").printed, re.M)
    for name in ["by_grad", "by_optimizer", "by_model"]:
        assert all(leaf.dtype == torch.float64 for leaf in lesson(name).values())


def test_an_order_of_its_own_would_be_seen(classic):
    theta = np.ones(2)
    for batch in lesson("order")[::-1].reshape(-1, 2):
        residual = TABLE[batch] @ theta - Y[batch]
        theta = theta - 0.01 * 2 * TABLE[batch].T @ residual / 2
    assert np.abs(theta - classic[4000]).max() > 1e-6


def test_update_of_the_optimizer():
    assert printed("updates  w") == [[-0.03, 0.05]]  # -0.01 times 3 and -5
    assert "step     0 -> 1" in run("four_ways").printed
    assert lesson("next_state").step.item() == 1


def test_least_squares():
    best = least_squares()
    assert_close(lesson("best"), best, rtol=0, atol=1e-12)
    found = printed("least squares   w")[0]
    assert_close(found, [*best.tolist(), loss(best)], rtol=0, atol=1e-6)
    assert found == [1.882363, 1.047838, 0.003339]


def test_end_and_distances_of_the_path(classic):
    end = classic[4000]
    found = printed("12000 steps     w")[0]
    assert_close(found, [*end.tolist(), loss(end)], rtol=0, atol=1e-6)
    for epoch in [0, 100, 1000, 2000, 4000]:
        away = np.linalg.norm(classic[epoch] - least_squares())
        assert_close(printed(f"epoch {epoch:4}:")[0][0], away, rtol=0, atol=1e-4)


def test_path_ends_in_a_small_cloud_beside_the_star(classic):
    last = classic[-1000:]
    offset = np.linalg.norm(last.mean(axis=0) - least_squares())
    radius = np.linalg.norm(last - last.mean(axis=0), axis=1)
    assert 5e-5 < radius.mean() < 1e-3
    assert radius.mean() < 2 * offset < 1e-3
    for batch in lesson("order")[0]:
        slope = 2 * TABLE[batch].T @ (TABLE[batch] @ least_squares() - Y[batch]) / 2
        assert np.abs(slope).max() > 1e-2
    full = 2 * TABLE.T @ (TABLE @ least_squares() - Y) / 6
    assert_close(full, np.zeros(2), rtol=0, atol=1e-12)


def test_smaller_rate_makes_a_smaller_cloud():
    spreads = []
    for lr in [0.1, 0.01]:
        theta, walked = least_squares(), []
        for batch in lesson("order").reshape(-1, 2):
            residual = TABLE[batch] @ theta - Y[batch]
            theta = theta - lr * 2 * TABLE[batch].T @ residual / 2
            walked.append(theta)
        walked = np.array(walked[6000:])
        spreads.append(np.linalg.norm(walked.std(axis=0)))
    assert spreads[1] < spreads[0] / 2


def test_surface_is_the_loss():
    grid, ws, bs = lesson("grid"), lesson("ws"), lesson("bs")
    for i, j in [(0, 0), (3, 70), (90, 51)]:
        expected = loss(np.array([ws[j], bs[i]]))
        assert_close(grid[i, j], expected, rtol=1e-12, atol=0)


def test_classic_comparison_after_100_epochs(classic):
    for label in ["classic, epoch 100  w", "here, epoch 100     w"]:
        assert_close(printed(label)[0], classic[100].tolist(), rtol=0, atol=1e-12)


def test_exercise_1():
    w, b = 1.5, 1.3
    step = 1e-7
    slopes = [
        (np.abs(TABLE @ up - Y).mean() - np.abs(TABLE @ down - Y).mean()) / (2 * step)
        for up, down in [
            (np.array([w + step, b]), np.array([w - step, b])),
            (np.array([w, b + step]), np.array([w, b - step])),
        ]
    ]
    assert_close(
        list(lesson("absolute_gradient")(w, b, X, Y)), slopes, rtol=0, atol=1e-6
    )
    assert_close(
        printed("exercise 1: at w = 1.5, b = 1.3:")[0], slopes, rtol=0, atol=5e-5
    )


def test_exercise_2_is_momentum_of_torch():
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        (torch.tensor(TABLE) @ theta - torch.tensor(Y)).square().mean().backward()
        optimizer.step()
    found = printed("exercise 2: after 20 steps w")[0]
    assert_close(found, theta.tolist(), rtol=0, atol=5e-5)


def test_exercise_3_in_closed_form():
    values, vectors = np.linalg.eigh(2 * TABLE.T @ TABLE / 6)
    start = vectors.T @ (np.ones(2) - least_squares())
    for lr, steps in [(0.01, 12000), (lesson("fast_lr"), 500)]:
        expected = least_squares() + vectors @ ((1 - lr * values) ** steps * start)
        found = lesson("full_batch")(lr, steps)
        assert_close(found, expected, rtol=0, atol=1e-11)
    assert lesson("fast_lr") < 2 / values[1]
    assert printed("exercise 3: distance") == [[2.5e-04, 2.1e-06]]


def test_exercise_4_against_a_loop():
    orders = lesson("orders").reshape(200, 600, 2).numpy()
    for k in [0, 19, 199]:
        theta = least_squares()
        for batch in orders[k]:
            residual = TABLE[batch] @ theta - Y[batch]
            theta = theta - 0.05 * 2 * TABLE[batch].T @ residual / 2
        assert_close(lesson("ends")[k].numpy(), theta, atol=1e-12, rtol=0)
    offsets = lesson("ends").numpy() - least_squares()
    spread = np.linalg.norm(offsets.std(axis=0))
    off = np.linalg.norm(offsets.mean(axis=0))
    found = printed("exercise 4: spread of the ends")[0]
    assert_close(found, [spread, off], rtol=0, atol=5e-6)


def test_exercise_4_runs_long_enough_to_fill_the_cloud():
    theta, rng = np.tile(least_squares(), (400, 1)), np.random.default_rng(3)
    found = {}
    for epoch in range(1, 1001):
        orders = rng.random((400, 6)).argsort(axis=1)
        for batch in orders.reshape(400, 3, 2).swapaxes(0, 1):
            residual = theta[:, :1] * X[batch] + theta[:, 1:] - Y[batch]
            slopes = [2 * (residual * X[batch]).mean(1), 2 * residual.mean(1)]
            theta = theta - 0.05 * np.stack(slopes, axis=1)
        offsets = theta - least_squares()
        mean = np.linalg.norm(offsets.mean(axis=0))
        found[epoch] = np.linalg.norm(offsets.std(axis=0)), mean
    for epochs in [200, 1000]:
        shown = printed("exercise 4: spread of the ends")[0]
        assert_close(shown, list(found[epochs]), rtol=0.2, atol=0)
