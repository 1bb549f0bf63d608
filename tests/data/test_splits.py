# SPDX-License-Identifier: Apache-2.0
"""Splits by key, and scaling with the training part's numbers."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from functorch_lab import data, random


@given(n=st.integers(5, 40), cut=st.integers(2, 8), seed=st.integers(0, 99))
def test_parts_are_disjoint_and_complete(n: int, cut: int, seed: int) -> None:
    arrays = {"x": torch.arange(n) * 7 + 3, "y": torch.arange(n) + 0.5}
    fractions = (cut / 10, 1 - cut / 10)
    parts = data.split(random.key(seed), arrays, fractions)
    assert [len(part["x"]) for part in parts] == [
        round(n * cut / 10),
        n - round(n * cut / 10),
    ]
    rows = torch.cat([part["x"] for part in parts]).sort().values
    assert torch.equal(rows, arrays["x"])
    for part in parts:  # leaves stay together
        assert_close(part["y"] * 7 - 0.5 * 7 + 3, part["x"].float(), rtol=0, atol=0)


def test_split_is_a_function_of_the_key() -> None:
    rows = torch.arange(30)
    first = data.split(random.key(3), rows, (0.5, 0.3, 0.2))
    again = data.split(random.key(3), rows, (0.5, 0.3, 0.2))
    other = data.split(random.key(5), rows, (0.5, 0.3, 0.2))
    assert [len(part) for part in first] == [15, 9, 6]
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], rows[:15])


@pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (1.5, -0.5), (0.7, 0.2)])
def test_split_refuses_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive shares that add up to 1, got"):
        data.split(random.key(3), torch.arange(7), fractions)


@pytest.mark.parametrize("fractions", [1.5, "0.5", ("0.8", "0.2")])
def test_split_refuses_what_is_no_sequence_of_numbers(fractions: Any) -> None:
    with pytest.raises(TypeError, match=r"data.split: fractions: .* got .*Give e.g."):
        data.split(random.key(3), torch.arange(7), fractions)


def test_split_refuses_empty_parts_and_ragged_leaves() -> None:
    with pytest.raises(ValueError, match=r"sizes \[7, 0\] for n = 7"):
        data.split(random.key(3), torch.arange(7), (0.99, 0.01))
    with pytest.raises(ValueError, match=r"at \[1\]: expected 7 rows.*got 5 rows"):
        data.split(random.key(3), (torch.arange(7), torch.arange(5)), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"expected shape \(n, \.\.\.\), got \(\)"):
        data.split(random.key(3), torch.tensor(7), (0.5, 0.5))
    with pytest.raises(TypeError, match=r"at \['a'\]: expected a tensor, got str"):
        data.split(random.key(3), {"a": "text"}, (0.5, 0.5))


def test_standardize_uses_the_training_part_alone() -> None:
    x = torch.linspace(2.0, 9.0, 35, dtype=torch.float64).reshape(7, 5).square()
    train, test = x[:5], x[5:]
    got = data.standardize(train, test)
    mean, std = train.mean(0), train.std(0, correction=0)
    assert_close(got[0], (train - mean) / std, rtol=1e-12, atol=0)
    assert_close(got[1], (test - mean) / std, rtol=1e-12, atol=0)
    assert_close(got[0].std(0, correction=0), torch.ones(5).double())


def test_standardize_shifts_constant_features_and_keeps_labels() -> None:
    # The mean of seven times 0.7 is not 0.7 in float32, nor the deviation 0.
    x = torch.full((7, 1), 0.7)
    y = torch.arange(7)
    (train, labels), (test, _) = data.standardize((x, y), (x + 7, y))
    assert_close(train[:, 0], torch.zeros(7), atol=1e-6, rtol=0)
    assert_close(test[:, 0], torch.full((7,), 7.0))
    assert labels is y


def test_standardize_shares_statistics_over_the_given_axes() -> None:
    x = torch.linspace(2.0, 9.0, 42).reshape(7, 3, 2).exp()
    (got,) = data.standardize(x, dims=(0, 2))
    assert_close(got.mean((0, 2)), torch.zeros(3), atol=1e-6, rtol=0)
    assert got[:, 0, 0].mean() < -0.01


def test_standardize_refuses_another_structure() -> None:
    x = torch.linspace(2.0, 9.0, 7)
    with pytest.raises(ValueError, match="others: expected the structure of train"):
        data.standardize((x, x), x)
    with pytest.raises(ValueError, match="train: expected at least one sample"):
        data.standardize(x[:0])


def test_standardize_refuses_what_is_not_finite() -> None:
    x = torch.linspace(2.0, 9.0, 15).reshape(5, 3)
    bad = x.clone()
    bad[2, 1], bad[3, 0] = torch.inf, torch.nan
    text = r"got inf at index \(2, 1\) \(2 in all\). Drop or repair"
    with pytest.raises(ValueError, match=r"data.standardize: train: .*" + text):
        data.standardize(bad)
    with pytest.raises(ValueError, match=r"others\[1\] at \['x'\]: .*" + text):
        data.standardize({"x": x}, {"x": x}, {"x": bad})
