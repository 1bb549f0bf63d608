# SPDX-License-Identifier: Apache-2.0
"""Variance and second moment: precision, corrections, and what they cost."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import per_sample
from functorch_lab.per_sample import _blocks
from per_sample_cases import by_path
from per_sample_losses import (
    COUNT,
    batch,
    draw,
    gradients,
    loss_fn,
    mlp_loss_fn,
    mlp_params,
    params,
)


def linear(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of a sample is `y x^T`, summed over positions."""
    return (F.linear(x, w) * y).sum()


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_that_dominates_leaves_digits(positions, chunk_size, dtype):
    # The mean is a thousand times the deviation: its square takes six digits.
    x = (1 + 1e-3 * draw(11, positions, 3, seed=1)).to(dtype)
    y = (2 + 1e-3 * draw(11, positions, 5, seed=2)).to(dtype)
    got = per_sample.variance(linear, chunk_size=chunk_size)(
        draw(5, 3, seed=3).to(dtype), x, y
    )
    grads = torch.einsum("btr,btc->brc", y.double(), x.double())
    # With more positions each gradient is rounded before its mean is subtracted.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3 if positions == 2 else 1e-5
    assert_close(got.double(), grads.var(0), rtol=tolerance, atol=0)
    assert got.dtype == dtype


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_the_correction_is_that_of_torch(correction):
    got = per_sample.variance(mlp_loss_fn, correction=correction)(
        mlp_params(), draw(COUNT, 3, seed=8)
    )
    grads = gradients(mlp_loss_fn, mlp_params(), (draw(COUNT, 3, seed=8),))
    expected = {p: leaf.var(0, correction=correction) for p, leaf in grads.items()}
    assert_close(by_path(got), expected, rtol=1e-12, atol=1e-13)


def test_too_few_samples_are_no_number():
    w, x, y = draw(5, 3, seed=1), draw(3, 1, 3, seed=2), draw(3, 1, 5, seed=3)
    for mask in ([True, False, False], [False, False, False]):
        got = per_sample.variance(linear)(w, x, y, mask=torch.tensor(mask))
        assert got.isnan().all()
    masked = torch.zeros(3, dtype=torch.bool)
    moment = per_sample.second_moment(linear)(w, x, y, mask=masked)
    assert_close(moment, torch.zeros(5, 3).double())


@pytest.mark.parametrize("numbers", [1, 34, 2**24])
def test_blocks_of_samples_add_up(numbers, monkeypatch):
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    mask = torch.tensor([True, False, True, True, True, False, True])
    real = tuple(leaf[mask] for leaf in batch())
    grads = gradients(loss_fn, params(), real)
    got = per_sample.variance(loss_fn)(params(), *batch(), mask=mask)
    expected = {path: leaf.var(0) for path, leaf in grads.items()}
    assert_close(by_path(got), expected, rtol=1e-11, atol=1e-13)
    moment = per_sample.second_moment(loss_fn)(params(), *batch(), mask=mask)
    expected = {path: leaf.square().mean(0) for path, leaf in grads.items()}
    assert_close(by_path(moment), expected, rtol=1e-11, atol=1e-13)


def test_no_gradient_is_formed_for_one_position(monkeypatch):
    def never(self: Any) -> Any:
        raise AssertionError("formed")

    monkeypatch.setattr(per_sample.Factor, "materialized_blocks", never)
    w, x, y = draw(5, 3, seed=1), draw(3, 1, 3, seed=2), draw(3, 1, 5, seed=3)
    moment = per_sample.second_moment(linear)(w, x, y)
    assert_close(moment, torch.einsum("btr,btc->brc", y, x).square().mean(0))
    per_sample.variance(linear)(w.float(), x.float(), y.float())
    with pytest.raises(AssertionError, match="formed"):  # float64 has no wider sum
        per_sample.variance(linear)(w, x, y)


def test_a_table_is_not_formed_for_each_sample(monkeypatch):
    def never(self: Any) -> Any:
        raise AssertionError("formed")

    monkeypatch.setattr(per_sample.Factor, "materialized_blocks", never)

    def looked_up(table: Tensor, index: Tensor) -> Tensor:
        return F.embedding(index, table).sin().sum()

    table, index = draw(11, 3, seed=1).float(), torch.tensor([[4, 4, 7], [1, 4, 2]])
    grads = torch.zeros(2, 11, 3)
    for i in range(2):
        for row in index[i]:
            grads[i, row] += table[row].cos()
    assert_close(per_sample.second_moment(looked_up)(table, index), (grads**2).mean(0))
    assert_close(per_sample.variance(looked_up)(table, index), grads.var(0))


def test_the_correction_is_checked():
    with pytest.raises(TypeError, match=r"^per_sample\.variance: correction: .* float"):
        per_sample.variance(linear, correction=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"variance: correction: .* got -1\. Pass 1"):
        per_sample.variance(linear, correction=-1)
