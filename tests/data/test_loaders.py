# SPDX-License-Identifier: Apache-2.0
"""To and from `torch.utils.data`."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from functorch_lab import data, random


def arrays(n: int = 7) -> tuple[Tensor, Tensor]:
    return torch.linspace(2.0, 9.0, 3 * n).reshape(n, 3), torch.arange(n) + 5


@pytest.mark.parametrize(("n", "batches"), [(7, 3), (6, 3), (5, 2)])
def test_reads_a_loader_without_its_smaller_last_batch(n: int, batches: int) -> None:
    x, y = arrays(n)
    read = data.from_dataloader(DataLoader(TensorDataset(x, y), batch_size=2))
    for _ in range(2):  # as often as the loader itself
        found = list(read)
        assert len(found) == batches
        assert all(isinstance(batch, tuple) for batch in found)
        assert torch.equal(torch.cat([b[0] for b in found]), x[: 2 * batches])
        assert torch.equal(torch.cat([b[1] for b in found]), y[: 2 * batches])


def test_reads_trees() -> None:
    x, y = arrays()
    loader = DataLoader(data.to_dataset({"x": x, "more": (y,)}), batch_size=7)
    ((batch,),) = list(data.from_dataloader(loader))
    assert torch.equal(batch["x"], x)
    assert torch.equal(batch["more"][0], y)


def test_moves_batches_to_a_device(device: torch.device) -> None:
    loader = DataLoader(TensorDataset(*arrays()), batch_size=2)
    for x, y in data.from_dataloader(loader, device=device):
        assert x.device.type == y.device.type == device.type


@pytest.mark.parametrize(
    ("batches", "kind", "text"),
    [
        ([], ValueError, "loader: expected at least one batch, got none"),
        ([(torch.arange(3), "a")], TypeError, r"at \[1\]: expected a tensor, got str"),
        (
            [torch.arange(3), torch.arange(2), torch.arange(3)],
            ValueError,
            "batch 1: expected 3 samples in every batch but the last, got 2",
        ),
        (
            [torch.arange(2), torch.arange(3)],
            ValueError,
            "batch 1: expected 2 samples, as in batch 0, got 3",
        ),
        (
            [{"x": torch.zeros(2, 3)}, {"x": torch.zeros(2, 5)}],
            ValueError,
            r"batch 1 at \[0\]\['x'\]: expected samples of \(3,\) .*got \(5,\)",
        ),
        (
            [torch.arange(2), torch.arange(2.0)],
            ValueError,
            r"expected samples of \(\) torch.int64.*got \(\) torch.float32",
        ),
        (
            [{"x": torch.arange(2)}, {"y": torch.arange(2)}],
            ValueError,
            "batch 1: expected the structure",
        ),
    ],
)
def test_refuses_batches(batches: list[Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        list(data.from_dataloader(batches))


def test_masked_fills_smaller_batches_wherever_they_are() -> None:
    batches = [torch.tensor([2, 3, 5]), torch.tensor([7]), torch.tensor([11, 13])]
    found = [
        (x.tolist(), m.tolist()) for x, m in data.from_dataloader(batches, masked=True)
    ]
    assert found == [
        ([2, 3, 5], [True] * 3),
        ([7, 7, 7], [True, False, False]),
        ([11, 13, 11], [True, True, False]),
    ]


def test_refuses_what_gives_no_batches() -> None:
    with pytest.raises(
        TypeError, match=r"loader: expected a DataLoader .*TensorDataset"
    ):
        data.from_dataloader(TensorDataset(*arrays()))  # pyright: ignore


def test_the_loader_has_the_order_of_the_key() -> None:
    x, y = arrays(11)
    key = random.key(3)
    loader = data.to_dataloader((x, y), 4, key=key)
    ours = data.batches(key, (x, y), 4)
    assert len(loader) == len(ours) == 2
    for theirs, batch in zip(loader, ours, strict=True):
        assert torch.equal(theirs[0], batch[0])
        assert torch.equal(theirs[1], batch[1])


def test_the_loader_keeps_the_stored_order_without_a_key() -> None:
    x, y = arrays()
    found = list(data.to_dataloader((x, y), 3, drop_last=False))
    assert [len(batch[0]) for batch in found] == [3, 3, 1]
    assert torch.equal(torch.cat([batch[1] for batch in found]), y)


def test_refuses_a_batch_that_the_data_cannot_fill() -> None:
    with pytest.raises(ValueError, match=r"batch_size: expected 1 \.\. 7 .*got 8"):
        data.to_dataloader(arrays(), 8)
    with pytest.raises(ValueError, match=r"expected 7 rows, as at \[0\], got 5 rows"):
        data.to_dataset((torch.arange(7), torch.arange(5)))
