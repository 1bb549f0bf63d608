# SPDX-License-Identifier: Apache-2.0
"""Batches from samples that come one after another."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import data, random, train


def pairs(n: int) -> list[tuple[Tensor, Tensor]]:
    x = torch.linspace(2.0, 9.0, 3 * n).reshape(n, 3)
    return list(zip(x, torch.arange(n) + 5, strict=True))


class Endless:
    """Counts how many samples were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            self.taken += 1
            yield torch.tensor(float(self.taken))


@given(n=st.integers(1, 23), size=st.integers(1, 30))
def test_gives_every_sample_in_order(n: int, size: int) -> None:
    samples = pairs(n)
    batches = data.stream(samples, size)
    for _ in range(2):  # as often as the samples themselves
        found = list(batches)
        assert all(isinstance(batch, tuple) for batch in found)
        assert [len(x) for x, _ in found[:-1]] == [size] * ((n - 1) // size)
        assert torch.equal(
            torch.cat([x for x, _ in found]), torch.stack([x for x, _ in samples])
        )
        assert torch.equal(torch.cat([y for _, y in found]), torch.arange(n) + 5)
    if n >= size:
        full = list(data.stream(samples, size, drop_last=True))
        assert len(full) == n // size
        assert all(len(x) == size for x, _ in full)


def test_takes_trees() -> None:
    samples = [
        {"x": torch.tensor([i, 3.0]), "more": (torch.tensor(i),)} for i in (2, 5)
    ]
    ((batch,),) = list(data.stream(samples, 7))
    assert batch["x"].tolist() == [[2.0, 3.0], [5.0, 3.0]]
    assert batch["more"][0].tolist() == [2, 5]
    ((x,),) = list(data.stream([torch.tensor(2), torch.tensor(5)], 2))
    assert x.tolist() == [2, 5]
    ((x, y),) = list(data.stream([[torch.tensor(2), torch.tensor(5)]], 2))
    assert (x.tolist(), y.tolist()) == ([2], [5])


def test_takes_no_more_than_it_needs() -> None:
    samples = Endless()
    passed = iter(data.stream(samples, 3))
    assert samples.taken == 0
    assert next(passed)[0].tolist() == [1.0, 2.0, 3.0]
    assert samples.taken == 3
    shuffled = Endless()
    next(iter(data.stream(shuffled, 3, key=random.key(3), buffer_size=5)))
    assert shuffled.taken == 5 + 3


@given(n=st.integers(1, 40), buffer=st.integers(1, 50), seed=st.integers(0, 99))
def test_shuffling_keeps_every_sample(n: int, buffer: int, seed: int) -> None:
    samples = [torch.tensor(i) for i in range(n)]
    found = order(samples, seed, buffer)
    assert sorted(found) == list(range(n))
    assert found == order(samples, seed, buffer)
    assert found == order(samples, seed, buffer, batch_size=1)
    # A sample can wait as long as it likes, but not come before it is in the buffer.
    assert all(sample < place + buffer for place, sample in enumerate(found))
    if buffer == 1:
        assert found == list(range(n))


def order(
    samples: list[Tensor], seed: int, buffer: int, batch_size: int = 3
) -> list[int]:
    passed = data.stream(samples, batch_size, key=random.key(seed), buffer_size=buffer)
    return [int(i) for (batch,) in passed for i in batch]


def test_the_order_depends_on_the_key() -> None:
    samples = [torch.tensor(i) for i in range(30)]
    found = {tuple(order(samples, seed, 10)) for seed in range(5)}
    assert len(found) == 5


def test_a_buffer_of_all_samples_shuffles_uniformly() -> None:
    samples = [torch.tensor(i) for i in range(5)]
    counts = torch.zeros(5, 5)
    for seed in range(500):
        for place, sample in enumerate(order(samples, seed, 7)):
            counts[place, sample] += 1
    # 100 expected in each cell, of standard deviation 9.
    assert (counts - 100).abs().max() < 40


def test_a_small_buffer_shuffles_near_and_beyond_a_block_of_draws() -> None:
    samples = [torch.tensor(i) for i in range(3000)]
    found = torch.tensor(order(samples, 3, 20, batch_size=100))
    assert torch.equal(found.sort().values, torch.arange(3000))
    delays = (torch.arange(3000) - found).double()[:2900]
    # A sample leaves with probability 1 / 20 at each step: it waits for 20 in the
    # mean, counted from 20 places ahead.
    assert_close(delays.mean(), torch.tensor(0.0).double(), atol=2.0, rtol=0)
    assert_close(delays.std(), torch.tensor(380**0.5).double(), atol=3.0, rtol=0)
    # The second block of 1024 draws is not the first again. With the same draws all
    # delays would be the same once each place in the buffer has been used.
    first, second = delays[500:1024], delays[1524:2048]
    assert (first == second).double().mean() < 0.2


def test_fit_takes_a_stream() -> None:
    def step(state: Any, x: Tensor, y: Tensor) -> Any:
        return state, {"loss": (x.sum() - y.sum()).square()}

    state = train.TrainState(
        step=torch.tensor(0), params={}, opt_state=(), model_state=(), key=random.key(3)
    )
    _, history = train.fit(
        step, state, data.stream(pairs(7), 3), epochs=2, progress=False
    )
    assert history.logs["loss"].shape == (6,)


NOT_ALIKE: list[tuple[list[Any], type[Exception], str]] = [
    ([torch.tensor(2), torch.tensor([2])], ValueError, r"sample 1 and sample 0 differ"),
    (
        [{"x": torch.tensor([2, 3])}] * 3 + [{"x": torch.tensor([2, 3, 5])}],
        ValueError,
        r"sample 3 and sample 0 differ at \['x'\]: expected \(2,\), got \(3,\)",
    ),
    (
        [torch.tensor(2), torch.tensor(2.0)],
        ValueError,
        "sample 1 and sample 0 differ.*expected int64, got float32",
    ),
    (
        [{"x": torch.tensor(2)}, {"y": torch.tensor(2)}],
        ValueError,
        "sample 1 and sample 0 differ",
    ),
    (
        [(torch.tensor(2),) * 2, (torch.tensor(2),) * 3],
        ValueError,
        "sample 1 and sample 0 differ",
    ),
    ([torch.tensor(2), "a"], ValueError, "sample 1 and sample 0 differ"),
    ([(torch.tensor(2), 3.0)], TypeError, r"sample 0 at \[1\]: expected a tensor, got"),
    (["a"], TypeError, "sample 0: expected a tensor, got str 'a'. Convert"),
    ([], ValueError, "samples: expected at least one sample, got none"),
]


@pytest.mark.parametrize(("samples", "kind", "text"), NOT_ALIKE)
@pytest.mark.parametrize("shuffle", [{}, {"key": random.key(3), "buffer_size": 2}])
def test_refuses_samples(
    samples: list[Any], kind: type[Exception], text: str, shuffle: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=rf"^data\.stream: {text}"):
        list(data.stream(samples, 2, **shuffle))


def test_says_that_a_generator_is_spent() -> None:
    batches = data.stream((x for x, _ in pairs(5)), 2)
    assert len(list(batches)) == 3
    with pytest.raises(ValueError, match=r"got none\. If it is a generator"):
        list(batches)


def test_refuses_to_drop_everything() -> None:
    text = r"batch_size: expected 1 \.\. 2 .*with drop_last, got 3"
    with pytest.raises(ValueError, match=text):
        list(data.stream(pairs(2), 3, drop_last=True))


def test_refuses_arguments() -> None:
    untyped: Any = data.stream
    for size, kind in ((0, ValueError), (-3, ValueError), (2.0, TypeError)):
        with pytest.raises(kind, match=rf"data.stream: batch_size: .* {size}"):
            untyped(pairs(5), size)
    with pytest.raises(TypeError, match=r"samples: expected an iterable .* got int"):
        untyped(5, 2)
    with pytest.raises(ValueError, match="buffer_size: expected 1 or more, got 0"):
        untyped(pairs(5), 2, key=random.key(3), buffer_size=0)
    with pytest.raises(ValueError, match="buffer_size: expected one together with key"):
        untyped(pairs(5), 2, key=random.key(3))
    with pytest.raises(ValueError, match="key: expected one together with buffer_size"):
        untyped(pairs(5), 2, buffer_size=3)
