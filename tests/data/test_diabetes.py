# SPDX-License-Identifier: Apache-2.0
"""The patients are scikit-learn's, split once and for all."""

import sys
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes
from torch.testing import assert_close

from functorch_lab import data, random


def test_the_parts_are_the_patients_of_scikit_learn() -> None:
    table: Any
    scores: Any
    table, scores = load_diabetes(return_X_y=True, scaled=False)
    splits = data.diabetes(standardize=False, validation=0.1)
    parts = (splits.train, splits.validation, splits.test)
    assert [len(y) for _, y in parts] == [309, 45, 88]
    got = [[*row, s] for x, y in parts for row, s in zip(x, y, strict=True)]
    want = [[*row, s] for row, s in zip(table.tolist(), scores.tolist(), strict=True)]
    assert_close(torch.tensor(sorted(got)), torch.tensor(sorted(want)))


def test_standardized_with_the_training_part() -> None:
    raw, scaled = data.diabetes(standardize=False), data.diabetes()
    assert len(scaled.validation[0]) == len(scaled.validation[1]) == 0
    for train, test, train_units, test_units in zip(
        scaled.train, scaled.test, raw.train, raw.test, strict=True
    ):
        mean, std = train_units.double().mean(0), train_units.double().std(0, False)
        want = ((train_units - mean) / std).float(), ((test_units - mean) / std).float()
        assert_close((train, test), want, rtol=1e-4, atol=1e-5)


def test_the_split_depends_on_the_key_alone() -> None:
    first = data.diabetes(standardize=False).test[0]
    assert torch.equal(
        first, data.diabetes(key=random.key(0), standardize=False).test[0]
    )
    assert not torch.equal(
        first, data.diabetes(key=random.key(3), standardize=False).test[0]
    )


def test_refuses_a_share_a_device_and_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"data.diabetes: validation: .* got 0.8"):
        data.diabetes(validation=0.8)
    with pytest.raises(TypeError, match=r"validation: expected a number, got '0.1'"):
        data.diabetes(validation="0.1")  # pyright: ignore
    with pytest.raises(ValueError, match=r"data.diabetes: device: .* got cuda:77"):
        data.diabetes(device="cuda:77")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"data.diabetes: .*'functorch-lab\["):
        data.diabetes()
