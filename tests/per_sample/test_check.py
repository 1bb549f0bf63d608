# SPDX-License-Identifier: Apache-2.0
"""`check` finds wrong gradients, `check_independent` finds samples that mix."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab import per_sample
from functorch_lab.per_sample import _tape, _uses

X = torch.linspace(-1.5, 2.5, 70).reshape(7, 2, 5)
PARAMS = {
    "b": torch.tensor([0.3, -0.7, 0.5]),
    "w": torch.linspace(0.2, 1.7, 15).reshape(3, 5),
}


def loss_fn(params: Any, x: Tensor) -> Tensor:
    return F.linear(x, params["w"], params["b"]).tanh().square().sum()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.05)],
    ids=str,
)
def test_right_gradients_pass(dtype: torch.dtype, tolerance: float) -> None:
    params = fl.tree.cast(PARAMS, dtype)
    result = per_sample.check(loss_fn)(params, X.to(dtype))
    assert result.tolerances == {"['b']": tolerance, "['w']": tolerance}
    assert all(0 <= error <= tolerance for error in result.grads.values())
    assert all(0 <= error <= tolerance for error in result.norms.values())
    assert str(result).splitlines()[1].startswith("['b']  ")


def test_a_wrong_rule_is_found_with_its_leaf(monkeypatch) -> None:
    right = _tape.RULES["linear"]

    def forgetful(tape: Any, x: Tensor, weight: Tensor, bias: Any = None) -> Any:
        return right(tape, 1.001 * x, weight, bias)

    monkeypatch.setitem(_tape.RULES, "linear", forgetful)
    with pytest.raises(AssertionError, match=r"check: loss_fn: params\['"):
        per_sample.check(loss_fn)(PARAMS, X)
    per_sample.check(loss_fn, tolerance=0.05)(PARAMS, X)


def test_a_wrong_norm_is_found(monkeypatch) -> None:
    right = _uses.DensePair.squared_norm
    monkeypatch.setattr(_uses.DensePair, "squared_norm", lambda use: 1.001 * right(use))
    with pytest.raises(
        AssertionError,
        match=r"params\['w'\]: expected the norm .* relative error of 5\.0e-04",
    ):
        per_sample.check(loss_fn)(PARAMS, X)


def test_what_is_not_finite_is_an_error() -> None:
    spoiled = X.clone()
    spoiled[2] = torch.nan
    with pytest.raises(AssertionError, match="error of nan at sample 2"):
        per_sample.check(loss_fn)(PARAMS, spoiled)


def test_a_gradient_of_rounding_alone_passes() -> None:
    def shifted(params: Any, x: Tensor) -> Tensor:  # softmax forgets the shift
        scores = F.linear(x, params["w"]) + params["shift"]
        return (scores.softmax(-1) * x[..., :3]).sum()

    params = {"shift": torch.tensor(0.7), "w": PARAMS["w"]}
    per_sample.check(shifted)(params, X)


def test_unused_leaves_integers_keys_and_aux() -> None:
    def noisy(params: Any, x: Tensor, *, key: Tensor) -> Any:
        return loss_fn(params, x + fl.random.normal(key, (1, 2, 5))), x

    params = {**PARAMS, "steps": torch.tensor(3), "unused": torch.tensor([0.5, 2.5])}
    check = per_sample.check(noisy, has_aux=True, keep_batch_axis=True, wrt="[!s]*")
    result = check(params, X, keys=fl.random.split(fl.random.key(3), 7))
    assert result.grads["['unused']"] == 0
    assert set(result.grads) == {"['b']", "['unused']", "['w']"}


def moments(w: Tensor, x: Tensor) -> Tensor:
    z = x @ w
    return (z - z.mean(0)) / (z.std(0) + 0.3)


def contrast(w: Tensor, x: Tensor) -> Tensor:
    z = F.normalize(x @ w, dim=1)
    return F.cross_entropy(z @ z.T, torch.arange(len(x)), reduction="none")


def balance(w: Tensor, x: Tensor) -> Tensor:
    gates = (x @ w).softmax(1)
    return gates.square().sum(1) + (gates.mean(0) ** 2).sum()


_GENERATOR = torch.Generator().manual_seed(5)
W = torch.randn(5, 3, generator=_GENERATOR)
ROWS = torch.randn(7, 5, generator=_GENERATOR)


@pytest.mark.parametrize("mixing", [moments, contrast, balance])
def test_mixing_is_found(mixing: Any) -> None:
    result = per_sample.check_independent(mixing)(W, ROWS)
    assert not result.independent
    every = {(i, j) for i in range(7) for j in range(7) if i != j}
    assert set(result.pairs) == every
    assert "The samples mix: 42 pairs, at output itself" in str(result)


def test_batch_norm_in_training_and_in_evaluation() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    layer, params, state = fl.nn.from_module(module)
    for train in (True, False):
        check = per_sample.check_independent(
            lambda params, x, train=train: layer.apply(params, state, x, train=train)[0]
        )
        assert check(params, ROWS).independent is not train


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_independent_functions_pass(size: int) -> None:
    def independent(w: Tensor, x: Tensor, y: Tensor) -> Any:
        losses = F.cross_entropy(x @ w, y, reduction="none")
        return {"losses": losses, "label": y}

    batch = ROWS[:size], torch.arange(size) % 3
    result = per_sample.check_independent(independent)(W, *batch)
    assert result.independent
    assert str(result).startswith("The samples are independent")


@pytest.mark.parametrize("pair", [(0, 6), (6, 0), (2, 3), (5, 1), (4, 6)])
def test_one_pair_is_found_and_its_output_named(pair: tuple[int, int]) -> None:
    source, target = pair

    def leaking(w: Tensor, x: Tensor, y: Tensor) -> Any:
        z = (x @ w).square()
        leak = torch.zeros_like(z).index_add(0, torch.tensor([target]), z[[source]])
        return {"clean": y, "mixed": z + 0.01 * leak}

    result = per_sample.check_independent(leaking)(W, ROWS, torch.arange(7))
    assert result.pairs == (pair,)
    assert result.paths == ("['mixed']",)


def test_integers_that_mix_are_found() -> None:
    def ranks(w: Tensor, ids: Tensor) -> Tensor:
        return ids.argsort().argsort()

    result = per_sample.check_independent(ranks)(W, torch.tensor([5, 2, 7, 3, 11]))
    assert not result.independent


def test_independent_bad_input() -> None:
    check = per_sample.check_independent
    with pytest.raises(TypeError, match="batch_fn: expected a function, got float"):
        check(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        check(contrast)(W, ROWS[:1])
    with pytest.raises(ValueError, match=r"output\['m'\]: .* not their mean"):
        check(lambda w, x: {"m": (x @ w).mean()})(W, ROWS)
    with pytest.raises(TypeError, match=r"output: expected a tensor .* got float"):
        check(lambda w, x: 0.5)(W, ROWS)
    with pytest.raises(ValueError, match="leading axes of one size, got 7"):
        check(contrast)(W, ROWS, torch.arange(5))
    with pytest.raises(RuntimeError, match="the same outputs for the same batch"):
        check(lambda w, x: F.dropout(x @ w))(W, ROWS)
    with pytest.raises(RuntimeError, match="Call it outside"):
        fl.grad(lambda w: check(contrast)(w, ROWS))(W)
