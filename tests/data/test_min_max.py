# SPDX-License-Identifier: Apache-2.0
"""Scaling to an interval, beside scikit-learn's MinMaxScaler."""

import math

import pytest
import torch
from sklearn.preprocessing import MinMaxScaler
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import data


def numbers(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(2.0, 9.0, 35, dtype=dtype).reshape(7, 5).sin() * 3 + 0.7


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 3.0), (0.1, 0.3)])
def test_is_that_of_scikit_learn(low: float, high: float) -> None:
    train, test = numbers()[:5], 2 * numbers()[5:]
    scaler = MinMaxScaler((low, high)).fit(train.numpy())
    found = data.min_max(train, test, low=low, high=high)
    for part, scaled in zip((train, test), found, strict=True):
        expected = torch.from_numpy(scaler.transform(part.numpy()))
        assert_close(scaled, expected, rtol=1e-12, atol=1e-14)
    assert test.max() > train.max()  # so that the test part leaves the interval
    assert found[1].max() > high


def test_the_ends_are_exact() -> None:
    # In float32 0.3 + (0.9 - 0.3) is not 0.9.
    (found,) = data.min_max(numbers(torch.float32), low=0.3, high=0.9)
    assert torch.equal(found.amin(0), torch.full((5,), 0.3))
    assert torch.equal(found.amax(0), torch.full((5,), 0.9))


def test_a_constant_feature_becomes_low() -> None:
    x = torch.full((7, 1), 0.7, dtype=torch.float64)
    train, test = data.min_max(x, x + 0.5, low=-2.0, high=3.0)
    assert torch.equal(train, torch.full((7, 1), -2.0, dtype=torch.float64))
    scaler = MinMaxScaler((-2.0, 3.0)).fit(x.numpy())
    assert_close(test, torch.from_numpy(scaler.transform(x.numpy() + 0.5)))


def test_keeps_labels_and_structure() -> None:
    x, y = numbers(torch.float32), torch.arange(7)
    before = x.clone()
    (train, labels), (test, _) = data.min_max((x, y), (x + 2, y))
    assert labels is y
    assert train.dtype == torch.float32
    assert (test > train).all()
    assert torch.equal(x, before)
    (found,) = data.min_max({"a": [x]})
    assert torch.equal(found["a"][0], train)


def test_shares_extremes_over_the_given_axes() -> None:
    x = numbers().reshape(5, 7)[:, :6].reshape(5, 3, 2)
    (found,) = data.min_max(x, dims=(0, 2))
    for channel in range(3):
        rows = x[:, channel].reshape(-1, 1)
        expected = MinMaxScaler().fit_transform(rows.numpy())
        assert_close(
            found[:, channel].reshape(-1, 1),
            torch.from_numpy(expected),
            rtol=1e-12,
            atol=1e-14,
        )


def test_refuses_what_standardize_refuses() -> None:
    x = numbers()
    with pytest.raises(ValueError, match=r"data.min_max: others: expected the struct"):
        data.min_max((x, x), x)
    with pytest.raises(ValueError, match=r"data.min_max: train: expected at least on"):
        data.min_max(x[:0])
    with pytest.raises(TypeError, match=r"data.min_max: train at \[1\]: expected a te"):
        data.min_max((x, "a"))
    bad = x.clone()
    bad[2, 3] = math.inf
    with pytest.raises(ValueError, match=r"data.min_max: others\[0\]: .*\(2, 3\)"):
        data.min_max(x, bad)


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (3.0, 2.0), (math.nan, 1.0), (0.3, math.inf)]
)
def test_refuses_an_interval(low: float, high: float) -> None:
    text = f"data.min_max: low: expected a finite number below high, got low = {low} a"
    with pytest.raises(ValueError, match=text):
        data.min_max(numbers(), low=low, high=high)
