# SPDX-License-Identifier: Apache-2.0
"""Batches: the order is a function of the key, the shape never changes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from functorch_lab import data, random

A = torch.linspace(2.0, 9.0, 14).reshape(7, 2)


@given(n=st.integers(1, 40), batch=st.integers(1, 40), drop_last=st.booleans())
def test_every_sample_is_seen(n: int, batch: int, drop_last: bool) -> None:
    batch = min(n, batch)
    order = data.epoch(random.key(3), n, batch, drop_last=drop_last)
    counts = order.flatten().bincount(minlength=n)
    steps = n // batch if drop_last else -(-n // batch)
    assert order.shape == (steps, batch)
    assert order.dtype == torch.int64
    assert counts.max() == (1 if drop_last or n % batch == 0 else 2)
    assert (counts > 0).sum() == (steps * batch if drop_last else n)
    # What completes the last batch are the first samples of the order.
    extra = order.flatten()[n:]
    assert torch.equal(extra, order.flatten()[: len(extra)])


def test_the_order_is_a_function_of_the_key() -> None:
    first = data.epoch(random.key(3), 35, 5)
    assert torch.equal(first, data.epoch(random.key(3), 35, 5))
    assert torch.equal(first, data.epoch(random.key(3), {"x": torch.arange(35)}, 5))
    assert not torch.equal(first, data.epoch(random.key(7), 35, 5))
    assert not torch.equal(first, torch.arange(35).reshape(7, 5))


def test_batches_are_the_rows_of_the_epoch() -> None:
    x, y = torch.linspace(2.0, 9.0, 14).reshape(7, 2), torch.arange(7) + 3
    passed = data.batches(random.key(5), (x, {"y": y}), 3)
    order = data.epoch(random.key(5), 7, 3)
    assert len(passed) == len(order) == 2
    for _ in range(2):  # it can be gone through again
        for rows, (x_batch, tree) in zip(order, passed, strict=True):
            assert torch.equal(x_batch, x[rows])
            assert torch.equal(tree["y"], y[rows])


def test_what_is_no_tuple_comes_as_one() -> None:
    ((batch,),) = list(data.batches(random.key(5), {"x": torch.arange(3)}, 3))
    assert sorted(batch["x"].tolist()) == [0, 1, 2]


@given(n=st.integers(1, 23), batch=st.integers(1, 23), drop_last=st.booleans())
def test_masked_samples_come_once(n: int, batch: int, drop_last: bool) -> None:
    batch = min(n, batch)
    x, key = torch.arange(n) * 3 + 2, random.key(5)
    options: Any = {"drop_last": drop_last, "masked": True}
    passed = data.batches(key, {"x": x}, batch, **options)
    order = data.epoch(key, n, batch, drop_last=False)
    found = list(passed)
    assert len(found) == len(passed) == len(order)
    for rows, (tree, mask) in zip(order, found, strict=True):
        assert (mask.dtype, mask.shape) == (torch.bool, (batch,))
        assert torch.equal(tree["x"], x[rows])
    counted = torch.cat([tree["x"][mask] for tree, mask in found])
    assert torch.equal(counted, x[random.permutation(key, n)])


def test_a_mask_has_memory_of_its_own() -> None:
    # Views of one tensor start at other alignments: a step would be compiled again.
    masks = [mask for *_, mask in data.batches(random.key(5), A, 3, masked=True)]
    assert [mask.storage_offset() for mask in masks] == [0, 0, 0]
    assert masks[-1].tolist() == [True, False, False]


@given(n=st.integers(1, 23), batch=st.integers(1, 30))
def test_masked_batches_count_every_sample_once(n: int, batch: int) -> None:
    x = torch.arange(n) * 3 + 2
    found = list(data.masked_batches((x, x), batch))
    assert {len(mask) for _, mask in found} == {min(n, batch)}
    assert torch.equal(torch.cat([pair[0][mask] for pair, mask in found]), x)


@pytest.mark.parametrize("size", [0, -3, 8])
def test_refuses_a_batch_that_the_data_cannot_fill(size: int) -> None:
    text = rf"batch_size: expected 1 \.\. 7 .*, got {size}\. Choose"
    with pytest.raises(ValueError, match="data.epoch: " + text):
        data.epoch(random.key(3), 7, size)
    with pytest.raises(ValueError, match="data.batches: " + text):
        data.batches(random.key(3), torch.arange(7), size)


@pytest.mark.parametrize("size", [True, 2.0, "2"])
def test_refuses_a_batch_size_that_is_no_int(size: Any) -> None:
    with pytest.raises(TypeError, match="batch_size: expected an int, got"):
        data.epoch(random.key(3), 7, size)
    with pytest.raises(TypeError, match="batch_size: expected an int, got"):
        next(data.masked_batches(torch.arange(7), size))


def test_refuses_no_samples() -> None:
    with pytest.raises(ValueError, match="n: expected at least one sample, got 0"):
        data.epoch(random.key(3), 0, 1)
    with pytest.raises(ValueError, match="got an empty data set"):
        data.batches(random.key(3), torch.arange(0), 1)
    with pytest.raises(ValueError, match=r"any\. Pass at least one tensor"):
        data.batches(random.key(3), (), 1)
