# SPDX-License-Identifier: Apache-2.0
"""The recipes train: what they promise is what one run reaches."""

import math
from typing import Any, get_args

import pytest
import torch

from functorch_lab import data, tree
from functorch_lab.recipes import digits


def run(**changes: Any) -> digits.Result:
    return digits.train(digits.Config(**changes), progress=False)


def test_mlp_compiled_reaches_its_accuracy() -> None:
    result = run()
    assert result.accuracy >= 0.96
    assert result.confusion.shape == (10, 10)
    assert int(result.confusion.sum()) == 359
    right = int(result.confusion.trace())
    assert result.accuracy == pytest.approx(right / 359, abs=1e-6)
    losses = [row["loss"] for row in result.history.epochs]
    assert len(losses) == digits.Config().epochs
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_learns_without_a_compiler(model: str) -> None:
    result = run(model=model, epochs=3, compile=False)
    assert result.accuracy > 0.85
    assert int(result.state.step) == 33


def test_the_seed_decides_everything_but_the_split() -> None:
    first, again, other = (run(epochs=1, compile=False, seed=s) for s in (3, 3, 5))
    assert tree.equal(first.state, again.state)
    assert not tree.equal(first.state.params, other.state.params)
    assert torch.equal(first.confusion.sum(1), other.confusion.sum(1))


def test_knows_how_many_samples_there_are() -> None:
    assert len(data.digits().train[0]) == digits.SAMPLES
    assert list(get_args(digits.Model)) == list(digits.MODELS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"model": "ccn"},
            "model: expected one of mlp, cnn, got ccn. Did you mean cnn",
        ),
        ({"device": "gpu"}, "got gpu. Did you mean cuda"),
        ({"lr": math.nan}, "lr: expected a finite number > 0, got nan"),
        ({"lr": -0.1}, "lr: expected a finite number > 0, got -0.1"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": 1439}, r"batch_size: expected 1 .. 1438 .*, got 1439. Choose"),
    ],
)
def test_refuses_settings(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"recipes.digits: .*{text}"):
        run(**change)


def test_refuses_a_batch_larger_than_the_data() -> None:
    with pytest.raises(ValueError, match=r"expected 1 \.\. 1438 .*got 1439"):
        run(batch_size=1439)


def test_refuses_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"that is present \(.*cpu\), got cuda"):
        run(device="cuda")


def test_stops_when_the_loss_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match=r"at step .*Lower lr"):
        run(lr=1e38, epochs=3, compile=False)
