# SPDX-License-Identifier: Apache-2.0
"""Lesson 9: its networks trained by torch.nn, its metrics by scikit-learn."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import linear_model
from sklearn import metrics as sk
from torch.testing import assert_close

import functorch_lab as fl
from course import run

EACH: Any = None  # scikit-learn: one score for each class; its stubs forbid it


@pytest.fixture(scope="module")
def lesson() -> dict[str, Any]:
    return run("generalisation").variables


def printed(*words: str) -> bool:
    """Whether a line has these words, one after the other."""
    lines = [
        " ".join(line.split()) for line in run("generalisation").printed.split("\n")
    ]
    return any(" ".join(words) in line for line in lines)


def linear_module(params: Any) -> torch.nn.Sequential:
    """The digits' network without dropout."""
    linears = [torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)]
    for linear, part in zip(linears, (params[1], params[4]), strict=True):
        linear.load_state_dict(part)
    return torch.nn.Sequential(
        torch.nn.Flatten(), linears[0], torch.nn.ReLU(), linears[1]
    )


def pick(tree: Any, *index: int) -> Any:
    return fl.tree.map(lambda leaf: leaf[index], tree)


def test_the_best_of_many_coins_is_no_better_on_new_samples(
    lesson: dict[str, Any],
) -> None:
    assert lesson["validated"].max() >= 0.7
    assert abs(lesson["tested"] - 0.5) < 3 * math.sqrt(0.25 / 50)
    assert printed("training, validation, test: 100 50 50")


@pytest.mark.parametrize("at", [0, 6 * 12 + 4])
def test_a_network_of_the_population_is_one_trained_alone(
    lesson: dict[str, Any], at: int
) -> None:
    width, repeat = lesson["widths"][at // 12], at % 12
    key = fl.random.fold_in(fl.random.split(fl.random.key(4), 12)[repeat], 1)
    slope, place = 4 * fl.random.normal(key, (2, 32))
    hidden, out = torch.nn.Linear(1, width), torch.nn.Linear(width, 1)
    with torch.no_grad():
        hidden.weight.copy_(slope[:width, None])
        hidden.bias.copy_(place[:width])
        out.weight.zero_()
        out.bias.zero_()
    module = torch.nn.Sequential(hidden, torch.nn.Tanh(), out)
    adam = torch.optim.Adam(module.parameters(), lr=0.03)
    x, y = (z[at][:, None] for z in (lesson["x"], lesson["y"]))
    for _ in range(500):
        adam.zero_grad()
        torch.nn.functional.mse_loss(module(x), y).backward()
        adam.step()
    grid = torch.linspace(-1, 1, 50)
    ours = lesson["predict"](pick(lesson["networks"], at), width, grid)
    assert_close(ours, module(grid[:, None])[:, 0].detach(), rtol=0.05, atol=0.05)


def test_errors_part_with_the_width_and_meet_with_the_samples(
    lesson: dict[str, Any],
) -> None:
    seen, new = lesson["seen"], lesson["new"]
    assert (seen.diff() < 0).all()
    best = int(new.argmin())
    assert lesson["widths"][best] in (3, 4, 8)
    assert new[0] > 1.5 * new[best]
    assert new[-1] > 1.1 * new[best]
    assert seen[-1] < 0.09 < new.min()
    assert (lesson["count_seen"].diff() > 0).all()
    assert (lesson["count_new"].diff() < 0).all()
    assert 0.08 < lesson["count_seen"][-1] < 0.09 + 0.005
    assert lesson["count_new"][4] < 1.1 * 0.09  # 6.4 samples per parameter
    assert lesson["count_new"][1] > 2 * 0.09
    assert printed("320 samples, 12.8 per parameter")


def test_early_stopping_keeps_the_lowest_and_waits_for_its_patience(
    lesson: dict[str, Any],
) -> None:
    rows, best = lesson["history"].epochs, lesson["best"]
    errors = [row["error"] for row in rows]
    assert best["error"] == min(errors)
    assert best["epoch"] == 1 + errors.index(min(errors))
    assert len(rows) == best["epoch"] + 20
    assert rows[-1]["loss"] < best["loss"]
    assert errors[-1] > 1.3 * best["error"]
    at = best["params"]
    slope, place = at["hidden"]
    x, y = lesson["x_new"], lesson["y_new"]
    outputs = torch.tanh(torch.outer(x, slope) + place) @ at["height"] + at["level"]
    assert ((outputs - y) ** 2).mean().item() == pytest.approx(best["error"], rel=1e-4)


def sklearn_weights(lesson: dict[str, Any], model: Any) -> torch.Tensor:
    x, y = lesson["x_linear"], lesson["y_linear"]
    fitted = model.fit(x.double().numpy(), y.double().numpy())
    return torch.tensor(fitted.coef_).float()


@pytest.mark.parametrize("at", [6, 10, 14])
def test_l2_is_ridge_and_l1_is_lasso(lesson: dict[str, Any], at: int) -> None:
    strength, weights = float(lesson["strengths"][at]), lesson["weights"]
    ridge = linear_model.Ridge(alpha=60 * strength, fit_intercept=False)
    assert_close(weights["L2"][at], sklearn_weights(lesson, ridge), rtol=0, atol=2e-3)
    lasso = linear_model.Lasso(alpha=strength / 2, fit_intercept=False, tol=1e-9)
    expected = sklearn_weights(lesson, lasso)
    assert_close(weights["L1, threshold"][at], expected, rtol=0, atol=2e-3)
    assert torch.equal(weights["L1, threshold"][at] == 0, expected == 0)
    # The subgradient method stays within its steps, lr * strength, of the solution.
    hovering = weights["L1, gradient"][at]
    assert (hovering - expected).abs().max() < 3 * 0.1 * strength
    assert (hovering == 0).sum() == 0


def test_l1_makes_zeros_and_l2_shrinks(lesson: dict[str, Any]) -> None:
    norms = lesson["weights"]["L2"].norm(dim=1)
    assert (norms.diff() < 0).all()
    assert (lesson["weights"]["L2"] != 0).all()
    errors = {
        name: ((w @ lesson["x_linear_new"].T - lesson["y_linear_new"]) ** 2).mean(1)
        for name, w in lesson["weights"].items()
    }
    best = int(errors["L1, threshold"].argmin())
    zero = lesson["weights"]["L1, threshold"][best] == 0
    assert 35 / 2 < zero[5:].sum() <= 35
    assert not zero[:5].any()
    assert errors["L1, threshold"].min() < errors["L2"].min() < errors["L2"][0]
    assert errors["L1, gradient"].min() == pytest.approx(
        float(errors["L1, threshold"].min()), rel=0.05
    )
    assert printed("exact zeros")


def test_dropout_keeps_the_mean(lesson: dict[str, Any]) -> None:
    dropped = lesson["dropped"]
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=4 * math.sqrt(1 / 3 / 1e4))
    assert printed("in use:", "[1.0,")


def test_dropout_lowers_the_loss(lesson: dict[str, Any]) -> None:
    results = lesson["dropout_results"]
    losses = [float(loss.mean()) for loss, _ in results.values()]
    assert losses[0] > losses[1]
    (_, without), (_, with_) = results[0.0], results[0.5]
    gain = float(with_.mean() - without.mean())
    assert 0 < gain < 2 * float(with_.std())


def test_without_dropout_the_networks_are_those_of_torch_nn(
    lesson: dict[str, Any],
) -> None:
    module = linear_module(pick(lesson["starts"], 2))
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(200):
        adam.zero_grad()
        scores = module(lesson["x_few"])
        torch.nn.functional.cross_entropy(scores, lesson["y_few"]).backward()
        adam.step()
    with torch.no_grad():
        scores = module(lesson["x_valid"])
    loss = torch.nn.functional.cross_entropy(scores, lesson["y_valid"])
    right = (scores.argmax(1) == lesson["y_valid"]).float().mean()
    found = lesson["dropout_results"][0.0]
    assert_close(found[0][2], loss, rtol=0.01, atol=0)
    assert_close(found[1][2], right, rtol=0, atol=0.006)


def test_metrics_are_those_of_scikit_learn(lesson: dict[str, Any]) -> None:
    module = linear_module(lesson["digits_params"])
    with torch.no_grad():
        prediction = module(lesson["x_valid"]).argmax(1)
    y = lesson["y_valid"]
    expected = {
        "accuracy": sk.accuracy_score(y, prediction),
        "confusion": sk.confusion_matrix(y, prediction),
        "precision": sk.precision_score(y, prediction, average=EACH),
        "recall": sk.recall_score(y, prediction, average=EACH),
    }
    for name, value in expected.items():
        for found in (lesson["found"], lesson["by_hand"]):
            got = found[name].numpy()
            np.testing.assert_allclose(got, value, rtol=1e-6, err_msg=name)
    assert expected["accuracy"] > 0.93
    f1 = sk.f1_score(y, prediction, average=EACH)
    np.testing.assert_allclose(lesson["f1_scores"](lesson["confusion"]), f1, rtol=1e-6)


def test_a_fifth_of_a_sample_for_each_parameter(lesson: dict[str, Any]) -> None:
    assert sum(
        p.numel() for p in linear_module(lesson["digits_params"]).parameters()
    ) == (4810)
    assert lesson["per_parameter"] == pytest.approx(898 / 4810)
    assert lesson["never"] == pytest.approx(
        float((lesson["y_valid"] != 8).float().mean())
    )


def test_only_the_shifted_copies_help(lesson: dict[str, Any]) -> None:
    results = lesson["kind_results"]
    loss, accuracy, _ = results["none"]
    assert results["shift"][0] < 0.85 * loss
    assert results["shift"][1] > accuracy + 0.01
    for kind in ("crop", "rotate"):
        assert results[kind][0] > loss
        assert results[kind][1] < accuracy - 0.01
    for kind in ("brightness", "contrast"):
        assert abs(results[kind][1] - accuracy) < 0.01
    for kind in ("crop", "shift"):
        assert results[kind][2] < results[kind][1] - 0.05


def test_shifted_copies_train_a_torch_nn_network_alike(lesson: dict[str, Any]) -> None:
    module = linear_module(pick(lesson["starts"], 1))
    at = list(lesson["kinds"]).index("shift")
    adam = torch.optim.Adam(module.parameters(), lr=0.005)
    for i in range(300):
        adam.zero_grad()
        scores = module(lesson["images"][at, i % 40])
        torch.nn.functional.cross_entropy(scores, lesson["y_few"]).backward()
        adam.step()
    with torch.no_grad():
        expected = module(lesson["x_valid"])
        ours = linear_module(pick(lesson["many"], at, 1))(lesson["x_valid"])
    agree = (ours.argmax(1) == expected.argmax(1)).float().mean()
    assert agree > 0.98


def test_half_of_the_copies_are_moved_by_whole_pixels(lesson: dict[str, Any]) -> None:
    at = list(lesson["kinds"]).index("shift")
    original, copies = lesson["x_few"], lesson["images"][at]
    moved = (copies != original).flatten(2).any(2).float().mean()
    assert moved.item() == pytest.approx(0.5 * 8 / 9, abs=0.03)  # one of 9 is no move
    image = original[2, 0]
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    views = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    for copy_ in copies[:, 2, 0]:
        assert any(torch.equal(copy_, view) for view in views)


def test_forgetting_eval_costs_accuracy(lesson: dict[str, Any]) -> None:
    assert not lesson["model"].training
    model = copy.deepcopy(lesson["model"]).train()
    shares = []
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            right = model(lesson["x_valid"]).argmax(1) == lesson["y_valid"]
        shares.append(right.float().mean().item())
    assert max(shares) < lesson["by_hand"]["accuracy"]


def test_the_vote_of_the_last_exercise_wins(lesson: dict[str, Any]) -> None:
    assert lesson["together"] > lesson["to_beat"]
    assert lesson["to_beat"] == lesson["kind_results"]["shift"][1]
