# SPDX-License-Identifier: Apache-2.0
"""The digits are scikit-learn's, split once and for all."""

import sys

import pytest
import torch
from sklearn.datasets import load_digits
from torch.testing import assert_close

from functorch_lab import data, random


def test_the_parts_are_the_images_of_scikit_learn() -> None:
    pixels, labels = load_digits(return_X_y=True)
    splits = data.digits(standardize=False)
    x = torch.cat([splits.train[0], splits.test[0]])
    y = torch.cat([splits.train[1], splits.test[1]])
    assert len(x) == 1797
    assert len(splits.validation[0]) == len(splits.validation[1]) == 0
    got = torch.cat([x.long(), y[:, None]], dim=1).tolist()
    want = [[*map(int, row), int(i)] for row, i in zip(pixels, labels, strict=True)]
    assert sorted(got) == sorted(want)


def test_types_and_shapes() -> None:
    splits = data.digits(validation=0.1)
    sizes = [len(y) for _, y in (splits.train, splits.validation, splits.test)]
    assert sizes == [1258, 180, 359]
    for x, y in (splits.train, splits.validation, splits.test):
        assert x.shape == (len(y), 64)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert set(y.tolist()) == set(range(10))


def test_images_are_the_same_pixels() -> None:
    flat = data.digits(standardize=False).test
    images = data.digits(standardize=False, images=True).test
    assert images[0].shape == (359, 1, 8, 8)
    assert torch.equal(images[0].flatten(1), flat[0])
    assert torch.equal(images[1], flat[1])


def test_standardized_with_the_training_part() -> None:
    splits = data.digits()
    raw = data.digits(standardize=False)
    train, mean = splits.train[0], raw.train[0].mean(0)
    assert_close(train.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    std = train.std(0, correction=0)
    assert ((std - 1).abs().lt(1e-4) | (std == 0)).all()
    assert_close(
        splits.test[0][:, 20],
        (raw.test[0][:, 20] - mean[20]) / raw.train[0][:, 20].std(correction=0),
    )
    images = data.digits(images=True).train[0]
    assert_close(images.std(correction=0), torch.tensor(1.0))


def test_the_split_depends_on_the_key_alone() -> None:
    first, again = data.digits().test[1], data.digits(images=True).test[1]
    assert torch.equal(first, again)
    assert torch.equal(first, data.digits(key=random.key(0)).test[1])
    assert not torch.equal(first, data.digits(key=random.key(3)).test[1])


def test_goes_to_the_device_asked_for(device: torch.device) -> None:
    x, y = data.digits(device=device).train
    assert x.device.type == y.device.type == device.type
    with torch.device("meta"):
        assert data.digits().train[0].device.type == "meta"


def test_refuses_a_validation_share() -> None:
    for share in (-0.1, 0.8):
        with pytest.raises(ValueError, match=rf"share in \[0, 0.8\), got {share}"):
            data.digits(validation=share)


@pytest.mark.parametrize("device", ["foo", "cuda:77"])
def test_refuses_a_device_that_is_not_there(device: str) -> None:
    text = rf"device: expected one that is present \(cpu.*\), got {device}. Choose one"
    with pytest.raises(ValueError, match="data.digits: " + text):
        data.digits(device=device)
    with pytest.raises(ValueError, match="data.from_dataloader: " + text):
        data.from_dataloader([], device=device)


def test_says_how_to_get_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'functorch-lab\[lab\]"):
        data.digits()
