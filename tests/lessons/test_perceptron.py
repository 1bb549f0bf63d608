# SPDX-License-Identifier: Apache-2.0
"""Lesson 5 against NumPy, scikit-learn, torch.nn and closed forms."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import SVC
from torch.testing import assert_close

from course import run


@pytest.fixture(scope="module")
def lesson() -> dict[str, Any]:
    return run("perceptron").variables


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """The birds drawn again, one number after the other."""
    generator = torch.Generator().manual_seed(0)
    means = np.repeat([[8.0, 7.0], [5.0, 3.0]], 10, axis=0)
    noise = [torch.randn(10, 2, generator=generator) for _ in range(2)]
    return means + 1.5 * torch.cat(noise).double().numpy(), np.repeat([0.0, 1.0], 10)


def scale(x: np.ndarray) -> np.ndarray:
    return (x - x.min(0)) / (x.max(0) - x.min(0))


def numbers(start: str) -> list[float]:
    """The numbers in the first printed line with this beginning, after it."""
    lines = run("perceptron").printed.splitlines()
    rest = next(line for line in lines if line.startswith(start))[len(start) :]
    for sign in "[](),:":
        rest = rest.replace(sign, " ")
    words = [word for word in rest.split() if word.strip("-")[:1].isdigit()]
    return [float(word) for word in words]


def predicted(params: dict[str, torch.Tensor], x: torch.Tensor) -> np.ndarray:
    w, b = params["w"].double().numpy(), params["b"].double().numpy()
    return x.double().numpy() @ w + b > 0


def logistic(x: np.ndarray, y: np.ndarray, lr: float, steps: int) -> np.ndarray:
    """Gradient descent in float64, with the gradient written out: w, w, b."""
    table, params = np.c_[x, np.ones(len(x))], np.zeros(3)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-table @ params))
        params -= lr * table.T @ (p - y) / len(y)
    return params


def one_tensor(params: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([params["w"], params["b"][None]]).double()


def test_birds_are_those_of_seed_0(lesson, drawn) -> None:
    x, y = drawn
    assert_close(lesson["x"].double(), torch.tensor(x), rtol=1e-6, atol=0)
    assert lesson["y"].tolist() == y.tolist()
    other_way = torch.Generator().manual_seed(0)
    means = torch.tensor([[8.0, 7.0], [5.0, 3.0]])
    again = [
        torch.normal(mean.expand(10, 2), 1.5, generator=other_way) for mean in means
    ]
    assert_close(lesson["x"], torch.cat(again))


def test_counts_and_density(drawn) -> None:
    x, y = drawn
    edges = np.arange(0.0, 13.0, 2.0)
    for feature, name in enumerate(["leg length", "wingspan  "]):
        for kind in range(2):
            values = x[y == kind, feature]
            counts, _ = np.histogram(values, edges)
            density, _ = np.histogram(values, edges, density=True)
            expected = [*counts, *density.round(2)]
            assert numbers(f"{name} label {kind} counts") == pytest.approx(expected)
            assert density.sum() * 2.0 == pytest.approx(1.0)
            np.testing.assert_allclose(density, 0.05 * counts, rtol=1e-12)


def test_thresholds_lie_between_the_means(lesson, drawn) -> None:
    x, y = drawn
    middle = (x[:10].mean(0) + x[10:].mean(0)) / 2
    assert_close(lesson["thresholds"].double(), torch.tensor(middle), rtol=1e-6, atol=0)
    counts = [int(((x[:, i] < middle[i]) == y).sum()) for i in range(2)]
    assert counts == [19, 18]
    for name, threshold, count in zip(
        ["leg length below", "wingspan   below"], middle, counts, strict=True
    ):
        assert numbers(name) == [round(threshold, 2), count, 20]


def test_slopes_of_one_feature_on_the_other(lesson, drawn) -> None:
    x, _ = drawn
    many = lesson["many"].double().numpy()
    parts = {"flamingos": slice(0, 10), "ducks": slice(10, 20), "both": slice(0, 20)}
    slopes = {}
    for name, part in parts.items():
        line = LinearRegression().fit(x[part, :1], x[part, 1])
        large = many[100 * part.start : 100 * part.stop]
        of_large = LinearRegression().fit(large[:, :1], large[:, 1]).coef_[0]
        expected = [line.coef_[0], line.intercept_, len(large), of_large]
        shown = numbers(f"{name:9} slope")
        assert shown == pytest.approx(expected, abs=6e-4)
        slopes[name] = of_large
    # In truth: 0 within a kind, 3 / 4.5 across both.
    assert max(abs(slopes["flamingos"]), abs(slopes["ducks"])) < 0.1
    assert slopes["both"] == pytest.approx(3 / 4.5, abs=0.05)


def test_the_rule_chosen_by_hand(drawn) -> None:
    x, y = drawn
    score = 10 - x[:, 0] - 2 * x[:, 1]
    lines = run("perceptron").printed.splitlines()
    for kind, name in enumerate(["flamingos score", "ducks     score"]):
        at = next(i for i, line in enumerate(lines) if line.startswith(name))
        shown = [[float(v) for v in line.split()[-10:]] for line in lines[at : at + 3]]
        z = score[y == kind]
        for got, want in zip(
            shown, (z, 1.0 * (z > 0), 1 / (1 + np.exp(-z))), strict=True
        ):
            assert got == pytest.approx(list(want), abs=0.0051)
    correct = (score > 0) == y
    assert numbers("by hand:") == [correct.sum(), 20]
    assert correct.sum() == 16
    assert correct[:10].all()
    assert correct.sum() < 18  # what one threshold has right


@pytest.mark.parametrize(
    ("scaled", "passes", "corrections"), [(False, 836, 2116), (True, 81, 161)]
)
def test_perceptron_rule(lesson, drawn, scaled, passes, corrections) -> None:
    x, y = drawn
    x = scale(x) if scaled else x
    w, b, done, corrected, wrong = np.zeros(2), 0.0, 0, 0, 1
    while wrong:
        wrong = 0
        for bird, truth in zip(x, y, strict=True):
            if (bird @ w + b > 0) != truth:
                sign = 1 if truth else -1
                w, b, wrong = w + sign * bird, b + sign, wrong + 1
        done, corrected = done + 1, corrected + wrong
    assert (done, corrected) == (passes, corrections)
    assert numbers(f"{passes} passes,") == pytest.approx(
        [corrections, 20, 20, *w], abs=0.0051
    )
    params = one_tensor(lesson["found" if scaled else "on_raw"])
    assert_close(params, torch.tensor([*w, b]), rtol=1e-4, atol=0)


def test_the_slip_of_scaling(lesson, drawn) -> None:
    x, _ = drawn
    once = (x - x.min()) / x.max()
    twice = (once - once.min()) / once.max()
    versions = {"raw": x, "slip": once, "slip twice": twice, "right": scale(x)}
    for name, values in versions.items():
        ends = [*values.min(0), *values.max(0)]
        assert numbers(f"{name:10} least") == pytest.approx(ends, abs=0.0051)
    assert once.max() < 0.9
    # Twice, it is min-max scaling with one span for all features; and stays so.
    np.testing.assert_allclose(twice, (x - x.min()) / (x.max() - x.min()), rtol=1e-12)
    np.testing.assert_allclose((twice - twice.min()) / twice.max(), twice, rtol=1e-12)
    assert_close(lesson["scaled"], lesson["proper"])
    assert_close(lesson["scaled"].double(), torch.tensor(scale(x)), rtol=0, atol=1e-6)
    least, span = x.min(0), x.max(0) - x.min(0)
    fresh = (lesson["fresh"].double().numpy() - least) / span
    assert numbers("2000 fresh birds:") == pytest.approx(list(fresh.min(0)), abs=0.0051)
    assert fresh.min() < 0
    assert fresh.max() > 1


def test_gradient_of_the_first_step(lesson, drawn) -> None:
    x, y = drawn
    slope = scale(x).T @ (0.5 - y) / 20
    assert_close(lesson["formula"].double(), torch.tensor(slope), rtol=1e-5, atol=0)
    assert numbers("gradient") == pytest.approx([*slope, *slope], abs=6e-5)


def test_training_has_no_end_on_separable_birds(lesson, drawn) -> None:
    x, y = drawn
    x = scale(x)
    sizes, losses = [], []
    for steps in (100, 1000, 3000):
        params = logistic(x, y, 5.0, steps)
        score = x @ params[:2] + params[2]
        losses.append(np.log1p(np.exp(-score * (2 * y - 1))).mean())
        sizes.append(np.linalg.norm(params[:2]))
        wrong = ((score > 0) != y).sum()
        expected = [losses[-1], sizes[-1], wrong]
        assert numbers(f"{steps:4} steps:") == pytest.approx(expected, abs=0.0051)
        assert wrong == (steps == 100)
    assert losses == sorted(losses, reverse=True)
    assert sizes == sorted(sizes)
    assert_close(
        one_tensor(lesson["logistic"]), torch.tensor(params), rtol=1e-4, atol=0
    )
    # Separable: the hard-margin machine finds a line without a mistake.
    assert SVC(C=1e10, kernel="linear").fit(x, y).score(x, y) == 1.0


def test_the_penalised_rule_is_that_of_scikit_learn(lesson, drawn) -> None:
    x, y = drawn
    model = LogisticRegression(C=1 / (0.01 * 20), tol=1e-10).fit(scale(x), y)
    expected = torch.tensor([*model.coef_[0], *model.intercept_])
    assert_close(one_tensor(lesson["penalised"]), expected, rtol=1e-4, atol=0)
    for start in ("here    w", "classic w"):
        assert numbers(start) == pytest.approx(expected.tolist(), abs=6e-4)
    assert_close(lesson["net"].weight[0].detach(), lesson["penalised"]["w"])
    assert (predicted(lesson["penalised"], lesson["scaled"]) == y).sum() == 19
    losses = {
        name: float(lesson["loss"](params, lesson["scaled"], lesson["y"]))
        for name, params in lesson["rules"].items()
    }
    assert min(losses, key=lambda name: losses[name]) == "logistic"


def test_what_the_rules_are_worth_on_fresh_birds(lesson) -> None:
    y = np.repeat([0, 1], 1000)
    assert lesson["fresh_y"].tolist() == y.tolist()
    worth = {}
    for name, params in lesson["rules"].items():
        worth[name] = (predicted(params, lesson["fresh_scaled"]) == y).mean()
        assert numbers(f"{name:14}") == pytest.approx([worth[name]], abs=6e-4)
    assert min(worth, key=lambda name: worth[name]) == "logistic"
    assert worth["with a penalty"] > worth["logistic"]
    best = ndtr(5 / (2 * 1.5))  # 5 is the distance of the means
    assert numbers("best line") == pytest.approx([best], abs=6e-4)
    assert max(worth.values()) < best


def test_three_scores(lesson) -> None:
    z = np.array([0.1 + 0.5 + 0.5, 1.05 - 1.3 - 0.2, -1.5 - 2.2 + 4.1])
    assert_close(lesson["z"].double(), torch.tensor(z), rtol=1e-5, atol=0)
    assert numbers("scores") == pytest.approx([1.1, -0.45, 0.4, 0])
    sigmoid = 1 / (1 + np.exp(-z))
    assert numbers("one versus all   ") == pytest.approx(
        [*sigmoid, sigmoid.sum(), 0], abs=6e-5
    )
    slips = {
        "softmax  ": np.exp(z),
        "slip: exp(-z)": np.exp(-z),
        "slip: minus lost": np.exp(np.abs(z)),
    }
    shares = {}
    for name, values in slips.items():
        shares[name] = values / values.sum()
        expected = [*shares[name], 1, values.argmax()]
        assert numbers(name) == pytest.approx(expected, abs=6e-5)
    assert shares["slip: exp(-z)"].argmax() == z.argmin()
    twice = shares["slip: minus lost"][1] / shares["softmax  "][1]
    assert twice == pytest.approx(2, abs=0.1)


def trained_in_classic_torch(lesson: dict[str, Any], *, softmax: bool) -> torch.Tensor:
    """The three-kind rule by torch.nn and torch.optim: weight and bias, (3, 3)."""
    net = torch.nn.Linear(2, 3)
    with torch.no_grad():
        net.weight.copy_(lesson["start"]["weight"])
        net.bias.copy_(lesson["start"]["bias"])
    sgd = torch.optim.SGD(net.parameters(), lr=2.0)
    target = torch.eye(3).repeat_interleave(10, 0)
    for _ in range(500):
        sgd.zero_grad()
        if softmax:
            loss = torch.nn.CrossEntropyLoss()(net(lesson["three"]), target)
        else:
            loss = 3 * torch.nn.BCEWithLogitsLoss()(net(lesson["three"]), target)
        loss.backward()
        sgd.step()
    return torch.cat([net.weight, net.bias[:, None]], 1).detach()


@pytest.mark.parametrize(
    ("name", "shown"), [("by_versus", "one versus all 2"), ("by_softmax", "softmax   ")]
)
def test_three_kinds_are_trained_as_by_classic_torch(lesson, name, shown) -> None:
    expected = trained_in_classic_torch(lesson, softmax=name == "by_softmax")
    params = lesson[name]
    got = torch.cat([params["weight"], params["bias"][:, None]], 1)
    assert_close(got, expected, rtol=1e-3, atol=1e-3)
    x = np.c_[lesson["three"].numpy(), np.ones(30)]
    labels = (x @ expected.numpy().T).argmax(1)
    correct = int((labels == np.repeat([0, 1, 2], 10)).sum())
    assert f"{shown.rstrip('2'):15}{correct} of 30 right" in run("perceptron").printed


def test_argmax_along_the_wrong_axis(lesson) -> None:
    scores = lesson["scores"].numpy()
    assert scores.shape == (30, 3)
    assert numbers("thirty birds: torch.Size([30]) but argmax(0)") == [
        *scores.argmax(0)
    ]
    few = scores[[20, 1, 11]]
    assert few.argmax(1).tolist() == [2, 0, 1]
    # What has the shape of labels, and is wrong for every bird.
    assert few.argmax(0).tolist() == [1, 2, 0]
    shown = [v for v in run("perceptron").printed.splitlines() if "three birds" in v]
    assert "tensor([2, 0, 1])" in shown[0]
    assert shown[0].endswith("argmax(0) tensor([1, 2, 0])")


def test_threshold_of_the_first_exercise(lesson, drawn) -> None:
    x, y = drawn
    for feature in range(2):
        tried = np.linspace(x.min() - 1, x.max() + 1, 5001)
        best = ((x[:, feature] < tried[:, None]) == y).sum(1).max()
        found = lesson["threshold"](lesson["x"][:, feature], lesson["y"])
        assert ((x[:, feature] < found.item()) == y).sum() == best
        assert numbers("exercise 1:")[feature] == best


def test_unscaled_rule_of_the_second_exercise(lesson) -> None:
    least = lesson["x"].amin(0).double().numpy()
    span = lesson["x"].amax(0).double().numpy() - least
    x = (lesson["many"].double().numpy() - least) / span
    params = logistic(x, np.repeat([0.0, 1.0], 1000), 5.0, 1000)
    w = params[:2] / span
    assert_close(lesson["unscaled"]["w"].double(), torch.tensor(w), rtol=1e-4, atol=0)
    assert lesson["unscaled"]["b"].item() == pytest.approx(
        params[2] - params[:2] @ (least / span), rel=1e-4
    )
    best = [-3 / 2.25, -4 / 2.25]  # the normal distributions' own log-odds
    assert numbers("exercise 2:") == pytest.approx([*w, *best], abs=0.0051)


def test_widest_street_of_the_third_exercise(lesson, drawn) -> None:
    x, y = drawn
    machine = SVC(C=1e10, kernel="linear").fit(scale(x), y)
    widest = 1 / np.linalg.norm(machine.coef_)
    side = torch.tensor(2 * y - 1)
    margins = []
    for params in (lesson["street"], lesson["found"], lesson["logistic"]):
        score = lesson["scaled"].double() @ params["w"].double() + params["b"].double()
        margins.append(float((score * side).min() / params["w"].double().norm()))
    assert margins[0] == pytest.approx(widest, rel=1e-3)
    assert margins[0] > margins[2] > margins[1]
    assert numbers("exercise 3:") == pytest.approx(margins, abs=6e-5)
