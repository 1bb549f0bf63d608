# SPDX-License-Identifier: Apache-2.0
"""Lesson 6 against torch.nn with the same draws, closed forms, NumPy, scikit-learn."""

import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.testing import assert_close

import functorch_lab as fl
from course import run

NONLINEAR = ("tanh", "ReLU", "leaky ReLU", "ELU", "maxout")


def lesson(name):
    return run("networks").variables[name]


def printed():
    return run("networks").printed


def rows(label):
    """The numbers behind a label, for each printed line that begins with it."""
    found = re.findall(rf"^ *{re.escape(label)}[: ](.*)$", printed(), re.M)
    assert found, label
    return [[float(v) for v in re.findall(r"-?\d+\.?\d*", line)] for line in found]


def trained(model, x, y, scale=1.0, lr=0.1):
    """The losses of 1000 epochs of gradient descent, by torch.nn."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(1000):
        loss = scale * nn.functional.mse_loss(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def line_losses(weight, bias, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(42)
        x = torch.rand(50, 1)
        y = 2 * x + 3 + 0.05 * torch.randn(50, 1)
        model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, weight)
    nn.init.constant_(model.bias, bias)
    return trained(model, x, y, scale), model, (x, y)


@pytest.fixture(scope="module")
def parabola():
    """Samples, a line and a network drawn one after the other, and their losses."""
    with torch.random.fork_rng():
        torch.manual_seed(42)
        x = torch.rand(100, 1)
        y = (2 * x - 1) ** 2 + 0.1 * torch.rand(100, 1)
        line = nn.Linear(1, 1)
        network = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1))
    return x, y, network, trained(line, x, y), trained(network, x, y)


def test_the_first_printed_loss_of_the_line_is_the_published_one():
    assert "epoch   0: loss 0.783028\n" in printed()
    losses, _, _ = line_losses(-1.0, 5.0)
    assert f"{losses[0]:.6f}" == "0.783028"
    for epoch in range(0, 1000, 100):
        assert_close(
            rows(f"epoch {epoch:3}")[0][0], losses[epoch], rtol=1e-4, atol=2e-6
        )


def test_no_other_reading_of_the_start_gives_the_published_loss():
    for weight, bias, scale in ((5.0, -1.0, 1.0), (5.0, -1.0, 0.5), (-1.0, 5.0, 0.5)):
        losses, _, _ = line_losses(weight, bias, scale)
        assert "0.783028" not in [f"{losses[epoch]:.6f}" for epoch in (0, 99, 100)]


def test_the_fitted_line_is_that_of_torch_and_nearly_the_least_squares_one():
    _, model, (x, y) = line_losses(-1.0, 5.0)
    weight, bias = re.findall(r"fitted: y = (\S+) x \+ (\S+)", printed())[0]
    assert weight == f"{model.weight.item():.4f}"
    assert bias == f"{model.bias.item():.4f}"
    best = np.polyfit(x[:, 0].numpy(), y[:, 0].numpy(), 1)
    assert_close(np.array([float(weight), float(bias)]), best, rtol=0, atol=2e-3)


def test_both_losses_on_the_parabola_are_torchs(parabola):
    _, _, _, line, network = parabola
    table = printed().split("epoch      line     network\n")[1].splitlines()
    for row, epoch in zip(table[:10], range(0, 1000, 100), strict=True):
        number, *found = row.split()
        assert int(number) == epoch
        expected = [line[epoch], network[epoch]]
        assert_close([float(v) for v in found], expected, rtol=1e-3, atol=2e-6)
    for epoch in (0, 100, 200, 900):
        found = rows(f"epoch {epoch:3}")[-1][0]
        assert_close(found, line[epoch], rtol=1e-4, atol=2e-6)
    for losses, name in ((line, "line"), (network, "network")):
        for side in ("here", "classic"):
            (found,) = rows(f"{name:7}  {side:7}")
            expected = [losses[0], losses[100], losses[900]]
            assert_close(found, expected, rtol=1e-3, atol=2e-6)


def test_a_line_is_hardly_better_than_the_mean_and_the_network_nearly_perfect(parabola):
    x, y, _, _, network = parabola
    variance = float(np.var(y.numpy()))
    assert_close(rows("variance of y")[0], [variance], rtol=0, atol=1e-6)
    fit = np.polynomial.Polynomial.fit(x[:, 0].numpy(), y[:, 0].numpy(), 1)
    least = float(np.mean((fit(x[:, 0].numpy()) - y[:, 0].numpy()) ** 2))
    assert_close(float(lesson("bent_losses")[-1]), least, rtol=0, atol=1e-6)
    assert 0.95 * variance < least < variance
    noise = 0.1**2 / 12
    assert_close(rows("variance of the noise")[0], [noise], rtol=0, atol=1e-6)
    assert noise < network[-1] < 1.4 * noise


def test_the_network_overshoots_at_first_and_has_its_kinks_where_torchs_has(parabola):
    x, y, network, _, losses = parabola
    assert_close(
        rows("largest loss of the network")[0], [max(losses)], rtol=2e-3, atol=0
    )
    assert losses.index(max(losses)) < 10
    with torch.random.fork_rng():
        torch.manual_seed(42)
        _ = torch.rand(100, 1), torch.rand(100, 1), nn.Linear(1, 1)
        again = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1))
    calm = trained(again, x, y, lr=0.05)
    assert max(calm) == calm[0] == losses[0]
    weight, bias, *_ = (p.detach() for p in network.parameters())
    kinks = -bias / weight[:, 0]
    share = float(((kinks > 0) & (kinks < 1)).float().mean())
    assert_close(rows("share of kinks in 0 to 1")[0], [share], rtol=0, atol=0.011)


def test_three_layers_without_activation_are_one_matrix():
    layers = [
        {k: v.double().numpy() for k, v in p.items()} for p in lesson("deep_params")
    ]
    weight, bias = np.eye(2), np.zeros(2)
    for layer in layers:
        weight = layer["weight"] @ weight
        bias = layer["weight"] @ bias + layer["bias"]
    one = lesson("one")
    assert_close(one["weight"].double().numpy(), weight, rtol=1e-5, atol=1e-6)
    assert_close(one["bias"].double().numpy(), bias, rtol=1e-5, atol=1e-6)
    assert rows("numbers in three layers and in one") == [
        [(2 + 1) * 5 + (5 + 1) * 7 + (7 + 1) * 3, (2 + 1) * 3]
    ]
    assert "same outputs: True\n" in printed()


def closed_forms(z):
    """Value and derivative of each activation, in NumPy."""
    s, t = 1 / (1 + np.exp(-z)), np.tanh(z)
    on = z > 0
    left = -z - 1 > 0.5 * z
    return {
        "sigmoid": (s, s * (1 - s)),
        "tanh": (t, 1 - t**2),
        "ReLU": (on * z, on * 1.0),
        "leaky ReLU": (np.where(on, z, 0.1 * z), np.where(on, 1.0, 0.1)),
        "ELU": (np.where(on, z, np.expm1(z)), np.where(on, 1.0, np.exp(z))),
        "maxout": (np.where(left, -z - 1, 0.5 * z), np.where(left, -1.0, 0.5)),
    }


def test_activations_and_their_derivatives_are_the_closed_forms():
    z = lesson("z").double().numpy()
    away = np.abs(z) > 1e-3  # at its kink a function has no derivative
    forms = closed_forms(z)
    assert set(forms) == set(lesson("shapes"))
    for name, (value, slope) in forms.items():
        curve, slopes = lesson("curves")[name], lesson("slopes")[name]
        assert_close(curve.double().numpy(), value, rtol=1e-5, atol=1e-6)
        assert_close(slopes.double().numpy()[away], slope[away], rtol=1e-5, atol=1e-5)


def test_the_table_of_activations():
    forms = closed_forms(np.array([-2.0, 2.0]))
    largest = dict.fromkeys(forms, 1.0) | {"sigmoid": 0.25, "maxout": 0.5}
    for name, ((v0, v1), (s0, s1)) in forms.items():
        expected = [v0, s0, v1, s1, largest[name]]
        assert_close(rows(name)[0], [float(v) for v in expected], rtol=0, atol=6e-4)


def test_maxout_takes_the_larger_of_neighbours():
    z = fl.random.normal(fl.random.key(3), (5, 7, 6))
    assert_close(lesson("maxout")(z), torch.maximum(z[..., ::2], z[..., 1::2]))


def test_the_pieces_of_three_relus():
    def f(x):
        units = np.maximum([x + 1, 2 * x - 1, -x], 0)
        return np.array([1.0, -1.5, 0.5]) @ units - 1

    x = np.linspace(-2, 2, 401)
    slopes = np.diff(f(x)) / np.diff(x)
    corners = x[1:-1][np.abs(np.diff(slopes)) > 1e-6]
    assert_close(np.array(rows("kinks")[0]), corners, rtol=0, atol=1e-9)
    between = np.array([-1.5, -0.5, 0.25, 1.25])
    exact = (f(between + 1e-3) - f(between - 1e-3)) / 2e-3
    assert_close(np.array(rows("slopes")[0]), exact, rtol=0, atol=1e-9)
    model, params = lesson("relu_3"), lesson("by_hand")
    outputs = model.apply(params, torch.from_numpy(x).float()[:, None])[:, 0]
    assert_close(outputs.double().numpy(), f(x), rtol=1e-5, atol=1e-6)


def as_module(params, activation):
    """The same network in torch.nn, with a copy of the params."""
    layers = []
    for p in params:
        if not p:
            layers.append(activation)
            continue
        layer = nn.Linear(*reversed(p["weight"].shape))
        layer.load_state_dict(p)
        layers.append(layer)
    return nn.Sequential(*layers)


def with_momentum(module, loss_of, lr, steps):
    """The losses before each of the steps of torch.optim.SGD."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = loss_of(module)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def test_error_falls_with_width_and_training_stays_behind_the_construction():
    x = np.linspace(-1, 1, 64)
    y = np.sin(8 * x) + x**2
    medians = []
    for width in (2, 5, 20, 100):
        best, median, constructed, _, _ = rows(str(width))[-1]
        corners = np.linspace(-1, 1, width + 1)
        pieces = np.interp(x, corners, np.sin(8 * corners) + corners**2)
        exact = float(np.sqrt(np.mean((pieces - y) ** 2)))
        assert_close(constructed, exact, rtol=0, atol=6e-5)
        assert best <= median
        assert width == 2 or best > 2 * constructed
        medians.append(median)
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < medians[0] / 3


def test_a_network_trained_among_five_is_one_trained_alone():
    wide, x, y = lesson("relu_network")(20), lesson("x_wide"), lesson("y_wide")
    errors = []
    for key in fl.random.split(lesson("key_width"), 5):
        module = as_module(wide.init(key), nn.ReLU())
        losses = with_momentum(
            module, lambda m: nn.functional.mse_loss(m(x), y), lr=0.03, steps=400
        )
        errors.append(losses[-1] ** 0.5)
    assert_close(lesson("errors")[20], sorted(errors), rtol=1e-3, atol=0)


def test_about_half_of_the_kinks_are_among_the_data_from_start_to_end():
    for width in (20, 100):
        starts = lesson("relu_network")(width).init
        keys = fl.random.split(lesson("key_width"), 5)
        first = [starts(key)[0] for key in keys]
        places = torch.stack([-p["bias"] / p["weight"][:, 0] for p in first])
        share = float((places.abs() < 1).float().mean())
        before, after = rows(str(width))[-1][-2:]
        assert_close(before, share, rtol=0, atol=0.006)
        assert abs(before - 0.5) < 0.1
        assert abs(after - before) < 0.06


def test_a_relu_that_is_off_for_all_samples_gets_no_gradient():
    hidden, output = nn.Linear(1, 2), nn.Linear(2, 1)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[0.5], [0.7]]))
        hidden.bias.copy_(torch.tensor([-3.0, 0.2]))
    loss = output(torch.relu(hidden(lesson("x_wide")))).square().mean()
    weight, bias, of_output = torch.autograd.grad(
        loss, (hidden.weight, hidden.bias, output.weight)
    )
    for grad in (weight[:, 0], bias, of_output[0]):
        assert grad[0] == 0
        assert grad[1] != 0


def test_what_each_activation_separates():
    tables = {name: rows(name)[-1] for name in ("none", "sigmoid", *NONLINEAR)}
    for name in ("none", "sigmoid"):
        assert max(tables[name][:3]) < 0.65
    for name in NONLINEAR:
        assert min(tables[name][:3]) > 0.9
    for name, shares in lesson("accuracy").items():
        assert_close(tables[name][:3], shares, rtol=0, atol=0.006)


def test_no_straight_line_separates_the_sets():
    for i in range(3):
        fit = LogisticRegression().fit(lesson("x_train")[i], lesson("y_train")[i])
        assert fit.score(lesson("x_test")[i], lesson("y_test")[i]) < 0.6


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_the_three_classifiers_are_those_trained_alone(name):
    activation = {"sigmoid": nn.Sigmoid(), "tanh": nn.Tanh()}[name]
    init = lesson("classifier")(lesson("activations")[name]).init
    firsts = []
    for i, key in enumerate(fl.random.split(lesson("key_regions"), 3)):
        x, y = lesson("x_train")[i], lesson("y_train")[i]

        def loss_of(m, x=x, y=y):
            return nn.functional.binary_cross_entropy_with_logits(m(x)[:, 0], y)

        module = as_module(init(key), activation)
        first = list(module.parameters())[:2]
        grads = torch.autograd.grad(loss_of(module), first)
        firsts.append(float(torch.cat([g.flatten() for g in grads]).norm()))
        with_momentum(module, loss_of, lr=0.3, steps=300)
        right = (module(lesson("x_test")[i])[:, 0] > 0) == (lesson("y_test")[i] > 0.5)
        share = float(right.float().mean())
        assert_close(lesson("accuracy")[name][i], share, rtol=0, atol=0.01)
    mean = sum(firsts) / 3
    assert_close(lesson("first_grads")[name], mean, rtol=1e-3, atol=0)


def test_the_gradient_vanishes_through_sigmoids():
    firsts = {name: rows(name)[-1][-1] for name in ("none", "sigmoid", *NONLINEAR)}
    assert all(firsts["sigmoid"] < firsts[name] / 10 for name in ("none", *NONLINEAR))


def test_exercises():
    z = np.array([-3.0, -0.5, 0.0, 2.0])
    h = 1e-6
    swish = [v / (1 + np.exp(-v)) for v in (z + h, z - h)]
    slopes = (swish[0] - swish[1]) / (2 * h)
    assert_close(rows("exercise 1: slopes")[0], slopes.tolist(), rtol=0, atol=6e-4)
    assert rows("exercise 2: |x| at")[0] == [-7.0, -0.5, 0.0, 3.0, 7.0, 0.5, 0.0, 3.0]
    assert rows("exercise 3")[0][0] > 0.95
    x = np.linspace(-1, 1, 64)
    for width, error in zip((5, 10, 20, 40), rows("exercise 4")[0][1::2], strict=True):
        corners = np.linspace(-1, 1, width + 1)
        pieces = np.interp(x, corners, np.sin(8 * corners) + corners**2)
        exact = float(np.sqrt(np.mean((pieces - np.sin(8 * x) - x**2) ** 2)))
        assert_close(error, exact, rtol=0, atol=6e-5)
