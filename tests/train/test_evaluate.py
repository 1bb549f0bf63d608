# SPDX-License-Identifier: Apache-2.0
"""Evaluation counts every sample once, whatever the batch size."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from functorch_lab import losses, metrics, train
from functorch_lab.transforms import disable_jit

X = torch.linspace(-1.5, 4.5, 33).sin().reshape(11, 3)
Y = torch.arange(11) * 5 // 2 % 3
W = torch.linspace(0.5, 3.5, 9).cos().reshape(3, 3)


def want() -> torch.Tensor:
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for true, predicted in zip(Y, (X @ W).argmax(-1), strict=True):
        counts[true, predicted] += 1
    return counts


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_equals_a_loop_over_samples(batch_size: int) -> None:
    evaluate = train.make_evaluate(
        lambda params, x: x @ params["w"],
        {"accuracy": metrics.accuracy(), "confusion": metrics.confusion_matrix(3)},
        batch_size=batch_size,
    )
    counts = want()
    found = evaluate({"w": W}, X, Y)
    assert found["confusion"].long().tolist() == counts.tolist()
    assert_close(
        found["accuracy"].item(), counts.trace().item() / 11, rtol=1e-6, atol=0
    )


def test_a_function_stands_for_its_mean_over_the_samples() -> None:
    evaluate = train.make_evaluate(
        lambda w, x: x @ w, {"loss": losses.cross_entropy}, batch_size=4
    )
    each = torch.nn.functional.cross_entropy(X @ W, Y, reduction="none")
    assert_close(
        evaluate(W, X, Y)["loss"].item(), sum(each.tolist()) / 11, rtol=1e-6, atol=0
    )


def test_takes_any_tree_for_params() -> None:
    evaluate = train.make_evaluate(
        lambda both, x: x @ both[0] + both[1], {"accuracy": metrics.accuracy()}
    )
    found = evaluate((W, torch.tensor([9.0, -2.0, 3.0])), X, Y)
    assert_close(found["accuracy"].item(), (Y == 0).float().mean().item())


def test_refuses_settings_and_data() -> None:
    some: Any = {"accuracy": metrics.accuracy()}
    with pytest.raises(ValueError, match="metrics: expected at least one, got none"):
        train.make_evaluate(lambda w, x: x @ w, {})
    for wrong in ({"accuracy": metrics.accuracy}, {"accuracy": "accuracy"}):
        with pytest.raises(
            TypeError, match=r"metrics\['accuracy'\]: .*Call what makes"
        ):
            train.make_evaluate(lambda w, x: x @ w, wrong)
    with pytest.raises(TypeError, match="metrics: expected metrics by name, got list"):
        train.make_evaluate(lambda w, x: x @ w, [metrics.accuracy()])  # pyright: ignore
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        train.make_evaluate(lambda w, x: x @ w, some, batch_size=0)
    with pytest.raises(TypeError, match="batch_size: expected an int, got 2"):
        train.make_evaluate(lambda w, x: x @ w, some, batch_size=2.5)  # pyright: ignore
    evaluate = train.make_evaluate(lambda w, x: x @ w, some)
    with pytest.raises(ValueError, match="got an empty data set"):
        evaluate(W, X[:0], Y[:0])
    with pytest.raises(ValueError, match="expected 11 rows, as at"):
        evaluate(W, X, Y[1:])
    whole = {"loss": lambda outputs, y: losses.cross_entropy(outputs, y).mean()}
    evaluate = train.make_evaluate(lambda w, x: x @ w, whole)
    text = r"metrics\['loss'\]: expected one value per sample, shape \(11,\), got \(\)"
    with disable_jit(), pytest.raises(ValueError, match=text):
        evaluate(W, X, Y)
