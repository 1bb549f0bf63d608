# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from functorch_lab import optim, tree


def test_numbers_of_numpy_are_numbers():
    lr: Any = np.float32(0.25)
    state = optim.sgd(lr=lr).init(torch.randn(3))
    assert optim.get_hyperparams(state)["lr"].item() == 0.25
    with pytest.raises(TypeError, match=r"optim\.sgd: lr: .* got bool"):
        optim.sgd(lr=True)


def test_get_names_every_hyperparameter(lab):
    state = optim.adamw(lr=0.3, betas=(0.7, 0.8)).init(lab.params())
    got = tree.map(lambda leaf: leaf.item(), optim.get_hyperparams(state))
    expected = {"lr": 0.3, "betas": (0.7, 0.8), "eps": 1e-8, "weight_decay": 0.01}
    assert got == expected


@pytest.mark.parametrize(
    ("name", "start", "change"),
    [
        ("sgd", {"lr": 0.1, "momentum": 0.5}, {"lr": 0.03, "momentum": 0.8}),
        ("adam", {"lr": 0.1}, {"lr": 0.03, "betas": (0.7, 0.8), "eps": 1e-3}),
        ("adamw", {"lr": 0.1}, {"weight_decay": 0.4}),
        ("adam", {"lr": 0.1, "weight_decay": 0.1}, {"weight_decay": 0.0}),
    ],
)
def test_set_is_the_same_as_having_been_made_so(lab, name, start, change):
    params, grads = lab.params(), lab.grads(7)
    make = getattr(optim, name)
    state = optim.set_hyperparams(make(**start).init(params), **change)
    got, _ = lab.train(make(**start), params, grads, state)
    expected, _ = lab.train(make(**{**start, **change}), params, grads)
    lab.close(got, expected)


def test_set_reaches_into_chains_and_leaves_the_old_state_alone(lab):
    optimizer = optim.chain(optim.clip_by_global_norm(0.5), optim.sgd(lr=0.1))
    state = optimizer.init(lab.params())
    changed = optim.set_hyperparams(state, max_norm=0.7, lr=torch.tensor(0.2))
    assert optim.get_hyperparams(changed)["max_norm"].item() == 0.7
    assert optim.get_hyperparams(changed)["lr"].dtype == torch.float64
    assert optim.get_hyperparams(state)["max_norm"].item() == 0.5


def test_one_name_twice_in_a_chain_is_told_apart_by_position(lab):
    optimizer = optim.chain(optim.scale(0.3), optim.scale(0.7))
    state = optim.set_hyperparams(optimizer.init(lab.params()), **{"1.step_size": 0.9})
    got = {k: v.item() for k, v in optim.get_hyperparams(state).items()}
    assert got == {"0.step_size": 0.3, "1.step_size": 0.9}


def test_states_kept_in_containers_of_ones_own_are_found(lab):
    inner = optim.sgd(lr=0.1).init(lab.params())
    state = optim.set_hyperparams({"mine": [inner, torch.ones(2)]}, lr=0.3)
    assert optim.get_hyperparams(state)["lr"].item() == 0.3


def test_set_refuses_by_name(lab):
    where = r"optim\.set_hyperparams: "
    state = optim.sgd(lr=0.1, momentum=0.9).init(lab.params())
    with pytest.raises(ValueError, match=where + r"eps: .* \['lr', 'momentum'\], got"):
        optim.set_hyperparams(state, eps=0.1)
    with pytest.raises(ValueError, match=where + r"lr: expected a finite number >= 0"):
        optim.set_hyperparams(state, lr=-0.1)
    with pytest.raises(ValueError, match=where + r"lr: expected a floating tensor"):
        optim.set_hyperparams(state, lr=torch.tensor([0.1, 0.2]))
    with pytest.raises(TypeError, match=where + r"lr: .* got str"):
        optim.set_hyperparams(state, lr="0.1")
    with pytest.raises(TypeError, match=where + r"lr: .* got a schedule"):
        optim.set_hyperparams(state, lr=optim.schedules.constant(0.1))
    adam = optim.adam(lr=optim.schedules.constant(0.1)).init(lab.params())
    with pytest.raises(ValueError, match=where + r"lr: .* follows a schedule"):
        optim.set_hyperparams(adam, lr=0.1)
    with pytest.raises(TypeError, match=where + r"betas: .* got 0\.9"):
        optim.set_hyperparams(adam, betas=0.9)
    with pytest.raises(ValueError, match=where + r"betas: .* in \[0, 1\), got 1\.5"):
        optim.set_hyperparams(adam, betas=(0.9, 1.5))
    rmsprop = optim.rmsprop().init(lab.params())
    with pytest.raises(ValueError, match=where + r"alpha: .* in \[0, 1\), got 1\.5"):
        optim.set_hyperparams(rmsprop, alpha=1.5)
    adagrad = optim.adagrad(lr_decay=0.3).init(lab.params())
    with pytest.raises(ValueError, match=where + r"lr_decay: .* >= 0, got -0\.2"):
        optim.set_hyperparams(adagrad, lr_decay=-0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.adam(lr=torch.tensor(-1.0)), r"adam: lr: .* got -1\.0\. Pass"),
        (lambda: optim.sgd(lr=torch.tensor(float("nan"))), r"sgd: lr: .* got nan"),
        (
            lambda: optim.adamw(betas=(0.9, torch.tensor(1.5))),
            r"adamw: betas: .* \[0, 1\), got 1\.5",
        ),
        (
            lambda: optim.clip_by_global_norm(torch.tensor(0.0)),
            r"clip_by_global_norm: max_norm: .* got 0\.0",
        ),
        (
            lambda: optim.sgd(torch.tensor(-0.5, requires_grad=True)),
            r"sgd: lr: .* got -0\.5",
        ),
        (
            lambda: optim.set_hyperparams(
                optim.sgd().init(torch.ones(2)), lr=torch.tensor(-0.5)
            ),
            r"set_hyperparams: lr: .* got -0\.5",
        ),
        (
            lambda: optim.adam(lr=optim.schedules.cosine(-1.0, 10)),
            r"adam: lr: .* got -1\.0 from its schedule",
        ),
        (
            lambda: optim.sgd(
                lr=optim.schedules.warmup(
                    optim.schedules.linear(0.1, torch.tensor(-0.5), 5), 3
                )
            ),
            r"sgd: lr: .* got -0\.5 from its schedule",
        ),
    ],
)
def test_tensors_and_schedules_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_schedule_tells_its_values():
    schedules = optim.schedules
    for bad in (
        schedules.constant(-0.5),
        schedules.linear(0.1, -0.5, 3),
        schedules.cosine(0.1, 3, end_value=-0.5),
        schedules.exponential(-0.5, 0.9),
        schedules.step(-0.5, 3),
        schedules.warmup(0.1, 3, init_value=-0.5),
        schedules.warmup(-0.5, 3),
    ):
        with pytest.raises(ValueError, match=r"got -0\.5 from its schedule"):
            optim.sgd(lr=bad)
        optim.scale(bad)  # descent


def test_a_value_that_cannot_be_read_is_not_checked():
    def first(lr):
        optimizer = optim.sgd(lr=optim.schedules.cosine(lr, 5), momentum=lr)
        return optimizer.update(torch.ones(2), optimizer.init(torch.ones(2)))[0]

    lrs = torch.tensor([0.25, -0.5])
    expected = -lrs[:, None].expand(2, 2)
    torch.testing.assert_close(vmap(first)(lrs), expected)
    torch.testing.assert_close(grad(lambda lr: first(lr).sum())(lrs[1]).item(), -2.0)
    torch.testing.assert_close(make_fx(first)(lrs[1])(lrs[1]), expected[1])
    torch.compiler.reset()
    compiled = torch.compile(first, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(lrs[1]), expected[1])
    with FakeTensorMode():
        assert first(torch.tensor(-0.5)).shape == (2,)
    optim.sgd(lr=torch.tensor(-0.5, device="meta"))


def test_leaves_have_the_precision_and_device_of_the_params():
    for dtype, expected in [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ]:
        lr = torch.tensor(0.3, dtype=torch.float64)
        schedule = optim.schedules.linear(0.3, 0.1, 7)
        optimizer = optim.adam(lr=lr, eps=schedule)
        state = optimizer.init(torch.randn(3).to(dtype))
        _, state = optimizer.update(torch.randn(3).to(dtype), state)
        found = tree.leaves((state.hyperparams, state.scheduled, state.bias_correction))
        assert {leaf.dtype for leaf in found} == {expected}
        assert {leaf.shape for leaf in found} == {torch.Size()}


def test_a_tensor_that_was_given_is_copied_into_the_state():
    lr = torch.tensor(0.3)
    optimizer = optim.sgd(lr=lr)
    state = optimizer.init(torch.randn(3))
    state.hyperparams["lr"].mul_(2)  # what donation does to a state
    torch.testing.assert_close(lr, torch.tensor(0.3))
    torch.testing.assert_close(
        optimizer.init(torch.randn(3)).hyperparams["lr"], torch.tensor(0.3)
    )


SCHEDULED = {
    "sgd": {"lr": (0.1, 0.02), "momentum": (0.5, 0.9), "weight_decay": (0.3, 0.1)},
    "adam": {"lr": (0.1, 0.02), "weight_decay": (0.3, 0.1)},
    "adamw": {"lr": (0.1, 0.02), "eps": (0.3, 0.1)},
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_any_hyperparameter_follows_a_schedule(lab, name):
    params, grads = lab.params(), lab.grads(7)
    ends = SCHEDULED[name]
    make = getattr(optim, name)
    lines = {k: optim.schedules.linear(*v, 5) for k, v in ends.items()}
    got, _ = lab.train(make(**lines), params, grads)

    def by_hand(leaves):
        family = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[name]
        return getattr(torch.optim, family)(
            leaves, **{k: a for k, (a, _) in ends.items()}
        )

    class Lines:
        def __init__(self, optimizer):
            self.optimizer, self.count = optimizer, 0

        def step(self):
            self.count += 1
            for key, (a, b) in ends.items():
                value = a + (b - a) * min(self.count, 5) / 5
                self.optimizer.param_groups[0][key] = value

    expected, _ = lab.train_torch(by_hand, params, grads, Lines)
    lab.close(got, expected)


def test_a_scheduled_value_is_that_of_the_next_update():
    optimizer = optim.sgd(lr=optim.schedules.linear(1.0, 0.5, 4))
    state = optimizer.init(torch.ones(2))
    updates, after = optimizer.update(torch.ones(2), state)
    assert optim.get_hyperparams(state)["lr"].item() == -updates[0].item() == 1.0
    assert optim.get_hyperparams(after)["lr"].item() == 0.875


def test_one_beta_may_be_scheduled(lab):
    params, grads = lab.params(), lab.grads(5)
    got, _ = lab.train(optim.adam(betas=(0.8, lambda step: 0.95)), params, grads)
    expected, _ = lab.train(optim.adam(betas=(0.8, 0.95)), params, grads)
    lab.close(got, expected)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_sweep_is_vmap_over_states(lab, name):
    params, grads = lab.params(), lab.grads(5)
    optimizer = getattr(optim, name)()
    lrs = torch.tensor([0.01, 0.03, 0.2], dtype=torch.float64)

    def run(lr):
        state = optim.set_hyperparams(optimizer.init(params), lr=lr)
        return lab.train(optimizer, params, grads, state)[0][-1]

    together = vmap(run)(lrs)
    for index, lr in enumerate(lrs):
        alone, _ = lab.train(getattr(optim, name)(lr=lr.item()), params, grads)
        lab.close(tree.map(lambda leaf, i=index: leaf[i], together), alone[-1])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("is_fused", [False, True])
def test_the_gradient_of_the_lr_is_the_finite_difference(lab, name, is_fused):
    params, grads = lab.params(), lab.grads(5)
    optimizer = getattr(optim, name)()
    optimizer = optim.fused(optimizer) if is_fused else optimizer

    def loss(lr):
        state = optim.set_hyperparams(optimizer.init(params), lr=lr)
        last = lab.train(optimizer, params, grads, state)[0][-1]
        return tree.vdot(last, last)

    lr, h = torch.tensor(0.05, dtype=torch.float64), 1e-5
    expected = (loss(lr + h) - loss(lr - h)) / (2 * h)
    lab.close(grad(loss)(lr), expected, rtol=1e-7)
    leaf = lr.clone().requires_grad_()
    lab.close(torch.autograd.grad(loss(leaf), leaf)[0], expected, rtol=1e-7)


def test_the_derivative_of_an_update_is_finite_where_the_gradient_is_0():
    optimizer = optim.adam(lr=0.5, eps=0.25)
    state = optimizer.init(torch.ones(3))
    jacobian = torch.func.jacrev(lambda g: optimizer.update(g, state)[0])(
        torch.zeros(3)
    )
    torch.testing.assert_close(jacobian, -0.5 / 0.25 * torch.eye(3))
