# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportFunctionMemberAccess=false
"""A small net with batch norm, trained and evaluated by `train`, against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn as torch_nn

import functorch_lab as fl
from functorch_lab import nn, random, tree

MODEL = nn.sequential(
    nn.conv2d(1, 5, 3, bias=False),
    nn.batch_norm(5, spatial_dims=2),
    nn.relu,
    nn.residual(nn.sequential(nn.conv2d(5, 5, 3, padding=1), nn.relu)),
    nn.flatten(),
    nn.linear(5 * 36, 10),
)


class Residual(torch_nn.Sequential):
    def forward(self, input):  # noqa: A002  (torch's name)
        return input + super().forward(input)


def module_like(params, state):
    module = torch_nn.Sequential(
        torch_nn.Conv2d(1, 5, 3, bias=False),
        torch_nn.BatchNorm2d(5),
        torch_nn.ReLU(),
        Residual(torch_nn.Conv2d(5, 5, 3, padding=1), torch_nn.ReLU()),
        torch_nn.Flatten(),
        torch_nn.Linear(5 * 36, 10),
    ).double()
    module.load_state_dict(by_name(params, state))
    return module


def by_name(params, state):
    parts = {"0": params[0], "1": params[1] | state[1], "3.0": params[3][0]}
    parts["5"] = params[5]
    return {f"{at}.{k}": v for at, part in parts.items() for k, v in part.items()}


def loss_fn(params, model_state, x, y):
    logits, model_state = MODEL.apply(params, model_state, x, train=True)
    return fl.losses.cross_entropy(logits, y).mean(), model_state


def predict(variables, x):
    return MODEL.apply(*variables, x)[0]


@pytest.fixture(scope="module")
def digits():
    x, y = fl.data.digits().train
    return x[:70].reshape(-1, 1, 8, 8).double(), y[:70]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_equals_torch(digits, monkeypatch, accumulate):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    torch.compiler.reset()
    x, y = digits
    params, model_state = tree.cast(MODEL.init(random.key(3)), torch.float64)
    module = module_like(params, model_state)
    peer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    optimizer = fl.optim.sgd(lr=0.05, momentum=0.9)
    step = fl.train.make_step(loss_fn, optimizer, stateful=True, accumulate=accumulate)
    state = fl.train.init(params, optimizer, key=random.key(5), model_state=model_state)
    for i in range(5):
        batch = x[i * 14 : (i + 1) * 14], y[i * 14 : (i + 1) * 14]
        state, logs = step(state, *batch)
        peer.zero_grad()
        parts = zip(*(each.chunk(accumulate) for each in batch), strict=True)
        loss = torch.stack([F.cross_entropy(module(a), b) for a, b in parts]).mean()
        loss.backward()
        peer.step()
        torch.testing.assert_close(logs["loss"], loss.detach())
    assert step.traces == 1
    ours = by_name(state.params, state.model_state)
    torch.testing.assert_close(ours, dict(module.state_dict()), rtol=1e-9, atol=1e-12)
    assert ours["1.num_batches_tracked"] == 5 * accumulate

    evaluate = fl.train.make_evaluate(
        predict, {"accuracy": fl.metrics.accuracy()}, batch_size=32
    )
    values = evaluate((state.params, state.model_state), x, y)
    expected = (module.eval()(x).argmax(-1) == y).double().mean()
    torch.testing.assert_close(values["accuracy"].double(), expected, rtol=1e-6, atol=0)
    assert expected > 0.15  # above chance, and so not of a net that says one digit


def test_one_sample_and_a_loss_of_samples_are_refused_by_the_step(digits):
    x, y = digits
    optimizer = fl.optim.sgd(lr=0.05)
    norm = nn.batch_norm(64, spatial_dims=0)
    params, model_state = tree.cast(norm.init(random.key(3)), torch.float64)

    def loss_fn(params, model_state, x, y):
        out, model_state = norm.apply(params, model_state, x, train=True)
        return (out.mean(-1) - y).square().mean(), model_state

    def of_samples(params, x, y):
        return loss_fn(params, model_state, x, y)[0]

    state = fl.train.init(params, optimizer, key=random.key(5), model_state=model_state)
    step = fl.train.make_step(loss_fn, optimizer, stateful=True)
    with pytest.raises(ValueError, match=r"nn.batch_norm: x: .* one value per channel"):
        step(state, x[:1].flatten(1), y[:1])
    step = fl.train.make_step(fl.mean_over_batch(of_samples), optimizer)
    with pytest.raises(ValueError, match=r"nn.batch_norm: x: .* one sample of a vmap"):
        step(state, x.flatten(1), y)


def test_one_compiled_step_in_half_precision_keeps_the_statistics_in_float32(digits):
    torch.compiler.reset()
    x, y = digits
    optimizer = fl.optim.adam(lr=0.01)
    params, model_state = MODEL.init(random.key(3))
    state = fl.train.init(params, optimizer, key=random.key(5), model_state=model_state)
    step = fl.train.make_step(
        loss_fn, optimizer, stateful=True, compute_dtype=torch.bfloat16
    )
    state, logs = step(state, x.float(), y)
    first = logs["loss"].item()
    _, expected = loss_fn(params, model_state, x.float(), y)
    for _ in range(9):
        state, logs = step(state, x.float(), y)
    assert logs["loss"] < 0.7 * first
    statistics = state.model_state[1]
    assert statistics["running_mean"].dtype == torch.float32
    assert statistics["num_batches_tracked"] == 10
    kinds = [leaf.dtype for leaf in tree.leaves(state.model_state)]
    assert kinds == [leaf.dtype for leaf in tree.leaves(expected)]
