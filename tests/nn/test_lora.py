# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""lora against the same adapters written by hand with torch.nn.functional."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn as torch_nn

import functorch_lab as fl
from functorch_lab import nn, optim, random, tree
from parity import close, loss_of

KEY = random.key(11)
ALPHA, RANK = 5.0, 2
FACTOR = 2.5


def numbers(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def numbers_like(params, seed=3):
    return tree.map(lambda leaf: numbers(leaf.shape, seed + leaf.numel()), params)


def linear_by_hand(params, x):
    base, more = params["base"], params["lora"]["weight"]
    bottleneck = F.linear(x, more["a"])
    return F.linear(x, base["weight"], base["bias"]) + FACTOR * F.linear(
        bottleneck, more["b"]
    )


def conv_by_hand(params, x):
    """`a` as a convolution to `rank` channels, `b` as one with a kernel of 1."""
    base, more = params["base"], params["lora"]["weight"]
    first = more["a"].reshape(RANK, *base["weight"].shape[1:])
    change = F.conv2d(F.conv2d(x, first, stride=2), more["b"][:, :, None, None])
    return F.conv2d(x, base["weight"], base["bias"], stride=2) + FACTOR * change


def embedding_by_hand(params, x):
    more = params["lora"]["weight"]
    row = F.embedding(x, params["base"]["weight"])
    return row + FACTOR * F.embedding(x, more["b"]) @ more["a"]


CASES = {
    "linear": (nn.linear(5, 3), linear_by_hand, numbers((7, 5), 1)),
    "conv2d": (
        nn.conv2d(3, 5, (2, 3), stride=2),
        conv_by_hand,
        numbers((2, 3, 7, 5), 2),
    ),
    "embedding": (
        nn.embedding(7, 5),
        embedding_by_hand,
        torch.tensor([[5, 2, 5], [3, 6, 0]]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_by_hand(name):
    layer, by_hand, x = CASES[name]
    adapted = nn.lora(layer, RANK, alpha=ALPHA)
    params = numbers_like(adapted.init(KEY))
    close(adapted.apply(params, x), by_hand(params, x))
    loss = lambda f: lambda p, x: loss_of(f(p, x) ** 2)  # noqa: E731
    leaves, structure = tree.flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    expected = torch.autograd.grad(
        loss(by_hand)(structure.unflatten(leaves), x), leaves
    )
    close(tree.leaves(fl.grad(loss(adapted.apply))(params, x)), list(expected))


def test_derivatives_of_first_and_second_order():
    adapted = nn.lora(nn.linear(3, 2), 1, alpha=1.7)
    params = numbers_like(adapted.init(KEY))
    leaves, structure = tree.flatten((params, numbers((5, 3), 1)))
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def function(*leaves):
        return adapted.apply(*structure.unflatten(leaves)).tanh()

    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves)


MODEL = nn.sequential(
    nn.conv2d(2, 3, 3), nn.layer_norm((3, 5)), nn.relu, nn.flatten(), nn.linear(45, 5)
)


def test_it_begins_as_the_layer_and_only_where_chosen():
    adapted = nn.lora(MODEL, 3)
    params, x = adapted.init(KEY), numbers((2, 2, 5, 7), 5, torch.float32)
    assert tree.structure(params["base"]) == tree.structure(MODEL.init(KEY))
    before = MODEL.apply(params["base"], x)
    torch.testing.assert_close(adapted.apply(params, x), before, rtol=0, atol=0)
    # This norm's bias has two axes, but is not called weight.
    shapes = tree.map(lambda leaf: tuple(leaf.shape), params["lora"])
    assert shapes == (
        {"weight": {"a": (3, 18), "b": (3, 3)}, "bias": ()},
        {"weight": {"a": (3, 5), "b": (3, 3)}, "bias": ()},
        (),
        (),
        {"weight": {"a": (3, 45), "b": (5, 3)}, "bias": ()},
    )
    for path, leaf in zip(
        tree.paths(params["lora"]), tree.leaves(params["lora"]), strict=True
    ):
        bound = 1 / math.sqrt(leaf.shape[1])
        most = leaf.abs().max()
        assert most == 0 if path.endswith("['b']") else 0.7 * bound < most <= bound
    first, second = (params["lora"][i]["weight"]["a"] for i in (0, 4))
    # From one key they would be multiples of the same numbers.
    ratios = first.flatten() / second.flatten()[:54]
    assert ratios.std() > 0.1
    other = nn.lora(MODEL, 3).init(random.key(12))
    assert not torch.equal(other["lora"][0]["weight"]["a"], first)


def test_a_pattern_or_a_predicate_chooses():
    by_pattern = nn.lora(MODEL, 2, where="4.*").init(KEY)["lora"]
    assert tree.paths(by_pattern) == ["[4]['weight']['a']", "[4]['weight']['b']"]
    by_function = nn.lora(MODEL, 2, where=lambda path, leaf: leaf.ndim == 4)
    paths = tree.paths(by_function.init(KEY)["lora"])
    assert paths == ["[0]['weight']['a']", "[0]['weight']['b']"]


def test_the_adapters_alone_are_trained():
    layer = nn.sequential(nn.linear(5, 7), nn.tanh, nn.linear(7, 3))
    adapted = nn.lora(layer, 2, alpha=3.0)
    params, x = numbers_like(adapted.init(KEY)), numbers((7, 5), 1)

    def loss(params, x):
        return adapted.apply(params, x).square().mean()

    def of_adapters(adapters, base, x):
        return loss({"base": base, "lora": adapters}, x)

    whole = fl.grad(loss)(params, x)
    part = fl.grad(of_adapters)(params["lora"], params["base"], x)
    close(part, whole["lora"])
    optimizer = optim.freeze(optim.sgd(lr=0.1), "base.*")
    updates, _ = optimizer.update(whole, optimizer.init(params), params)
    after = optim.apply_updates(params, updates)
    torch.testing.assert_close(after["base"], params["base"], rtol=0, atol=0)
    close(after["lora"], tree.map(lambda p, g: p - 0.1 * g, params["lora"], part))
    # One Adam state, and gradient, for each element of the adapters and no more.
    state = optim.adam(lr=0.1).init(params["lora"])
    assert tree.size(state) < 2 * tree.size(params["lora"]) + 20


def test_merged_params_are_those_of_the_layer():
    layer, by_hand, x = CASES["conv2d"]
    adapted = nn.lora(layer, RANK, alpha=ALPHA)
    params = numbers_like(adapted.init(KEY))
    merged = nn.merge(adapted, params)
    assert tree.structure(merged) == tree.structure(layer.init(KEY))
    close(layer.apply(merged, x), by_hand(params, x))
    close(merged["bias"], params["base"]["bias"])


def test_of_a_population_that_has_its_base_in_common():
    adapted = nn.lora(nn.linear(5, 3), RANK, alpha=ALPHA)
    base = numbers_like(adapted.init(KEY))["base"]
    keys = random.split(KEY, 3)
    adapters = [
        numbers_like(adapted.init(k, base=base)["lora"], i) for i, k in enumerate(keys)
    ]
    x = numbers((7, 5), 1)
    together = fl.vmap(lambda a: adapted.apply({"base": base, "lora": a}, x))(
        tree.stack(adapters)
    )
    each = [linear_by_hand({"base": base, "lora": a}, x) for a in adapters]
    close(together, torch.stack(each))


def test_inside_repeat():
    block = nn.lora(nn.linear(5, 5), 2)
    model = nn.repeat(block, 3)
    params = numbers_like(model.init(KEY))
    assert params["lora"]["weight"]["a"].shape == (3, 2, 5)
    y = x = numbers((7, 5), 1)
    for each in tree.unstack(params):
        y = block.apply(each, y)
    close(model.apply(params, x), y)


def test_the_dtype_stays_that_of_the_base():
    adapted = nn.lora(nn.linear(5, 3), 2)
    params = adapted.init(KEY)
    params["base"] = tree.cast(params["base"], torch.bfloat16)
    assert nn.merge(adapted, params)["weight"].dtype == torch.bfloat16
    again = adapted.init(KEY, base=params["base"])["lora"]["weight"]
    assert {leaf.dtype for leaf in again.values()} == {torch.bfloat16}


class Normed(torch_nn.Module):
    """A stateful module with a parameter that no method resets, called by name."""

    def __init__(self):
        super().__init__()
        self.dense = torch_nn.Linear(5, 3)
        self.norm = torch_nn.BatchNorm1d(3)
        self.scale = torch_nn.Parameter(torch.tensor([0.3, 0.7, 1.9]))

    def forward(self, x, *, shift):
        return self.norm(self.dense(x)) * self.scale + shift


def test_a_bridged_module_with_a_state_and_inputs_by_name():
    module = Normed().double()
    layer, base, state = nn.from_module(module)
    adapted = nn.lora(layer, RANK, alpha=ALPHA)
    params, begin = adapted.init(KEY, base=(base, state))
    assert begin is state
    assert tree.paths(params["lora"]) == [
        "['dense']['weight']['a']",
        "['dense']['weight']['b']",
    ]
    params["lora"]["dense"]["weight"]["b"] = b = numbers((3, RANK), 5)
    x, shift = numbers((7, 5), 1), torch.tensor(0.3)
    y, after = adapted.apply(params, state, x, shift=shift, train=True)
    with torch.no_grad():
        module.dense.weight += FACTOR * b @ params["lora"]["dense"]["weight"]["a"]
    close(y, module.train()(x, shift=shift).detach())
    close(after["norm"]["running_mean"], module.norm.running_mean)


def test_a_stateful_layer_draws_its_base():
    layer = nn.sequential(nn.linear(5, 3), nn.batch_norm(3, spatial_dims=0))
    adapted = nn.lora(layer, 2)
    params, state = adapted.init(KEY)
    x = numbers((7, 5), 1, torch.float32)
    expected = layer.apply(params["base"], state, x, train=True)
    actual = adapted.apply(params, state, x, train=True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_key_and_train_reach_the_layer():
    layer = nn.sequential(nn.linear(5, 3), nn.dropout(0.4))
    adapted = nn.lora(layer, 2)
    params, x = adapted.init(KEY), numbers((7, 5), 1, torch.float32)
    y = adapted.apply(params, x, key=KEY, train=True)
    assert (y == 0).any()
    expected = layer.apply(params["base"], x, key=KEY, train=True)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


LINEAR = nn.lora(nn.linear(5, 3), 2)
GIVEN = LINEAR.init(KEY)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.lora(MODEL, 0), ValueError, "lora: rank: .* at least 1, got 0"),
        (lambda: nn.lora(MODEL, 2.0), TypeError, "lora: rank: .* integer, got float"),
        (
            lambda: nn.lora(MODEL, 4).init(KEY),
            ValueError,
            r"lora: rank: .* at most 3, the rank of \[0\]\['weight'\] .*\(3, 2, 3, 3\)",
        ),
        (lambda: nn.lora(MODEL, 2, alpha="8"), TypeError, "alpha: .* got str"),
        (lambda: nn.lora(MODEL, 2, alpha=-8.0), ValueError, "alpha: .* got -8.0"),
        (lambda: nn.lora(MODEL, 2, where=3), TypeError, "lora: where: .* got int"),
        (
            lambda: nn.lora(MODEL, 2, where="head.*").init(KEY),
            ValueError,
            r"got 'head.\*', which chooses none. There are \[0\]\['weight'\], \[1\]",
        ),
        (
            lambda: nn.lora(nn.linear(5, 3), 2, where="*bias").init(KEY),
            ValueError,
            r"which chooses \[\"\['bias'\]\"\]. There are \['weight'\]",
        ),
        (
            lambda: nn.lora(nn.relu, 2).init(KEY),
            ValueError,
            "chooses none. There is no such leaf",
        ),
        (
            lambda: nn.lora(torch_nn.Linear(5, 3), 2),
            TypeError,
            "lora: layer: expected a Layer .* got Linear",
        ),
        (
            lambda: LINEAR.apply(GIVEN["base"], torch.ones(5)),
            ValueError,
            r"lora: params: expected .*\['base', 'lora'\], got .*\['bias', 'weight'\]",
        ),
        (
            lambda: LINEAR.apply({**GIVEN, "lora": {"bias": ()}}, torch.ones(5)),
            ValueError,
            r"lora: params: params\['base'\] and params\['lora'\] differ .*'weight'",
        ),
        (
            lambda: LINEAR.apply(
                {**GIVEN, "lora": {"weight": {"a": 2.0, "b": 3.0}, "bias": ()}},
                torch.ones(5),
            ),
            ValueError,
            r"params\['lora'\]\['weight'\]: expected what init made",
        ),
        (
            lambda: LINEAR.init(KEY, base={"weight": 2.0}),
            TypeError,
            r"lora: base\['weight'\]: expected a tensor, got float",
        ),
        (
            lambda: nn.lora(nn.stateful(nn.linear(5, 3)), 2).init(KEY, base={}),
            TypeError,
            r"lora: base: expected a pair \(params, state\), .* got dict",
        ),
        (
            lambda: nn.lora(nn.linear(5, 3), 3).apply(GIVEN, torch.ones(5)),
            ValueError,
            r"lora: params\['lora'\]\['weight'\]: .*\(3, 5\), got {'a': \(2, 5\), 'b'",
        ),
        (
            lambda: nn.merge(nn.linear(5, 3), GIVEN),
            TypeError,
            "merge: layer: .* nn.lora or nn.weight_norm made, got another Layer",
        ),
        (
            lambda: nn.merge(LINEAR, ()),
            ValueError,
            "lora: params: expected a dict with .* got tuple",
        ),
    ],
)
def test_errors_say_what_was_expected_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()
