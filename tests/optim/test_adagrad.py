# SPDX-License-Identifier: Apache-2.0
import re
from typing import Any

import pytest
import torch

from functorch_lab import optim, tree

STEPS = 20
OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.3},
    {"lr": 0.3, "lr_decay": 0.2},
    {"lr": 0.3, "weight_decay": 0.2},
    {"lr": 0.3, "initial_accumulator_value": 0.7},
    {"lr": 0.3, "eps": 0.1},
    {
        **{"lr": 0.3, "lr_decay": 0.2, "weight_decay": 0.4},
        **{"initial_accumulator_value": 0.7, "eps": 0.1},
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_adagrad_is_torchs(lab, options):
    params, grads = lab.params(), lab.grads(STEPS)
    got, state = lab.train(optim.adagrad(**options), params, grads)
    expected, states = lab.train_torch(
        lambda leaves: torch.optim.Adagrad(leaves, **options), params, grads
    )
    lab.close(got, expected)
    lab.close(tree.leaves(state.sum), [s["sum"] for s in states])
    assert state.step.item() == states[0]["step"].item() == STEPS


def test_defaults_are_torchs(lab):
    params, grads = lab.params(), lab.grads(3)
    got, _ = lab.train(optim.adagrad(), params, grads)
    expected, _ = lab.train_torch(torch.optim.Adagrad, params, grads)
    lab.close(got, expected)


def test_lr_decay_and_a_schedule_multiply(lab):
    params, grads = lab.params(), lab.grads(STEPS)
    schedule = optim.schedules.exponential(0.3, 0.9)
    got, _ = lab.train(optim.adagrad(schedule, lr_decay=0.2), params, grads)
    expected, _ = lab.train_torch(
        lambda leaves: torch.optim.Adagrad(leaves, lr=0.3, lr_decay=0.2),
        params,
        grads,
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    )
    lab.close(got, expected)


def test_adagrad_without_eps_is_optaxs(lab):
    # optax adds eps inside of the root, torch outside.
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    leaf, grads = lab.params()["in"], [g["in"] for g in lab.grads(STEPS)]
    options: dict[str, Any] = {"initial_accumulator_value": 0.7, "eps": 0.0}
    got, _ = lab.train(optim.adagrad(0.3, **options), leaf, grads)
    with jax.enable_x64(True):
        theirs = optax.adagrad(0.3, **options)
        params = {"weight": jax.numpy.asarray(leaf["weight"].numpy())}
        state = theirs.init(params)
        for g in grads:
            grad = {"weight": jax.numpy.asarray(g["weight"].numpy())}
            updates, state = theirs.update(grad, state, params)
            params = optax.apply_updates(params, updates)
    expected = torch.tensor(params["weight"].tolist(), dtype=torch.float64)
    lab.close(got[-1]["weight"], expected)


def test_parts_in_a_chain_are_adagrad(lab):
    params, grads = lab.params(), lab.grads(7)
    parts = optim.chain(
        optim.add_decayed_weights(0.2),
        optim.scale_by_rss(initial_accumulator_value=0.7, eps=1e-3),
        optim.scale(-0.3),
    )
    options: dict[str, Any] = {"lr": 0.3, "weight_decay": 0.2, "eps": 1e-3}
    options |= {"initial_accumulator_value": 0.7}
    got, _ = lab.train(parts, params, grads)
    expected, _ = lab.train_torch(
        lambda leaves: torch.optim.Adagrad(leaves, **options), params, grads
    )
    lab.close(got, expected)


def test_fused_and_holes_change_nothing(lab):
    params, grads = lab.params(), lab.grads(5)
    make: Any = lambda: optim.adagrad(0.3, lr_decay=0.2)  # noqa: E731
    whole, state = lab.train(make(), params, grads)
    joined, _ = lab.train(optim.fused(make()), params, grads)
    lab.close(joined, whole, rtol=0, atol=0)
    updates, after = make().update({**grads[0], "s": ()}, state, params)
    assert updates["s"] == ()
    assert torch.equal(after.sum["s"], state.sum["s"])
    expected, _ = make().update(grads[0], state, params)
    lab.close(updates["in"], expected["in"], rtol=0, atol=0)


def test_the_initial_value_may_be_a_tensor_swept_and_differentiated():
    g = torch.tensor([3.0, -2.0], dtype=torch.float64)
    values = torch.tensor([0.7, 1.6], dtype=torch.float64)

    def first(value):
        optimizer = optim.adagrad(0.3, initial_accumulator_value=value, eps=0.0)
        return optimizer.update(g, optimizer.init(g))[0]

    expected = torch.stack([-0.3 * g / (v + g * g).sqrt() for v in values])
    torch.testing.assert_close(torch.func.vmap(first)(values), expected)
    slope = torch.func.jacrev(first)(values[0])
    expected = 0.15 * g / (values[0] + g * g) ** 1.5
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=0)


def test_the_initial_value_is_in_every_dtype_of_the_state():
    params = [torch.randn(2).bfloat16(), torch.randn(3).double()]
    initial = torch.tensor(0.7, dtype=torch.float64)
    state = optim.adagrad(initial_accumulator_value=initial).init(params)
    assert [leaf.dtype for leaf in state.sum] == [torch.float32, torch.float64]
    assert state.sum[1].tolist() == [0.7] * 3


def test_the_derivative_is_finite_where_the_gradient_is_zero():
    def length(grads):
        optimizer = optim.adagrad(0.3, eps=0.25)
        return optimizer.update(grads, optimizer.init(grads))[0].sum()

    got = torch.func.grad(length)(torch.zeros(3))
    torch.testing.assert_close(got, torch.full((3,), -0.3 / 0.25))


BAD = [-0.1, float("nan"), float("inf"), torch.tensor(-2.5)]
NAMES = ["lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", BAD, ids=str)
def test_values_out_of_range_are_refused(name, value):
    got = value.item() if isinstance(value, torch.Tensor) else value
    message = rf"optim\.adagrad: {name}: expected a finite number >= 0, got {got}\. P"
    with pytest.raises(ValueError, match=message):
        optim.adagrad(**{name: value})


def test_a_schedule_of_lr_decay_is_checked_by_its_ends():
    schedule = optim.schedules.linear(0.2, -0.3, 5)
    message = r"optim\.adagrad: lr_decay: expected a finite number >= 0, got -0\.3"
    with pytest.raises(ValueError, match=message):
        optim.adagrad(lr_decay=schedule)


def test_the_initial_value_is_one_number():
    schedule: Any = optim.schedules.constant(0.7)
    message = r"optim\.adagrad: initial_accumulator_value: .* got function\. .* no sch"
    with pytest.raises(TypeError, match=message):
        optim.adagrad(initial_accumulator_value=schedule)
    message = r"initial_accumulator_value: expected a floating .* of shape \(2,\)"
    with pytest.raises(ValueError, match=message):
        optim.scale_by_rss(initial_accumulator_value=torch.tensor([0.7, 0.3]))


@pytest.mark.parametrize(
    ("theirs", "here"), [("learning_rate", "lr"), ("epsilon", "eps")]
)
def test_names_of_other_libraries_are_told(theirs, here):
    message = rf"optim\.adagrad: {theirs}: expected .* got {theirs}=\. Write {here}=\."
    with pytest.raises(TypeError, match=message):
        optim.adagrad(**{theirs: 0.1})


def test_what_update_needs_is_said(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = optim.adagrad(weight_decay=0.1)
    state = optimizer.init(params)
    message = r"optim\.adagrad\.update: params: expected the parameters, .* got None"
    with pytest.raises(ValueError, match=message):
        optimizer.update(grads, state)
    message = r"optim\.adagrad\.update: state: expected a AdagradState .* got SGDState"
    with pytest.raises(TypeError, match=message):
        optimizer.update(grads, optim.sgd().init(params), params)
    wrong = tree.at(grads, "['in']['weight']").set(torch.randn(7, 2))
    text = "optim.adagrad.update: grads and params differ at ['in']['weight']: expected"
    with pytest.raises(ValueError, match=re.escape(text)):
        optimizer.update(wrong, state, params)
