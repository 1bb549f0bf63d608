# SPDX-License-Identifier: Apache-2.0
"""Difficulty scores against a loop of backward passes, and on planted wrong labels."""

from typing import Any

import pytest
import torch
from torch import Tensor

import functorch_lab as fl
from functorch_lab.per_sample import difficulty


def draw(seed: int, *shape: int) -> Tensor:
    return fl.random.normal(fl.random.key(seed), shape, dtype=torch.float64)


PARAMS: Any = {
    "first": draw(1, 3, 5),
    "second": draw(2, 5, 4),
    "count": torch.tensor(3),
}
X, Y = draw(3, 7, 3), torch.tensor([2, 0, 3, 1, 1, 2, 3])


def logits_fn(params, x):
    return torch.tanh(x @ params["first"]) @ params["second"]


def loss_fn(params, x, y):
    return fl.losses.cross_entropy(logits_fn(params, x), y, label_smoothing=0.1)


def loss_and_logits(params, x, y):
    logits = logits_fn(params, x)
    return fl.losses.cross_entropy(logits, y, label_smoothing=0.1), logits


def loss_of_dict(params, sample):
    loss, logits = loss_and_logits(params, sample["x"], sample["y"])
    return loss, (logits, sample["y"])


def loop() -> dict[str, Tensor]:
    """The definitions, sample by sample, with torch.autograd."""
    rows = []
    for x, y in zip(X, Y, strict=True):
        leaves = [PARAMS[n].clone().requires_grad_() for n in ("first", "second")]
        params = {"first": leaves[0], "second": leaves[1]}
        loss = loss_fn(params, x, y)
        grads = torch.autograd.grad(loss, leaves)
        logits = logits_fn(PARAMS, x)
        error = logits.exp() / logits.exp().sum()
        error[y] -= 1
        others = torch.cat([logits[:y], logits[y + 1 :]])
        rows.append(
            {
                "loss": loss.detach(),
                "grand": torch.cat([g.flatten() for g in grads]).norm(),
                "el2n": error.norm(),
                "margin": logits[y] - others.max(),
                "correct": logits.argmax() == y,
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


EXPECTED = loop()
FORMS: dict[str, Any] = {
    "logits_fn": (lambda **o: difficulty(loss_fn, logits_fn, **o), (X, Y)),
    "aux": (lambda **o: difficulty(loss_and_logits, has_aux=True, **o), (X, Y)),
    "dict": (
        lambda **o: difficulty(loss_of_dict, has_aux=True, **o),
        ({"x": X, "y": Y},),
    ),
}


def check(scores, rows: Any = ...):
    for name, expected in EXPECTED.items():
        found = getattr(scores, name)
        torch.testing.assert_close(found[rows], expected[rows], rtol=1e-12, atol=1e-13)


def test_the_cases_have_right_and_wrong_predictions():
    assert EXPECTED["correct"].any()
    assert not EXPECTED["correct"].all()


@pytest.mark.parametrize("method", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_the_loop(form, chunk_size, method):
    make, batch = FORMS[form]
    check(make(chunk_size=chunk_size, method=method)(PARAMS, *batch))


def test_scores_compile(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    make, batch = FORMS["dict"]
    check(fl.jit(make())(PARAMS, *batch))


@pytest.mark.parametrize("form", FORMS)
def test_masked_samples_have_zeros(form):
    make, _ = FORMS[form]
    mask = torch.tensor([True, False, True, True, False, True, True])
    labels = torch.where(mask, Y, 0)
    batch = ({"x": X, "y": labels},) if form == "dict" else (X, labels)
    scores = make()(PARAMS, *batch, mask=mask)
    check(scores, mask)
    for name in EXPECTED:
        assert not getattr(scores, name)[~mask].any()


def test_padding_may_have_labels_of_no_class():
    mask = torch.arange(7) < 5
    scores = difficulty(lambda p, x, y: logits_fn(p, x).square().sum(), logits_fn)(
        PARAMS, X, torch.where(mask, Y, -100), mask=mask
    )
    expected = EXPECTED["margin"][:5]
    torch.testing.assert_close(scores.margin[:5], expected, rtol=1e-12, atol=1e-13)


def test_without_logits_there_are_loss_and_grand():
    scores = difficulty(loss_fn)(PARAMS, X, Y)
    torch.testing.assert_close(scores.grand, EXPECTED["grand"], rtol=1e-12, atol=0)
    assert (scores.el2n, scores.margin, scores.correct) == ((), (), ())


def test_aux_of_the_loss_comes_back_beside_the_scores():
    def loss(params, x, y):
        return loss_fn(params, x, y), 2 * x

    scores, aux = difficulty(loss, logits_fn, has_aux=True)(PARAMS, X, Y)
    check(scores)
    torch.testing.assert_close(aux, 2 * X, rtol=0, atol=0)


def test_a_kept_batch_axis():
    def batched(params, x, y):
        return loss_fn(params, x, y).mean()

    check(difficulty(batched, logits_fn, keep_batch_axis=True)(PARAMS, X, Y))


def test_keys_reach_the_loss_and_not_the_logits():
    def noisy(params, x, y, *, key):
        return loss_fn(params, x + fl.random.normal(key, x.shape, dtype=x.dtype), y)

    keys = fl.random.split(fl.random.key(5), 7)
    scores = difficulty(noisy, logits_fn)(PARAMS, X, Y, keys=keys)
    torch.testing.assert_close(scores.el2n, EXPECTED["el2n"], rtol=1e-12, atol=0)
    assert (scores.loss - EXPECTED["loss"]).abs().min() > 1e-6


def test_one_label_for_each_sample_is_asked_for():
    soft, score = torch.softmax(draw(8, 7, 4), 1), difficulty(loss_fn, logits_fn)
    with pytest.raises(TypeError, match=r"label: expected integers.*argmax\(-1\)"):
        score(PARAMS, X, soft)
    with pytest.raises(
        ValueError, match=r"label: expected shape \(7,\), .* got \(7, 4\)"
    ):
        score(PARAMS, X, (soft > 0.5).long())
    with pytest.raises(TypeError, match=r"label: expected integers.*got dict"):
        score(PARAMS, X, {"y": Y})
    with pytest.raises(TypeError, match="last element of the batch, got NoneType"):
        score(PARAMS, {"x": X, "y": Y})
    with pytest.raises(TypeError, match=r"label: expected integers.*float64"):
        difficulty(loss_and_logits, has_aux=True)(PARAMS, X, soft)


def test_one_row_of_logits_for_each_sample_is_asked_for():
    with pytest.raises(
        ValueError, match=r"logits: expected shape \(classes,\).*\(2, 4\)"
    ):
        difficulty(loss_fn, lambda p, x: logits_fn(p, x).expand(2, 4))(PARAMS, X, Y)
    with pytest.raises(ValueError, match=r"at least two classes.*got \(1,\)"):
        difficulty(loss_fn, lambda p, x: logits_fn(p, x)[:1])(PARAMS, X, Y)
    with pytest.raises(TypeError, match=r"logits: expected a floating-point.*got dict"):
        difficulty(lambda p, x, y: (loss_fn(p, x, y), {"l": x}), has_aux=True)(
            PARAMS, X, Y
        )
    with pytest.raises(TypeError, match="logits_fn: expected a function, got"):
        difficulty(loss_fn, PARAMS)


def area_under_curve(scores: Tensor, positive: Tensor) -> float:
    """In which share of pairs of a positive and a negative the positive is higher."""
    gaps = scores[positive].unsqueeze(1) - scores[~positive]
    return ((gaps > 0).double() + 0.5 * (gaps == 0)).mean().item()


def test_planted_wrong_labels_rank_high_after_a_short_training():
    x, y = fl.data.digits().train
    x, y = x[:600].flatten(1), y[:600]
    planted = fl.random.uniform(fl.random.key(1), (600,)) < 0.1
    y = torch.where(planted, (y + 3) % 10, y)
    model = fl.nn.sequential(fl.nn.linear(64, 32), fl.nn.relu, fl.nn.linear(32, 10))

    def loss(params, x, y):
        return fl.losses.cross_entropy(model.apply(params, x), y)

    optimizer = fl.optim.adam(lr=5e-3)
    params = model.init(fl.random.key(0))
    untrained = difficulty(loss, model.apply)(params, x, y)
    state = optimizer.init(params)
    grad = fl.grad(lambda params: loss(params, x, y).mean())
    for _ in range(60):
        updates, state = optimizer.update(grad(params), state, params)
        params = fl.optim.apply_updates(params, updates)
    trained = difficulty(loss, model.apply, chunk_size=200)(params, x, y)
    assert area_under_curve(trained.grand, planted) > 0.95
    assert area_under_curve(trained.el2n, planted) > 0.95
    assert area_under_curve(-trained.margin, planted) > 0.95
    assert area_under_curve(untrained.el2n, planted) < 0.7
