# SPDX-License-Identifier: Apache-2.0
"""The average of the parameters against torch's `AveragedModel`."""

from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torch.testing import assert_close

from functorch_lab import optim, random, train, tree
from functorch_lab.transforms import disable_jit


@pytest.mark.parametrize("average", [get_ema_avg_fn, get_ema_multi_avg_fn])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_equals_torch(lab: Any, average: Any, decay: float) -> None:
    kind = "avg_fn" if average is get_ema_avg_fn else "multi_avg_fn"
    params, grads = lab.params(), lab.grads(7)
    optimizer = optim.ema_params(optim.adam(lr=0.03), decay=decay)
    module = torch.nn.ParameterList([p.clone() for p in tree.leaves(params)])
    averaged: Any = AveragedModel(module, **{kind: average(decay)})
    inner = torch.optim.Adam(module.parameters(), lr=0.03)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optim.apply_updates(params, updates)
        for p, leaf in zip(module, tree.leaves(g), strict=True):
            p.grad = leaf.clone()
        inner.step()
        averaged.update_parameters(module)
        found = tree.leaves(optim.get_ema_params(state))
        expected = [p.detach() for p in averaged.module]
        assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert tree.structure(optim.get_ema_params(state)) == tree.structure(params)


def test_updates_and_hyperparameters_are_those_of_the_inner_one(lab: Any) -> None:
    inner = optim.chain(optim.clip_by_global_norm(0.7), optim.adamw(lr=0.03))
    optimizer = optim.ema_params(inner, decay=0.75)
    lab.close(
        lab.train(optimizer, lab.params(), lab.grads(3))[0],
        lab.train(inner, lab.params(), lab.grads(3))[0],
    )
    state = optimizer.init(lab.params())
    found = optim.get_hyperparams(state)
    assert (found["lr"].item(), found["decay"].item()) == (0.03, 0.75)
    state = optim.set_hyperparams(state, decay=0.5, lr=0.07)
    assert optim.get_hyperparams(state)["decay"].item() == 0.5


def test_a_schedule_gives_the_decay_of_each_step() -> None:
    decays = torch.tensor([0.25, 0.5, 0.75])
    optimizer = optim.ema_params(
        optim.sgd(lr=1.0), decay=lambda step: decays[step.long().clamp(max=2)]
    )
    params, expected = torch.tensor([2.0]), None
    state = optimizer.init(params)
    for decay in decays.tolist():
        updates, state = optimizer.update(torch.tensor([-3.0]), state, params)
        params = params + updates
        last = params if expected is None else expected
        expected = decay * last + (1 - decay) * params
        assert_close(optim.get_ema_params(state), expected)


def test_half_precision_integers_and_holes() -> None:
    params = {
        "w": torch.tensor([2.0, 3.0], dtype=torch.bfloat16),
        "n": torch.tensor([5, 7]),
        "frozen": torch.tensor([1.5]),
    }
    optimizer = optim.ema_params(optim.sgd(lr=0.5), decay=0.9)
    state = optimizer.init(params)
    pointers = [leaf.data_ptr() for leaf in tree.leaves((params, state))]
    assert len(set(pointers)) == len(pointers)
    grads = {"w": torch.full((2,), 0.25, dtype=torch.bfloat16), "n": (), "frozen": ()}
    expected = None
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        new = params["w"].double()
        expected = new if expected is None else 0.9 * expected + 0.1 * new
    found = optim.get_ema_params(state)
    assert found["w"].dtype == torch.float32
    assert_close(found["w"].double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(found["n"], params["n"])
    assert torch.equal(found["frozen"], params["frozen"])


def test_many_small_leaves_are_joined_inside() -> None:
    params = {f"w{i:02}": torch.linspace(0.5, 2.0, 3 + i % 2) for i in range(40)}
    optimizer = optim.ema_params(optim.adamw(lr=0.02), decay=0.75)
    state = train.init(params, optimizer, key=random.key(0))
    assert len(tree.leaves(state.opt_state.inner)) < 12

    def loss(params: Any, x: torch.Tensor) -> Any:
        return sum(((p * x) ** 2).sum() for p in params.values())

    step = train.make_step(loss, optimizer)
    expected = None
    with disable_jit():
        for _ in range(3):
            state, _ = step(state, torch.tensor(0.7))
            new = tree.copy(state.params)
            last = new if expected is None else expected
            expected = tree.add(tree.scale(last, 0.75), tree.scale(new, 0.25))
    assert_close(optim.get_ema_params(state.opt_state), expected)
    with disable_jit():
        assert_close(step(state, torch.tensor(0.7))[1]["lr"], torch.tensor(0.02))


def test_is_found_in_a_tree_of_states_if_it_is_one() -> None:
    optimizer = optim.ema_params(optim.sgd(lr=0.5))
    state = optimizer.init(torch.tensor([2.0, 3.0]))
    inside = {"a": (optim.sgd(lr=0.5).init(torch.ones(2)), [state])}
    assert torch.equal(optim.get_ema_params(inside), torch.tensor([2.0, 3.0]))
    for wrong, count in ((inside["a"][0], 0), ([state, state], 2)):
        with pytest.raises(
            ValueError, match=f"one state of ema_params in it, got {count}"
        ):
            optim.get_ema_params(wrong)


def test_refuses_what_it_cannot_average() -> None:
    for decay in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"ema_params: decay: .*in \[0, 1\], got"):
            optim.ema_params(optim.sgd(lr=0.5), decay=decay)
    with pytest.raises(TypeError, match=r"optim.ema_params: .*Call the algorithm"):
        optim.ema_params(optim.adam)  # pyright: ignore[reportArgumentType]
    optimizer = optim.ema_params(optim.sgd(lr=0.5))
    w = torch.tensor([2.0])
    with pytest.raises(ValueError, match="update: params: expected the parameters"):
        optimizer.update(w, optimizer.init(w))
