# SPDX-License-Identifier: Apache-2.0
"""New parameters from a key, and the way back into a module."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import functorch_lab as fl
from bridge_models import Language, ResNet, filled, numbers, weighted

EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}


def test_load_into_writes_params_and_state():
    source, target = filled(ResNet(), seed=3), filled(ResNet(), seed=5)
    layer, params, state = fl.nn.from_module(source)
    x = numbers(3, 3, 5, 7)
    _, state = layer.apply(params, state, x, train=True)
    own = [p.data_ptr() for p in target.parameters()]
    fl.nn.load_into(target, params)
    assert not target.bn1.running_mean.any()
    fl.nn.load_into(target, params, state)
    source(x)
    assert_close(target.state_dict(), source.state_dict(), rtol=1e-12, atol=1e-13)
    assert [p.data_ptr() for p in target.parameters()] == own
    assert all(p.requires_grad for p in target.parameters())
    with torch.no_grad():
        target.fc.weight.zero_()
    assert params["fc"]["weight"].all()


def test_load_into_takes_tied_weights_and_parametrizations():
    module = filled(Language())
    params = fl.nn.from_module(module).params
    params["encoder"]["weight"] = params["encoder"]["weight"] + 2
    fl.nn.load_into(module, params)
    assert module.decoder.weight is module.encoder.weight
    assert_close(module.decoder.weight.detach(), params["encoder"]["weight"], **EXACT)

    module = filled(nn.utils.parametrizations.weight_norm(nn.Linear(5, 7)))
    layer, params, _ = fl.nn.from_module(module)
    params = fl.tree.map(lambda p: 2 * p + 0.3, params)
    fl.nn.load_into(module, params)
    x = numbers(3, 5)
    assert_close(module(x).detach(), layer.apply(params, x), rtol=1e-12, atol=1e-13)


def test_load_into_takes_the_state_that_was_named():
    module = nn.Module()
    module.register_buffer("count", torch.tensor(2.0))
    module.register_buffer("other", torch.tensor(3.0))
    fl.nn.load_into(module, (), {"count": torch.tensor(7.0)})
    assert (module.count, module.other) == (7.0, 3.0)


def test_nothing_is_loaded_unless_everything_fits():
    module = filled(ResNet())
    _, params, state = fl.nn.from_module(filled(ResNet(), seed=5))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"load_into: params\['x'\]: expected no such"):
        fl.nn.load_into(module, {**params, "x": torch.ones(2)})
    bad = {**params["fc"], "bias": torch.ones(3)}
    with pytest.raises(ValueError, match=r"\['fc'\]\['bias'\]: .*\(2,\), got \(3,\)"):
        fl.nn.load_into(module, {**params, "fc": bad})
    with pytest.raises(ValueError, match=r"load_into: state\['bn1'\].*got nothing"):
        fl.nn.load_into(module, params, {"layer1": state["layer1"]})
    with pytest.raises(ValueError, match=r"load_into: state\['x'\]: expected no such"):
        fl.nn.load_into(module, params, {**state, "x": torch.ones(2)})
    with pytest.raises(TypeError, match=r"load_into: module: .*got dict"):
        fl.nn.load_into(params, params)
    assert_close(module.state_dict(), before, **EXACT)


def test_gradients_feed_an_optimizer_of_torch():
    ours, theirs = filled(Language()), filled(Language())
    tokens = torch.tensor([[2, 3, 5], [7, 10, 4]])
    layer = fl.nn.from_module(ours).layer
    adams = [torch.optim.Adam(m.parameters(), lr=0.03) for m in (ours, theirs)]

    def loss_fn(params):
        return weighted(layer.apply(params, tokens)["logits"])

    grads: Any = ()
    for _ in range(3):
        grads = fl.grad(loss_fn)(fl.nn.from_module(ours).params)
        fl.nn.set_grads(ours, grads)
        adams[0].step()
        adams[1].zero_grad()
        weighted(theirs(tokens)["logits"]).backward()
        adams[1].step()
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)
    ours.zero_grad(set_to_none=False)
    assert grads["encoder"]["weight"].any()  # the caller's, not the module's


def test_set_grads_takes_holes_and_names_what_is_wrong():
    module = nn.Linear(2, 3)
    module.bias.grad = torch.ones(3)
    grads = {"weight": torch.full((3, 2), 5.0), "bias": ()}
    fl.nn.set_grads(module, grads)
    assert module.bias.grad is None
    assert_close(module.weight.grad, grads["weight"], **EXACT)
    with pytest.raises(ValueError, match=r"set_grads: grads\['bias'\]: .*got nothing"):
        fl.nn.set_grads(module, {"weight": torch.ones(3, 2)})
    with pytest.raises(
        ValueError, match=r"grads\['weight'\]: .*\(3, 2\), got \(2, 3\)"
    ):
        fl.nn.set_grads(module, {"weight": torch.ones(2, 3), "bias": torch.ones(3)})
    with pytest.raises(TypeError, match=r"grads\['weight'\]: expected torch.float32, "):
        fl.nn.set_grads(module, fl.tree.cast(grads, torch.float64))
    with pytest.raises(TypeError, match=r"set_grads: module: .*got tuple"):
        fl.nn.set_grads((), grads)  # pyright: ignore[reportArgumentType]


MODULES = {
    "linear": lambda: nn.Linear(200, 300),
    "conv": lambda: nn.Conv2d(30, 20, 5),
    "embedding": lambda: nn.Embedding(300, 50),
    "attention": lambda: nn.MultiheadAttention(96, 2),
    "lstm": lambda: nn.LSTM(60, 50),
    "bilinear": lambda: nn.Bilinear(30, 20, 10),
    "norms": lambda: nn.Sequential(nn.LayerNorm(5), nn.GroupNorm(2, 4), nn.PReLU(3)),
    "transformer": lambda: nn.Transformer(64, 2, 1, 1, 96, batch_first=True),
}


@pytest.mark.parametrize("name", MODULES)
def test_init_draws_from_the_modules_distribution(name):
    module = MODULES[name]()
    layer, params, _ = fl.nn.from_module(module)
    drawn = layer.init(fl.random.key(3))
    assert fl.tree.structure(drawn) == fl.tree.structure(params)
    paths = fl.tree.paths(params)
    pairs = zip(paths, fl.tree.leaves(params), fl.tree.leaves(drawn), strict=True)
    for path, own, other in pairs:
        assert own.shape == other.shape, path
        if own.std() == 0:  # zeros, ones
            assert_close(other, own, **EXACT)
        else:
            assert not torch.equal(own, other), path
            wide = {"rtol": 8 / own.numel() ** 0.5, "atol": 0.0}
            assert_close(other.std(), own.std(), **wide)
            assert_close(other.abs().max(), own.abs().max(), rtol=0.5, atol=0)


def test_init_is_a_function_of_the_key_alone():
    module = filled(ResNet())
    layer, params, state = fl.nn.from_module(module)
    before = copy.deepcopy(module.state_dict())
    generator = torch.get_rng_state()
    key, other = fl.random.split(fl.random.key(3)).unbind()
    first = layer.init(key)
    assert_close(layer.init(key), first, **EXACT)
    assert_close(torch.get_rng_state(), generator, **EXACT)
    assert_close(module.state_dict(), before, **EXACT)
    assert fl.tree.structure(first) == fl.tree.structure((params, state))
    weight = first[0]["layer1"]["0"]["conv1"]["weight"]
    assert weight.dtype == torch.float64
    assert not torch.equal(weight, first[0]["layer1"]["0"]["conv2"]["weight"])
    assert not torch.equal(
        weight, layer.init(other)[0]["layer1"]["0"]["conv1"]["weight"]
    )
    # The state begins as a new module's, also where this module's is another.
    module(numbers(3, 3, 5, 7))
    assert_close(fl.nn.from_module(module).layer.init(key), first, **EXACT)
    many = fl.vmap(layer.init)(torch.stack([key, other]))
    assert_close(fl.tree.map(lambda leaf: leaf[0], many), first, **EXACT)


def test_init_keeps_weights_tied():
    layer, params, _ = fl.nn.from_module(Language())
    drawn = layer.init(fl.random.key(3))
    assert fl.tree.structure(drawn) == fl.tree.structure(params)


def test_init_names_what_cannot_be_reset():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 3)
            self.second = nn.ParameterList([torch.ones(3)])

    layer = fl.nn.from_module(nn.Sequential(Free())).layer
    with pytest.raises(TypeError, match=r"init: module: .*got none in \['0.second'\]"):
        layer.init(fl.random.key(0))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"none in \['parametrizations.weight'\]"):
        fl.nn.from_module(normed).layer.init(fl.random.key(0))
