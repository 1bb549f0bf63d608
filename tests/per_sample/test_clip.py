# SPDX-License-Identifier: Apache-2.0
"""Clipped sums: three ways to clip, what is not finite, and the bound that holds."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab import per_sample
from per_sample_cases import by_path
from per_sample_losses import (
    batch,
    draw,
    flat,
    gradients,
    loss_fn,
    mlp_loss_fn,
    mlp_params,
    params,
)

GROUPS = {"words": "words", "deep": "deep.*", "scale": "scale*"}


def expected_sum(grads: dict[str, Tensor], scales: dict[str, Tensor]) -> Any:
    return {
        path: torch.tensordot(scales[path.split(".")[0]], leaf, 1)
        for path, leaf in grads.items()
    }


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "each"])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_groups_are_clipped_by_their_own_norms(shared, chunk_size):
    bounds = {"words": 3.0, "deep": 6.5, "scale": 2.0}
    function = per_sample.clipped_sum(
        loss_fn,
        max_norm=6.0 if shared else bounds,
        clipping="per_group",
        groups=GROUPS,
        chunk_size=chunk_size,
    )
    if shared:
        bounds = dict.fromkeys(GROUPS, 6.0 / math.sqrt(3))
    grads = gradients(loss_fn, params(), batch())
    scales, shortened = {}, []
    for group, bound in bounds.items():
        part = {path: leaf for path, leaf in grads.items() if path.startswith(group)}
        norm = flat(part).norm(dim=1)
        scales[group] = (bound / norm).clamp(max=1)
        shortened.append(norm > bound)
    fraction = torch.stack(shortened).any(0).double().mean()
    assert 0 < fraction < 1
    got = function(params(), *batch())
    assert_close(by_path(got.sum), expected_sum(grads, scales), rtol=1e-12, atol=1e-13)
    assert_close(got.norms, flat(grads).norm(dim=1), rtol=1e-12, atol=0)
    assert_close(got.clip_fraction, fraction)
    total = 6.0 if shared else math.sqrt(3.0**2 + 6.5**2 + 2.0**2)
    assert function.sensitivity() == pytest.approx(total, rel=1e-15)


def test_automatic_clipping_scales_every_gradient():
    function = per_sample.clipped_sum(
        loss_fn, max_norm=8.4, clipping="automatic", gamma=0.3
    )
    grads = gradients(loss_fn, params(), batch())
    norms = flat(grads).norm(dim=1)
    scales = 8.4 / (norms + 0.3)
    assert 0 < (scales < 1).sum() < 7
    got = function(params(), *batch())
    expected = expected_sum(grads, dict.fromkeys(GROUPS, scales))
    assert_close(by_path(got.sum), expected, rtol=1e-12, atol=1e-13)
    assert_close(got.clip_fraction, (scales < 1).double().mean())
    assert function.sensitivity() == 8.4


def bad_batch() -> tuple[Tensor, Tensor]:
    """A weight beside each sample by which its loss is multiplied or divided."""
    x, divisor = draw(7, 2, 3, seed=8), torch.linspace(0.4, 1.6, 7).double()
    divisor[1], divisor[3] = 0.0, torch.nan  # the loss is infinite, the loss is nan
    x[5, 0, 2] = torch.inf  # some factors are infinite and others are zero
    return x, divisor


def divided(params: Any, x: Tensor, divisor: Tensor) -> Tensor:
    return F.linear(x, params["w"], params["b"]).relu().sum() / divisor


@pytest.mark.parametrize("clipping", ["flat", "per_group", "automatic"])
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_what_is_not_finite_counts_and_contributes_zero(clipping, chunk_size, method):
    params = {"w": draw(5, 3, seed=1), "b": draw(5, seed=2)}
    x, divisor = bad_batch()
    mask = torch.tensor([True, True, True, True, False, True, True])
    function = per_sample.clipped_sum(
        divided,
        max_norm=0.8,
        clipping=clipping,
        groups={"w": "w", "b": "b"} if clipping == "per_group" else None,
        chunk_size=chunk_size,
        method=method,
    )
    got = function(params, x, divisor, mask=mask)
    good = torch.tensor([0, 2, 6])
    alone = function(params, x[good], divisor[good])
    assert_close(got.sum, alone.sum, rtol=1e-12, atol=1e-13)
    assert_close(got.norms[good], alone.norms, rtol=1e-12, atol=0)
    assert_close(got.clip_fraction, alone.clip_fraction)
    assert got.non_finite.item() == 3
    assert alone.non_finite.item() == 0
    assert got.norms.isfinite().tolist() == [
        True,
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    assert got.norms[4].item() == 0


def test_a_loss_that_is_not_finite_counts_though_its_gradient_is():
    w, x = draw(3, seed=1), draw(2, 3, seed=2)
    function = per_sample.clipped_sum(lambda w, x, c: (w * x).sum() + c, max_norm=9.0)
    got = function(w, x, torch.tensor([torch.inf, 0.5]).double())
    assert_close(got.sum, x[1])
    assert got.non_finite.item() == 1
    assert_close(got.norms, x.norm(dim=1))


def test_a_batch_without_finite_samples_gives_zero():
    function = per_sample.clipped_sum(divided, max_norm=0.8)
    params = {"w": draw(5, 3, seed=1), "b": draw(5, seed=2)}
    got = function(params, draw(2, 3, 3, seed=8), torch.zeros(2).double())
    assert_close(got.sum, fl.tree.zeros_like(params))
    assert got.clip_fraction.item() == 0
    assert got.non_finite.item() == 2


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_a_gradient_of_zero_stays_zero(clipping):
    w, x = draw(2, 3, seed=1), torch.stack([torch.zeros(3), torch.ones(3)]).double()
    function = per_sample.clipped_sum(
        lambda w, x: F.linear(x, w).sum(), max_norm=0.5, clipping=clipping
    )
    norm = math.sqrt(6)
    scale = 0.5 / norm if clipping == "flat" else 0.5 / (norm + 0.01)
    assert_close(function(w, x).sum, torch.full((2, 3), scale).double())
    assert_close(function(w, x).clip_fraction, torch.tensor(0.5).double())


def test_no_sample_changes_the_sum_by_more_than_the_sensitivity():
    x = 10 ** draw(7, 1, seed=3) * draw(7, 3, seed=8)
    wide = fl.tree.map(torch.Tensor.float, mlp_params())
    ways: list[Any] = ["flat", "automatic"]
    for clipping in ways:
        function = per_sample.clipped_sum(
            mlp_loss_fn, max_norm=0.3, clipping=clipping, gamma=1e-3
        )
        for i in range(7):
            part = function(wide, x[i : i + 1].float()).sum
            size = torch.cat([leaf.flatten() for leaf in part.values()]).norm().item()
            assert size <= function.sensitivity() * (1 + 1e-6)


def test_the_bound_may_be_a_tensor_that_changes(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")

    def whole(bound: Tensor, w: Tensor, x: Tensor) -> Any:
        function = per_sample.clipped_sum(lambda w, x: (w * x).sum(), max_norm=bound)
        return function(w, x).sum, function.sensitivity()

    jitted, w, x = fl.jit(whole), draw(3, seed=1), draw(5, 3, seed=2)
    norms = x.norm(dim=1, keepdim=True)
    for number in (0.3, 1.1):
        bound = torch.tensor(number).double()
        total, sensitivity = jitted(bound, w, x)
        assert_close(sensitivity, bound)
        assert_close(total, (x * (number / norms).clamp(max=1)).sum(0))
    assert jitted.traces == 1


def test_a_bound_that_is_changed_in_place_counts_at_once():
    bounds = {"w": torch.tensor(3.0).double(), "b": torch.tensor(4.0).double()}
    groups = {"w": "w", "b": "b"}
    options: Any = {"clipping": "per_group", "groups": groups}
    each = per_sample.clipped_sum(divided, max_norm=bounds, **options)
    shared = per_sample.clipped_sum(divided, max_norm=bounds["b"], **options)
    assert_close(each.sensitivity(), torch.tensor(5.0).double())
    params = {"w": draw(5, 3, seed=1), "b": draw(5, seed=2)}
    batch = draw(7, 2, 3, seed=8), torch.linspace(0.4, 1.6, 7).double()
    bounds["b"].fill_(0.3)
    for function, bound in [(each, {"w": 3.0, "b": 0.3}), (shared, 0.3)]:
        fixed = per_sample.clipped_sum(divided, max_norm=bound, **options)
        assert_close(function(params, *batch).sum, fixed(params, *batch).sum)
        assert_close(function.sensitivity().item(), fixed.sensitivity())


def test_scales_are_constants_to_an_outer_derivative():
    w, x = draw(3, seed=1), draw(5, 3, seed=2)

    def loss_fn(w: Tensor, x: Tensor) -> Tensor:
        return ((w * x).sum() ** 2).sum()

    function = per_sample.clipped_sum(loss_fn, max_norm=0.3)
    got = fl.grad(lambda w: function(w, x).sum.square().sum())(w)
    leaf = w.clone().requires_grad_()
    grads = torch.stack([2 * (leaf * row).sum() * row for row in x])
    scales = (0.3 / grads.norm(dim=1)).clamp(max=1).detach()
    (expected,) = torch.autograd.grad((scales @ grads).square().sum(), leaf)
    assert_close(got, expected, rtol=1e-12, atol=1e-13)


BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, r"max_norm: expected a positive, finite .* got 0\.", {"max_norm": 0}),
    (ValueError, r"max_norm: .* got inf\.", {"max_norm": math.inf}),
    (ValueError, r"max_norm: .* got nan\.", {"max_norm": math.nan}),
    (TypeError, r"max_norm: expected .* got bool True\.", {"max_norm": True}),
    (TypeError, r"max_norm: .* got a tensor \(2,\)", {"max_norm": torch.ones(2)}),
    (ValueError, r"clipping: .* got 'global'\.", {"clipping": "global"}),
    (ValueError, r"groups: .* got none with 'per_group'", {"clipping": "per_group"}),
    (ValueError, r"groups: .* got groups with 'flat'", {"groups": {"all": "*"}}),
    (ValueError, r"gamma: expected a positive number, got 0\.", {"gamma": 0}),
    (
        ValueError,
        r"max_norm: expected one number, got a dict of a",
        {"max_norm": {"a": 1}},
    ),
    (
        ValueError,
        r"max_norm: expected a, b, got a dict of a\. Give each",
        {"max_norm": {"a": 1}, "clipping": "per_group", "groups": {"a": "*", "b": "*"}},
    ),
    (
        ValueError,
        r"max_norm\['a'\]: expected a positive, finite number, got -1\.",
        {"max_norm": {"a": -1}, "clipping": "per_group", "groups": {"a": "*"}},
    ),
]


@pytest.mark.parametrize(("kind", "message", "options"), BAD, ids=range(len(BAD)))
def test_options_are_checked_when_it_is_made(kind, message, options):
    with pytest.raises(kind, match=rf"^per_sample\.clipped_sum: {message}"):
        per_sample.clipped_sum(loss_fn, **{"max_norm": 1.0, **options})


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"a": "up", "b": "bias"},
            r"groups: expected each leaf .* none for \['down'\]",
        ),
        ({"a": "*", "b": "up"}, r"groups: .* got a and b for \['up'\]\. Change"),
        ({"a": "*", "b": "upp"}, r"groups: b: .* matches no leaf\. Nearest: up\b"),
    ],
)
def test_groups_must_hold_each_leaf_once(groups, message):
    function = per_sample.clipped_sum(
        mlp_loss_fn, max_norm=1.0, clipping="per_group", groups=groups
    )
    with pytest.raises(ValueError, match=rf"^per_sample\.clipped_sum: {message}"):
        function(mlp_params(), draw(5, 3, seed=2))
