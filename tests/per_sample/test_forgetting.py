# SPDX-License-Identifier: Apache-2.0
"""Forgetting counts against counts by hand."""

import pytest
import torch

import functorch_lab as fl
from functorch_lab.per_sample import forgetting


def test_forgetting_events_are_counted_as_by_hand():
    history = [
        # each row one epoch; each column one sample
        [1, 0, 0, 1, 0],
        [0, 0, 1, 1, 0],
        [1, 0, 1, 1, 1],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 0],  # wrong again is not forgotten again
    ]
    tool, order = forgetting(), torch.tensor([3, 0, 4, 2, 1])
    state = tool.init(6)
    for row in torch.tensor(history, dtype=torch.bool):
        for part in order.split(2):
            state = tool.update(state, part, row[part])
    found = tool.compute(state)
    assert found.events.tolist() == [2, 0, 0, 0, 1, 0]
    assert found.presentations.tolist() == [5, 5, 5, 5, 5, 0]
    assert found.learnt.tolist() == [True, False, True, True, True, False]
    infinite, nan = float("inf"), float("nan")
    expected = torch.tensor([2.0, infinite, 0.0, 0.0, 1.0, nan])
    torch.testing.assert_close(found.score, expected, equal_nan=True)


def test_a_sample_that_stands_twice_in_a_batch_counts_once():
    tool = forgetting()
    state = tool.update(
        tool.init(2), torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]) > 0
    )
    state = tool.update(state, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]) > 0)
    found = tool.compute(state)
    assert found.events.tolist() == [1, 0]
    assert found.presentations.tolist() == [2, 2]


def test_masked_samples_are_not_presented():
    tool = forgetting()
    state = tool.update(tool.init(3), torch.tensor([0, 2]), torch.tensor([True, True]))
    state = tool.update(
        state,
        torch.tensor([2, 0, -100]),
        torch.tensor([False, False, True]),
        mask=torch.tensor([True, False, False]),
    )
    found = tool.compute(state)
    assert found.events.tolist() == [0, 0, 1]
    assert found.presentations.tolist() == [1, 0, 2]


def test_states_of_different_samples_merge():
    tool, right, wrong = forgetting(), torch.tensor([True]), torch.tensor([False])
    zero, two = torch.tensor([0]), torch.tensor([2])
    a = tool.update(tool.update(tool.init(3), zero, right), zero, wrong)
    b = tool.update(tool.init(3), two, right)
    merged = tool.merge(a, b)
    one_by_one = tool.update(a, two, right)
    assert fl.tree.equal(merged, one_by_one)
    assert fl.tree.equal(tool.merge(b, a), merged)
    # The last prediction is kept: what is forgotten after the merge is seen.
    assert tool.compute(tool.update(merged, two, wrong)).events.tolist() == [1, 0, 1]


def test_forgetting_compiles_once(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    tool = forgetting()
    update = fl.jit(tool.update)
    state = plain = tool.init(5)
    for seed in range(3):
        index = fl.random.permutation(fl.random.key(seed), 5)[:3]
        correct = fl.random.bernoulli(fl.random.key(seed), 0.5, (3,))
        state, plain = update(state, index, correct), tool.update(plain, index, correct)
    assert update.traces == 1
    assert fl.tree.equal(state, plain)


def test_what_forgetting_is_given():
    tool = forgetting()
    state, index, correct = (
        tool.init(3),
        torch.tensor([0, 1]),
        torch.tensor([True, False]),
    )
    with pytest.raises(
        ValueError, match=r"forgetting\.init: n: expected the number of"
    ):
        tool.init(0)
    with pytest.raises(TypeError, match="indices: expected a tensor of integers"):
        tool.update(state, index.float(), correct)
    with pytest.raises(TypeError, match="correct: expected a tensor of bools"):
        tool.update(state, index, correct.long())
    with pytest.raises(TypeError, match="mask: expected a tensor of bools"):
        tool.update(state, index, correct, mask=index)
    with pytest.raises(ValueError, match=r"correct: expected shape \(B,\).*got \(1,\)"):
        tool.update(state, index, correct[:1])
    with pytest.raises(ValueError, match=r"forgetting\.merge: b and a differ at"):
        tool.merge(state, tool.init(4))
