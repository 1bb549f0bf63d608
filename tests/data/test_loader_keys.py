# SPDX-License-Identifier: Apache-2.0
"""A pass over a loader is a function of the key, and leaves the loader as it was."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from functorch_lab import data, optim, random, train
from functorch_lab.data import _prefetch
from functorch_lab.transforms import disable_jit, mean_over_batch

X = torch.arange(11) * 3 + 2
SAMPLES = TensorDataset(X)
KEY = random.key(3)


def values(batches: Any) -> list[list[int]]:
    return [batch[0].tolist() for batch in batches]


def sampled(make: Callable[[Any], Any]) -> Callable[[Any], DataLoader]:
    return lambda g: DataLoader(SAMPLES, 3, sampler=make(g), generator=g)


LOADERS: dict[str, Callable[[Any], DataLoader]] = {
    "shuffled": lambda g: DataLoader(SAMPLES, 3, shuffle=True, generator=g),
    "subset": sampled(lambda g: SubsetRandomSampler(range(1, 9), generator=g)),
    "weighted": sampled(lambda g: WeightedRandomSampler([0.5] * 9, 7, generator=g)),
    "replaced": sampled(lambda g: RandomSampler(SAMPLES, True, 70, generator=g)),
    "batch sampler": lambda g: DataLoader(
        SAMPLES,
        batch_sampler=BatchSampler(RandomSampler(SAMPLES, generator=g), 3, True),
    ),
    "distributed": sampled(lambda g: DistributedSampler(SAMPLES, 2, 1)),
}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", LOADERS)
def test_the_order_is_a_function_of_the_key(name: str, own: bool) -> None:
    generator = torch.Generator().manual_seed(5) if own else None
    loader = LOADERS[name](generator)
    before = None if generator is None else generator.get_state()
    outside = torch.get_rng_state()
    passes = data.from_dataloader(loader)
    first = values(passes(random.key(3)))
    assert first == values(passes(random.key(3)))
    # Another loader has nothing else in common than the key.
    assert first == values(data.from_dataloader(LOADERS[name](None))(random.key(3)))
    others = [values(passes(random.key(seed))) for seed in (4, 2**33 + 3)]
    assert first not in others
    assert torch.equal(torch.get_rng_state(), outside)
    if generator is not None:
        assert loader.generator in (generator, None)
        assert torch.equal(generator.get_state(), before)  # pyright: ignore


def test_the_order_is_that_of_torch_with_the_generator_of_the_key() -> None:
    key = random.key(3)
    sampler = RandomSampler(SAMPLES, generator=random.generator(key))
    loader = DataLoader(SAMPLES, 3, sampler=sampler)
    ours = DataLoader(SAMPLES, 3, shuffle=True)
    assert values(data.from_dataloader(ours)(key)) == values(loader)[:3]


def test_a_pass_that_is_left_leaves_the_loader_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(SAMPLES, 3, shuffle=True, generator=generator)
    expected = values(loader)
    generator.manual_seed(5)
    passed = iter(data.from_dataloader(loader)(random.key(3)))
    next(passed)  # and the pass is still open
    sampler: Any = loader.sampler
    assert loader.generator is sampler.generator is generator
    assert values(loader) == expected
    next(passed)
    assert loader.generator is sampler.generator is generator


def test_without_a_key_the_order_is_the_loaders_own() -> None:
    generator = torch.Generator()
    loader = DataLoader(SAMPLES, 3, shuffle=True, generator=generator)
    found = []
    for batches in (loader, data.from_dataloader(loader)):
        generator.manual_seed(5)
        found.append(values(batches)[:3])
    assert found[0] == found[1]


class _Noisy(Dataset):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(2) + index


# Another test in this process may have loaded jax, which warns of any fork.
forks = pytest.mark.filterwarnings("ignore:os.fork")


@forks
def test_workers_are_seeded_from_the_key() -> None:
    loader = DataLoader(_Noisy(), 2, shuffle=True, num_workers=2)
    passes = data.from_dataloader(loader, masked=True)
    first, again = list(passes(random.key(3))), list(passes(random.key(3)))
    assert_close(first, again, rtol=0, atol=0)
    x, mask = first[-1]
    assert mask.tolist() == [True, False]
    assert torch.equal(x[0], x[1])
    assert not torch.equal(first[0][0], next(iter(passes(random.key(4))))[0])


@forks
def test_workers_that_persist_keep_the_order_of_the_key() -> None:
    options: Any = {"num_workers": 1, "persistent_workers": True}
    passes = data.from_dataloader(DataLoader(SAMPLES, 3, shuffle=True, **options))
    expected = values(data.from_dataloader(DataLoader(SAMPLES, 3, shuffle=True))(KEY))
    found = [values(passes(key)) for key in (KEY, random.key(4), KEY)]
    assert found[0] == found[2] == expected != found[1]


class _Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(7))

    def __len__(self) -> int:
        return 7


class _Two(Sampler):
    def __iter__(self) -> Any:
        return iter([[0, 1], [2, 3], [4]])

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("loader", "masked", "steps"),
    [
        (DataLoader(SAMPLES, 3), False, 3),
        (DataLoader(SAMPLES, 3), True, 4),
        (DataLoader(SAMPLES, 3, drop_last=True), True, 3),
        (DataLoader(SAMPLES, 13), False, 1),
        (DataLoader(SAMPLES, 13), True, 1),
        (DataLoader(SAMPLES, batch_sampler=_Two()), True, 3),
        (DataLoader(SAMPLES, batch_sampler=_Two()), False, None),
        (DataLoader(_Stream(), 3), True, None),
        ([X[:2], X[2:4]], False, None),
        (DataLoader(SAMPLES, 3, sampler=iter(range(7))), False, None),
        (DataLoader(SAMPLES, 3, sampler=SequentialSampler(X[:7])), False, 2),
    ],
)
def test_the_length_is_that_of_the_pass(loader: Any, masked: bool, steps: Any) -> None:
    passes: Any = data.from_dataloader(loader, masked=masked)
    if steps is None:
        with pytest.raises(TypeError, match="has no len"):
            len(passes)
    else:
        assert len(passes) == len(passes(random.key(3))) == steps
        assert len(list(passes)) == steps


def test_masked_batches_hold_every_sample_once() -> None:
    loader = DataLoader(data.to_dataset({"x": X, "y": -X}), 4, shuffle=True)
    found = list(data.from_dataloader(loader, masked=True)(random.key(3)))
    assert [mask.tolist() for _, mask in found[:-1]] == [[True] * 4] * 2
    last, mask = found[-1]
    assert mask.tolist() == [True, True, True, False]
    assert last["x"][3] == last["x"][0] == -last["y"][3]
    counted = torch.cat([batch["x"][mask] for batch, mask in found])
    assert torch.equal(counted.sort().values, X)


def test_fit_goes_on_in_the_middle_of_an_epoch() -> None:
    x = X.double() / 7
    loader = DataLoader(TensorDataset(x), 3, shuffle=True)
    passes = data.from_dataloader(loader, masked=True)
    optimizer = optim.sgd(lr=0.01)
    loss = mean_over_batch(lambda w, x: (w * x - 2.5) ** 2)
    step = train.make_step(loss, optimizer, masked=True, donate=False)
    start = train.init(x.new_tensor(0.5), optimizer, key=random.key(3))
    with disable_jit():
        whole, _ = train.fit(step, start, passes, steps=9, progress=False)
        half, _ = train.fit(step, start, passes, steps=6, progress=False)
        torch.manual_seed(11)
        half, _ = train.fit(step, half, passes, steps=3, progress=False)
    assert_close(half.params, whole.params, rtol=0, atol=0)


def test_reads_one_batch_ahead_to_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Stream:
        def record_event(self) -> str:
            return f"event {len([e for e in events if e.startswith('copy')])}"

        def wait_event(self, event: str) -> None:
            events.append(f"wait for {event}")

    def copied(leaf: Tensor, device: torch.device) -> Tensor:
        events.append(f"copy {leaf.item()}")
        return leaf

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda s: contextlib.nullcontext())
    monkeypatch.setattr(Tensor, "record_stream", lambda leaf, stream: None)
    monkeypatch.setattr(_prefetch, "_copied", copied)
    batches = [(torch.tensor(n),) for n in (2, 3, 5)]
    for (x,) in _prefetch.moved_ahead(batches, torch.device("cuda")):
        events.append(f"step {x.item()}")
    assert events == [
        *("copy 2", "copy 3", "wait for event 1", "step 2"),
        *("copy 5", "wait for event 2", "step 3", "wait for event 3", "step 5"),
    ]
