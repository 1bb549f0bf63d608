# SPDX-License-Identifier: Apache-2.0
"""Lesson 10: what it says of hyperparameters and single samples, found another way."""

import io
import math
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import functorch_lab as fl
from course import run


@pytest.fixture(scope="module")
def lesson() -> dict[str, Any]:
    return run("hyperparameters").variables


def module_of(params: Any) -> torch.nn.Sequential:
    linears = [
        (torch.nn.Linear(*layer["weight"].T.shape), layer) for layer in params if layer
    ]
    parts: list[torch.nn.Module] = []
    for linear, layer in linears:
        linear.load_state_dict(layer)
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1])


def trained_alone(
    params: Any, lr: float, momentum: float, x: Any, y: Any, **options: int
) -> tuple[torch.nn.Sequential, list[float]]:
    """One network by torch.nn and torch.optim, on the batches of the lesson."""
    module = module_of(params)
    sgd = torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum)
    losses = []
    for epoch in range(options.get("epochs", 6)):
        key = fl.random.fold_in(fl.random.key(1), epoch)
        for rows in fl.data.epoch(key, len(y), options.get("batch_size", 64)):
            sgd.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(x[rows]), y[rows])
            loss.backward()
            sgd.step()
            losses.append(loss.item())
    return module, losses


def right(module: torch.nn.Module, x: Any, y: Any) -> float:
    with torch.no_grad():
        return (module(x).argmax(1) == y).float().mean().item()


@pytest.mark.parametrize("i", [0, 6, 9])
def test_a_network_of_the_population_is_one_trained_alone(
    lesson: dict[str, Any], i: int
) -> None:
    x, y = fl.data.digits(validation=0.2).train
    lr = 10 ** (-3 + 4 * i / 18)
    assert lesson["lrs"][i].item() == pytest.approx(lr, rel=1e-5)
    module, losses = trained_alone(lesson["start"], lr, 0.9, x, y)
    assert_close(lesson["curves"][i], torch.tensor(losses), rtol=2e-3, atol=2e-4)
    expected = right(module, *fl.data.digits(validation=0.2).validation)
    assert lesson["swept_accuracy"][i].item() == pytest.approx(expected, abs=4e-3)


def test_the_range_of_rates_is_too_small_right_and_too_large(
    lesson: dict[str, Any],
) -> None:
    found = lesson["swept_accuracy"]
    assert found[0] < 0.5
    assert found[-1] < 0.15
    assert 0.02 < lesson["lrs"][lesson["best"]] < 0.2
    assert found[lesson["best"]] > 0.95
    curves = lesson["curves"]
    assert not curves[-1, -1].isfinite() or curves[-1, -1] > 1


def test_seeds_spread_by_more_than_nothing(lesson: dict[str, Any]) -> None:
    found = lesson["seed_accuracy"].tolist()
    mean = sum(found) / 16
    spread = math.sqrt(sum((f - mean) ** 2 for f in found) / 15)
    assert lesson["mean"].item() == pytest.approx(mean, abs=1e-6)
    assert lesson["spread"].item() == pytest.approx(spread, rel=1e-4)
    assert 0.002 < spread < 0.02
    assert f"mean {mean:.4f}, standard deviation {spread:.4f}" in printed()


def printed() -> str:
    return run("hyperparameters").printed


def test_larger_batches_take_fewer_steps_and_larger_rates(
    lesson: dict[str, Any],
) -> None:
    rows = re.findall(r"batch +(\d+): +(\d+) steps, best lr ([\d.]+)", printed())
    assert [int(size) for size, _, _ in rows] == [16, 64, 256]
    assert [int(steps) for _, steps, _ in rows] == [
        6 * (1078 // size) for size in (16, 64, 256)
    ]
    rates = [float(rate) for _, _, rate in rows]
    assert rates == sorted(rates)
    assert rates[0] < rates[2]


def test_shapes_have_the_printed_sizes_and_accuracies(lesson: dict[str, Any]) -> None:
    for hidden in lesson["shapes"]:
        sizes = [64, *hidden, 10]
        count = sum((a + 1) * b for a, b in pairwise(sizes))
        assert re.search(rf"hidden {re.escape(str(hidden))} +{count} para", printed())
    found = lesson["shape_accuracy"]
    assert found["[4]"] < 0.9
    assert found["[16, 16, 16, 16]"] < 0.9
    usual = [found[s] for s in ("[]", "[16]", "[64]", "[16, 16]", "[64, 64]")]
    assert min(usual) > 0.92
    assert max(usual) - min(usual) < 0.04


def test_the_searches_try_what_they_say(lesson: dict[str, Any]) -> None:
    grid = [(10**a, b) for a in (-3, -2.25, -1.5, -0.75, 0) for b in range(5)]
    expected = torch.tensor([[lr, 0.24 * m] for lr, m in grid])
    found = torch.stack([lesson["grid_lr"], lesson["grid_momentum"]], dim=1)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(lesson["random_lr"].unique()) == 25
    assert 1e-3 <= lesson["random_lr"].min() < lesson["random_lr"].max() <= 1
    assert "5 learning rates tried" in printed()
    assert "25 learning rates tried" in printed()


def test_the_chosen_network_is_tested_once(lesson: dict[str, Any]) -> None:
    i = int(lesson["search_accuracy"].argmax())
    x, y = fl.data.digits(validation=0.2).train
    lr, momentum = lesson["search_lr"][i].item(), lesson["search_momentum"][i].item()
    module, _ = trained_alone(lesson["start"], lr, momentum, x, y)
    expected = right(module, *fl.data.digits().test)
    assert lesson["test_accuracy"].item() == pytest.approx(expected, abs=6e-3)


def test_each_samples_gradient_is_that_of_a_backward_pass(
    lesson: dict[str, Any],
) -> None:
    module = module_of(lesson["params"])
    x = fl.data.digits(validation=0.2).train[0]
    for i in (0, 7, *lesson["order"][:3].tolist()):
        module.zero_grad()
        y = lesson["y_spoiled"][i : i + 1]
        torch.nn.functional.cross_entropy(module(x[i : i + 1]), y).backward()
        square = sum(
            (p.grad**2).sum() for p in module.parameters() if p.grad is not None
        )
        assert lesson["norms"][i].item() == pytest.approx(math.sqrt(square), rel=1e-4)


def test_long_gradients_find_wrong_labels(lesson: dict[str, Any]) -> None:
    wrong = (lesson["y_spoiled"] != lesson["y"]).nonzero().flatten().tolist()
    assert sorted(wrong) == sorted(lesson["planted"].tolist())
    longest = sorted(range(1078), key=lambda i: -lesson["norms"][i].item())[:54]
    found = len(set(longest) & set(wrong))
    assert found == lesson["found_wrong"]
    assert found > 40
    assert f"wrong labels among the 54 longest gradients: {found}" in printed()


def test_the_last_bias_has_p_minus_onehot(lesson: dict[str, Any]) -> None:
    module = module_of(lesson["params"])
    x = fl.data.digits(validation=0.2).train[0]
    with torch.no_grad():
        expected = torch.softmax(module(x), dim=1)
    expected[torch.arange(1078), lesson["y_spoiled"]] -= 1
    assert_close(lesson["grads"][2]["bias"], expected, rtol=1e-4, atol=1e-5)
    assert 1.3 < expected.norm(dim=1).max() <= math.sqrt(2)


def test_hard_samples_are_mistaken_and_easy_ones_are_not(
    lesson: dict[str, Any],
) -> None:
    seen = lesson["p"].argmax(1)
    assert (seen[lesson["hard"]] != lesson["y"][lesson["hard"]]).sum() >= 5
    assert (seen[lesson["easy"]] == lesson["y"][lesson["easy"]]).all()


def test_figures_are_not_empty() -> None:
    for file in run("hyperparameters").figures.values():
        colours = Image.open(io.BytesIO(file)).convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 50
