# SPDX-License-Identifier: Apache-2.0
"""Steps on masked batches against a loop over the samples that count."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import data, optim, random, train
from functorch_lab.transforms import (
    checkpoint,
    debug,
    disable_jit,
    jit,
    mean_over_batch,
)

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}
X = torch.linspace(-1.5, 4.5, 24, dtype=torch.float64).sin().reshape(8, 3)
Y = ((torch.arange(8) * 7 // 3) % 2 + 0.25).double()
W = torch.tensor([0.5, -0.75, 1.25], dtype=torch.float64)
KEY = random.key(0)
MASKS = {
    "some": [True, False, True, True, False, True, True, True],
    "empty parts": [False, False, True, False, False, False, False, False],
    "first of each": [True, False] * 4,
    "all": [True] * 8,
}


def sample_loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.log((w @ x - y) ** 2 + 0.5)


def expected(mask: list[bool], w: Tensor = W) -> tuple[Tensor, Tensor]:
    """Loss and gradient, by a loop over the samples that count."""
    w = w.clone().requires_grad_()
    losses = [sample_loss(w, X[i], Y[i]) for i in range(8) if mask[i]]
    loss = torch.stack(losses).mean()
    (grad,) = torch.autograd.grad(loss, w)
    return loss.detach(), grad


def new_state(optimizer: Any, **options: Any) -> train.TrainState:
    return train.init(W, optimizer, key=KEY, **options)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("name", MASKS)
def test_equals_the_loop(name: str, accumulate: int) -> None:
    mask = MASKS[name]
    optimizer = optim.sgd(lr=0.5)
    options: Any = {"masked": True, "accumulate": accumulate}
    step = train.make_step(mean_over_batch(sample_loss), optimizer, **options)
    x = X.clone()
    x[~torch.tensor(mask)] = torch.inf
    with disable_jit():
        state, logs = step(new_state(optimizer), x, Y, torch.tensor(mask))
    loss, grad = expected(mask)
    assert_close(logs["loss"], loss, **EXACT)
    assert_close(logs["grad_norm"], grad.norm(), **EXACT)
    assert_close(state.params, W - 0.5 * grad, **EXACT)
    assert_close(logs["samples"], torch.tensor(sum(mask)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_samples_give_zeros(accumulate: int) -> None:
    optimizer = optim.sgd(lr=0.5)
    options: Any = {"masked": True, "accumulate": accumulate}
    step = train.make_step(mean_over_batch(sample_loss), optimizer, **options)
    x = torch.full_like(X, torch.nan)
    with disable_jit():
        state, logs = step(new_state(optimizer), x, Y, torch.tensor([False] * 8))
    assert (logs["loss"].item(), logs["grad_norm"].item()) == (0, 0)
    assert logs["samples"].item() == 0
    assert torch.equal(state.params, W)


def test_a_loss_of_ones_own_with_aux_and_state() -> None:
    def loss(w: Tensor, seen: Tensor, x: Tensor, *, mask: Tensor) -> Any:
        values = (w @ x.T)[mask]  # NaN for no samples
        aux = {"mean": values.mean(), "count": mask.sum()}
        return values.mean(), (seen + x.sum(), aux)

    optimizer = optim.sgd(lr=0.5)
    flags: Any = {"masked": True, "has_aux": True, "stateful": True}
    step = train.make_step(loss, optimizer, accumulate=4, **flags)
    mask = MASKS["empty parts"]
    with disable_jit():
        start = new_state(optimizer, model_state=torch.tensor(7.0).double())
        state, logs = step(start, X, torch.tensor(mask))
    assert_close(logs["loss"], W @ X[2], **EXACT)
    assert_close(logs["aux"]["mean"], W @ X[2], **EXACT)
    assert logs["aux"]["count"].item() == 1
    assert_close(state.params, W - 0.5 * X[2], **EXACT)
    # Only the part that holds the sample has been seen.
    assert_close(state.model_state, 7 + X[2:4].sum(), **EXACT)


def test_one_trace_serves_all_batches_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is traced doesn't depend on what compiles it, and that takes longest.
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    optimizer = optim.sgd(lr=0.5)
    step: Any = train.make_step(mean_over_batch(sample_loss), optimizer, masked=True)
    step = debug.assert_max_traces(1)(step)
    state, key, w = new_state(optimizer), random.key(3), W
    order = random.permutation(key, 8).tolist()
    for i, batch in enumerate(data.batches(key, (X, Y), 3, masked=True)):
        loss, grad = expected([j in order[3 * i : 3 * i + 3] for j in range(8)], w)
        state, logs = step(state, *batch)
        w = w - 0.5 * grad
        assert_close(logs["loss"], loss, **EXACT)
        assert_close(state.params, w, **EXACT)
        assert logs["samples"].item() == (3, 3, 2)[i]


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ((X, Y), r"torch.float64 of shape \(8,\)"),
        ((X, Y, X[:3, 0] > 0), r"torch.bool of shape \(3,\)"),
        ((), "NoneType"),
    ],
)
def test_refuses_a_batch_without_a_mask(batch: Any, got: str) -> None:
    optimizer = optim.sgd(lr=0.5)
    step = train.make_step(mean_over_batch(sample_loss), optimizer, masked=True)
    with pytest.raises(ValueError, match="batch: expected a mask as its last.*" + got):
        step(new_state(optimizer), *batch)


@pytest.mark.parametrize("loss", [sample_loss, jit(sample_loss), max])
def test_refuses_a_loss_that_takes_no_mask(loss: Any) -> None:
    with pytest.raises(TypeError, match="loss_fn: expected a function that takes mask"):
        train.make_step(loss, optim.sgd(lr=0.5), masked=True)


@pytest.mark.parametrize("wrap", [jit, partial, checkpoint])
def test_a_wrapped_loss_takes_the_mask_and_the_key(wrap: Any) -> None:
    def noisy(w: Tensor, x: Tensor, y: Tensor, *, key: Tensor) -> Tensor:
        return sample_loss(w, x, y) * random.uniform(key, dtype=w.dtype)

    found = []
    for loss in (mean_over_batch(noisy), wrap(mean_over_batch(noisy))):
        step = train.make_step(loss, optim.sgd(lr=0.5), masked=True)
        with disable_jit():
            start = new_state(optim.sgd(lr=0.5))
            found.append(step(start, X, Y, torch.tensor(MASKS["some"])))
    assert_close(found[1][1], found[0][1], **EXACT)
    assert_close(found[1][0].params, found[0][0].params, **EXACT)


def test_half_precision_with_aux_state_parts_and_mask() -> None:
    def loss(w: Tensor, seen: Tensor, x: Tensor, *, key: Tensor, mask: Tensor) -> Any:
        assert w.dtype == x.dtype == torch.bfloat16
        total = torch.where(mask, (x @ w + random.uniform(key)) ** 2, 0).sum()
        return total / mask.sum(), (seen + mask.sum(), {"count": mask.sum()})

    optimizer = optim.sgd(lr=0.5)
    flags: Any = {"masked": True, "has_aux": True, "stateful": True, "accumulate": 4}
    step = train.make_step(loss, optimizer, compute_dtype=torch.bfloat16, **flags)
    mask, w = MASKS["some"], W.clone().requires_grad_()
    parts = [
        random.uniform(random.fold_in(random.fold_in(KEY, 0), i)) for i in range(4)
    ]
    each = [(X[i] @ w + parts[i // 2]) ** 2 for i in range(8) if mask[i]]
    expected = torch.stack(each).mean()
    (grad,) = torch.autograd.grad(expected, w)
    with disable_jit():
        start = new_state(optimizer, model_state=torch.tensor(7.0).double())
        state, logs = step(start, X, torch.tensor(mask))
    half: Any = {"rtol": 0.02, "atol": 0.0}
    assert_close(logs["loss"].double(), expected.detach(), **half)
    assert_close(state.params, W - 0.5 * grad, **half)
    assert (logs["aux"]["count"].item(), logs["samples"].item()) == (6, 6)
    assert_close(state.model_state, torch.tensor(13.0).double(), **EXACT)
