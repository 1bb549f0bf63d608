# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false
"""remat: the same layer, computed again for the backward pass."""

import pytest
import torch
from torch import nn as torch_nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop

import functorch_lab as fl
from functorch_lab import nn, random, tree
from functorch_lab.transforms import _compile
from functorch_lab.types import Layer
from parity import close

KEY = random.key(11)


def numbers(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


X = numbers((7, 5), 1)
BLOCK = nn.sequential(nn.linear(5, 5), nn.tanh, nn.dropout(0.3))


def double(made):
    return tree.map(lambda t: t.double() if t.is_floating_point() else t, made)


def loss_of(model):
    def loss(params, x, key):
        return model.apply(params, x, key=key, train=True).square().mean()

    return loss


def test_outputs_and_gradients_stay():
    model = nn.remat(BLOCK)
    params = double(model.init(KEY))
    torch.testing.assert_close(model.init(KEY), BLOCK.init(KEY), rtol=0, atol=0)
    expected = fl.value_and_grad(loss_of(BLOCK), (0, 1))(params, X, KEY)
    close(fl.value_and_grad(loss_of(model), (0, 1))(params, X, KEY), expected)
    per_sample = fl.vmap(fl.grad(loss_of(model)), (None, 0, 0))
    keys = random.split(KEY, len(X))
    close(
        per_sample(params, X, keys),
        fl.vmap(fl.grad(loss_of(BLOCK)), (None, 0, 0))(params, X, keys),
    )


def test_it_is_computed_once_more():
    count = []

    def apply(params, x, *, key=None, train=False):
        count.append((key is KEY, train))
        return torch.tanh(x * params["w"])

    layer = nn.remat(Layer(lambda key: {"w": torch.ones(())}, apply))
    params = {"w": torch.tensor(0.7, dtype=torch.float64)}
    grads = fl.grad(loss_of(layer))(params, X, KEY)
    assert count == [(True, True)] * 2
    y = torch.tanh(0.7 * X)
    close(grads["w"], (2 * y * (1 - y**2) * X).mean())


def compiled_tanhs(model, params, monkeypatch):
    """How many tanh the compiler is given to compute, and the result."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return boxed_nop(graph, inputs)

    monkeypatch.setattr(_compile, "BACKEND", aot_autograd(fw_compiler=keep))
    result = fl.jit(fl.value_and_grad(loss_of(model)))(params, X, KEY)
    (graph,) = graphs
    tanh = torch.ops.aten.tanh.default
    return sum(node.target is tanh for node in graph.graph.nodes), result


def test_it_is_computed_once_more_in_compiled_code(monkeypatch):
    # The tanh is inside: the last result of a block is kept as the next one's input.
    block = nn.sequential(nn.linear(5, 3), nn.tanh, nn.linear(3, 5))
    plain, light = nn.repeat(block, 2), nn.repeat(nn.remat(block), 2)
    params = double(plain.init(KEY))
    tanhs, actual = compiled_tanhs(light, params, monkeypatch)
    assert tanhs == 4
    close(actual, fl.value_and_grad(loss_of(plain))(params, X, KEY))


def test_a_stateful_layer():
    count = []

    def tanh(x):
        count.append(1)
        return torch.tanh(x)

    layer = nn.sequential(nn.batch_norm(5, spatial_dims=0), tanh, nn.linear(5, 3))
    light = nn.remat(layer)
    params, state = double(light.init(KEY))

    def loss(model):
        def loss(params, state, x):
            y, state = model.apply(params, state, x, train=True)
            return y.square().mean(), state

        return fl.value_and_grad(loss, has_aux=True)(params, state, X)

    expected = loss(layer)
    assert len(count) == 1
    close(loss(light), expected)
    assert len(count) == 3


class Shifted(torch_nn.Module):
    """A module that is called by name, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.dense = torch_nn.Linear(5, 3)

    def forward(self, *, x, shift):
        return {"y": torch.tanh(self.dense(x)) + shift}


def test_a_bridged_module_with_inputs_by_name():
    module = Shifted().double()
    layer, params, _ = nn.from_module(module)
    light, shift = nn.remat(layer), torch.tensor(0.3)
    grads = fl.grad(lambda p: light.apply(p, x=X, shift=shift)["y"].square().sum())(
        params
    )
    module(x=X, shift=shift)["y"].square().sum().backward()
    close(grads["dense"]["weight"], module.dense.weight.grad)


def test_a_module_is_refused():
    with pytest.raises(
        TypeError, match=r"remat: layer: expected a Layer .* got Linear"
    ):
        nn.remat(torch_nn.Linear(5, 3))
