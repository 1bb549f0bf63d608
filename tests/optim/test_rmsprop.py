# SPDX-License-Identifier: Apache-2.0
import inspect
import re
from typing import Any

import pytest
import torch

from functorch_lab import optim, tree

STEPS = 20
OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.03},
    {"lr": 0.03, "alpha": 0.7},
    {"lr": 0.03, "alpha": 0.0, "eps": 0.1},
    {"lr": 0.03, "eps": 0.1},
    {"lr": 0.03, "weight_decay": 0.2},
    {"lr": 0.03, "momentum": 0.8},
    {"lr": 0.03, "centered": True},
    {"lr": 0.03, "centered": True, "alpha": 0.7, "eps": 1e-3, "momentum": 0.8},
    {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rmsprop_is_torchs(lab, options):
    params, grads = lab.params(), lab.grads(STEPS)
    got, state = lab.train(optim.rmsprop(**options), params, grads)
    expected, states = lab.train_torch(
        lambda leaves: torch.optim.RMSprop(leaves, **options), params, grads
    )
    lab.close(got, expected)
    lab.close(tree.leaves(state.square_avg), [s["square_avg"] for s in states])
    for name, option in (("grad_avg", "centered"), ("momentum_buffer", "momentum")):
        if option in options:
            lab.close(tree.leaves(getattr(state, name)), [s[name] for s in states])
        else:
            assert getattr(state, name) == ()
    assert state.step.item() == STEPS


def test_defaults_are_torchs(lab):
    params, grads = lab.params(), lab.grads(3)
    got, _ = lab.train(optim.rmsprop(), params, grads)
    expected, _ = lab.train_torch(torch.optim.RMSprop, params, grads)
    lab.close(got, expected)


def test_rmsprop_in_float32_is_as_near_to_float64_as_torchs(lab):
    options: dict[str, Any] = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2}
    exact, _ = lab.train(optim.rmsprop(**options), lab.params(), lab.grads(STEPS))
    single = torch.float32
    params, grads = lab.params(single), lab.grads(STEPS, single)
    got, _ = lab.train(optim.rmsprop(**options), params, grads)
    lab.close(tree.cast(got[-1], torch.float64), exact[-1], rtol=1e-5, atol=1e-6)
    assert {leaf.dtype for leaf in tree.leaves(got[-1])} == {single}


def test_a_schedule_is_torchs_scheduler(lab):
    params, grads = lab.params(), lab.grads(STEPS)
    schedule = optim.schedules.exponential(0.03, 0.9)
    got, _ = lab.train(optim.rmsprop(schedule, momentum=0.8), params, grads)
    expected, _ = lab.train_torch(
        lambda leaves: torch.optim.RMSprop(leaves, lr=0.03, momentum=0.8),
        params,
        grads,
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    )
    lab.close(got, expected)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_rmsprop_is_optaxs_with_eps_outside_the_root(lab, centered, momentum):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    leaf, grads = lab.params()["in"], [g["in"] for g in lab.grads(STEPS)]
    got, _ = lab.train(
        optim.rmsprop(0.03, alpha=0.7, momentum=momentum, centered=centered),
        leaf,
        grads,
    )
    with jax.enable_x64(True):
        theirs = optax.rmsprop(
            0.03,
            decay=0.7,
            eps_in_sqrt=False,
            centered=centered,
            momentum=momentum or None,
        )
        params = {"weight": jax.numpy.asarray(leaf["weight"].numpy())}
        state = theirs.init(params)
        for g in grads:
            grad = {"weight": jax.numpy.asarray(g["weight"].numpy())}
            updates, state = theirs.update(grad, state, params)
            params = optax.apply_updates(params, updates)
    expected = torch.tensor(params["weight"].tolist(), dtype=torch.float64)
    lab.close(got[-1]["weight"], expected)


@pytest.mark.parametrize("centered", [False, True])
def test_parts_in_a_chain_are_rmsprop(lab, centered):
    params, grads = lab.params(), lab.grads(7)
    parts = optim.chain(
        optim.add_decayed_weights(0.2),
        optim.scale_by_rms(alpha=0.7, eps=1e-3, centered=centered),
        optim.trace(0.8),
        optim.scale(-0.03),
    )
    options: dict[str, Any] = {"lr": 0.03, "alpha": 0.7, "eps": 1e-3, "momentum": 0.8}
    options |= {"weight_decay": 0.2, "centered": centered}
    got, _ = lab.train(parts, params, grads)
    expected, _ = lab.train_torch(
        lambda leaves: torch.optim.RMSprop(leaves, **options), params, grads
    )
    lab.close(got, expected)


def test_fused_and_holes_change_nothing(lab):
    params, grads = lab.params(), lab.grads(5)
    make: Any = lambda: optim.rmsprop(0.03, momentum=0.8, centered=True)  # noqa: E731
    whole, state = lab.train(make(), params, grads)
    joined, _ = lab.train(optim.fused(make()), params, grads)
    lab.close(joined, whole, rtol=0, atol=0)
    updates, after = make().update({**grads[0], "s": ()}, state, params)
    assert updates["s"] == ()
    for name in ("square_avg", "grad_avg", "momentum_buffer"):
        assert torch.equal(getattr(after, name)["s"], getattr(state, name)["s"])
    expected, _ = make().update(grads[0], state, params)
    lab.close(updates["in"], expected["in"], rtol=0, atol=0)


def test_a_constant_gradient_has_no_negative_variance():
    # The running means of g and of g * g round differently: torch's root is NaN here.
    g = torch.tensor([0.1, 1.7, -0.3])
    optimizer = optim.rmsprop(0.03, alpha=0.5, eps=0.25, centered=True)
    state = optimizer.init(g)
    below = torch.zeros(3, dtype=torch.bool)
    update = g
    for _ in range(100):
        update, state = optimizer.update(g, state)
        below |= state.square_avg < state.grad_avg**2
    assert below.any()
    torch.testing.assert_close(update, -0.03 * g / 0.25, rtol=1e-2, atol=0)


@pytest.mark.parametrize("centered", [False, True])
def test_the_derivative_is_finite_where_the_gradient_is_zero(centered):
    def length(grads):
        optimizer = optim.rmsprop(0.03, eps=0.25, centered=centered)
        return optimizer.update(grads, optimizer.init(grads))[0].sum()

    got = torch.func.grad(length)(torch.zeros(3))
    torch.testing.assert_close(got, torch.full((3,), -0.03 / 0.25))


@pytest.mark.parametrize("name", ["lr", "eps", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(name, value):
    message = rf"optim\.rmsprop: {name}: expected a finite number >= 0, got {value}\. P"
    with pytest.raises(ValueError, match=message):
        optim.rmsprop(**{name: value})


@pytest.mark.parametrize("make", [optim.rmsprop, optim.scale_by_rms])
@pytest.mark.parametrize(
    "alpha",
    [-0.1, 1.0, float("nan"), torch.tensor(1.5), optim.schedules.linear(0.9, 1.0, 3)],
    ids=["negative", "one", "nan", "tensor", "schedule"],
)
def test_alpha_out_of_range_is_refused(make, alpha):
    message = rf"optim\.{make.__name__}: alpha: expected a number in \[0, 1\), got "
    with pytest.raises(ValueError, match=message):
        make(alpha=alpha)


def test_alpha_of_another_kind_is_refused():
    wrong: Any = "0.9"
    with pytest.raises(TypeError, match=r"optim\.rmsprop: alpha: .* got str\."):
        optim.rmsprop(alpha=wrong)


@pytest.mark.parametrize("make", [optim.rmsprop, optim.scale_by_rms])
@pytest.mark.parametrize("theirs", ["decay", "decay_rate", "gamma", "rho"])
def test_alpha_is_told_with_the_names_there_are(make, theirs):
    known = ", ".join(inspect.signature(make).parameters)
    message = f"optim.{make.__name__}: {theirs}: expected {known}, got {theirs}=. Write"
    with pytest.raises(TypeError, match=re.escape(f"{message} alpha=.")):
        make(**{theirs: 0.1})


@pytest.mark.parametrize(
    ("theirs", "here"),
    [
        ("learning_rate", "lr"),
        ("epsilon", "eps"),
    ],
)
def test_names_of_other_libraries_are_told(theirs, here):
    make: Any = optim.rmsprop
    message = rf"optim\.rmsprop: {theirs}: expected .* got {theirs}=\. Write {here}=\."
    with pytest.raises(TypeError, match=message):
        make(**{theirs: 0.1})


def test_what_update_needs_is_said(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = optim.rmsprop(weight_decay=0.1)
    state = optimizer.init(params)
    message = r"optim\.rmsprop\.update: params: expected the parameters, .* got None"
    with pytest.raises(ValueError, match=message):
        optimizer.update(grads, state)
    message = r"optim\.rmsprop\.update: state: expected a RMSpropState .* got SGDState"
    with pytest.raises(TypeError, match=message):
        optimizer.update(grads, optim.sgd().init(params), params)
    wrong = tree.at(grads, "['in']['weight']").set(torch.randn(7, 2))
    text = "optim.rmsprop.update: grads and params differ at ['in']['weight']: expected"
    with pytest.raises(ValueError, match=re.escape(text)):
        optimizer.update(wrong, state, params)
