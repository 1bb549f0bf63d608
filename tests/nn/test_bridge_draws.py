# SPDX-License-Identifier: Apache-2.0
"""What a bridged module draws is a function of the key, with torch's distribution."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import functorch_lab as fl
from bridge_models import Language, filled, numbers

EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}
N = 40_000


class Calls(nn.Module):
    """A module whose forward is the function given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs, **named):
        return self.function(*inputs, **named)


def bridged(function):
    return fl.nn.from_module(Calls(function)).layer


def alike(x):
    """40 000 copies of a number along the first axis of a batch of channels."""
    return torch.full((N, 2, 1), x, dtype=torch.float64)


def attend(x):
    torch.testing.assert_close(x.shape, (N, 2, 1))
    return F.scaled_dot_product_attention(x, x, x + x, dropout_p=0.3)


def in_place(name, *args, **kwargs):
    return lambda x: getattr(torch.empty_like(x), name)(*args, **kwargs)


DRAWS = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "torch.dropout": lambda x: torch.dropout(x, 0.3, True),
    "dropout, in place": lambda x: F.dropout(x.clone(), 0.3, inplace=True),
    "dropout1d": lambda x: F.dropout1d(x, 0.3),
    "dropout2d": lambda x: F.dropout2d(x[..., None], 0.3)[..., 0],
    "dropout3d": lambda x: F.dropout3d(x[..., None, None], 0.3)[..., 0, 0],
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "feature_alpha": lambda x: F.feature_alpha_dropout(x, 0.3, training=True),
    "attention": attend,
    "rrelu": lambda x: F.rrelu(-x, 0.2, 0.7, training=True),
    "rrelu, above 0": lambda x: F.rrelu(x, training=True),
    "rand": lambda x: torch.rand(x.shape, dtype=x.dtype),
    "randn": lambda x: torch.randn(*x.shape, dtype=x.dtype),
    "rand_like": torch.rand_like,
    "randn_like": lambda x: 2 + torch.randn_like(x),
    "randint": lambda x: torch.randint(2, 7, x.shape),
    "randint, from 0": lambda x: torch.randint(5, size=x.shape),
    "bernoulli": lambda x: torch.bernoulli(x / 7),
    "bernoulli, p": lambda x: x.bernoulli(0.3),
    "normal": lambda x: torch.normal(x, 2.0),
    "normal, size": lambda x: torch.normal(2.0, 3.0, x.shape, dtype=x.dtype),
    "normal_": in_place("normal_", 2.0, std=3.0),
    "uniform_": in_place("uniform_", -2, 7),
    "uniform_, names": in_place("uniform_", to=3),
    "exponential_": in_place("exponential_", 2.0),
    "bernoulli_": in_place("bernoulli_", 0.3),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, dim=1),
    "init.uniform_": lambda x: nn.init.uniform_(torch.empty_like(x), -2, 7),
    "init.normal_": lambda x: nn.init.normal_(torch.empty_like(x), 2, 3),
    "init.trunc_normal_": lambda x: nn.init.trunc_normal_(torch.empty_like(x), 1, 2),
    "init.kaiming": lambda x: nn.init.kaiming_uniform_(torch.empty_like(x), 2.0),
    "init.xavier": lambda x: nn.init.xavier_normal_(torch.empty_like(x), 2.0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_distribution_is_torchs(name):
    function, x = DRAWS[name], alike(3.0)
    if name.startswith("init"):
        x = torch.full((200, 400), 3.0, dtype=torch.float64)  # fans beyond 1
    torch.manual_seed(3)
    expected = function(x).double().flatten()
    state = torch.get_rng_state()
    got = bridged(function).apply((), x, key=fl.random.key(5))
    assert_close(torch.get_rng_state(), state, **EXACT)
    assert got.shape == function(x).shape
    got = got.double().flatten()
    # Two samples of n from one distribution: means differ by 5 standard errors with
    # probability 6e-7, quantiles here by far less than 0.03 of the spread.
    spread = expected.std() + 1e-12
    n = expected.numel() / 2  # channels may go together
    error = 5 * spread * (2 / n) ** 0.5
    assert (got.mean() - expected.mean()).abs() < error
    assert (got.square().mean() - expected.square().mean()).abs() < (
        5 * (expected.square().std() + 1e-12) * (2 / n) ** 0.5
    )
    assert_close(got.min(), expected.min(), rtol=0.3, atol=0.01)


def test_whole_channels_are_dropped():
    x = torch.ones(5, 7, 3, 2)
    for function, given in {
        F.dropout1d: x[..., 0],
        F.dropout2d: x,
        F.dropout3d: x[..., None],
        F.feature_alpha_dropout: x,
    }.items():
        layer = bridged(lambda x, f=function: f(x, 0.5, training=True))
        y = layer.apply((), given, key=fl.random.key(3)).flatten(2)
        assert_close(y, y[..., :1].expand(y.shape), **EXACT)
        assert 0.1 < (y == y.max()).float().mean() < 0.9
    y = bridged(F.dropout1d).apply((), x[0, ..., 0], key=fl.random.key(3))
    assert_close(y, y[:, :1].expand(7, 3), **EXACT)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_attention_with_dropout_is_torchs_but_for_the_mask(p):
    query, key, value = (numbers(2, 4, 5, 3, seed=i) for i in range(3))
    mask = numbers(5, 5) > -0.5
    mask[2] = False  # this query sees nothing
    key, value = key[:, :2], value[:, :2]
    cases: list[dict[str, Any]] = [
        {"attn_mask": mask},
        {"attn_mask": numbers(5, 5), "scale": 0.7},
        {"is_causal": True},
    ]
    for options in cases:
        options |= {"enable_gqa": True}

        def attend(q, k, v, p=p, options=options):
            return F.scaled_dot_product_attention(q, k, v, dropout_p=p, **options)

        keys = fl.random.split(fl.random.key(2), 3_000 if p == 0.3 else 2)
        layer = bridged(attend)
        run = partial(layer.apply, (), query, key, value)
        got = fl.vmap(lambda k, run=run: run(key=k))(keys)
        expected = attend(query, key, value, p=0.0 if p < 1 else 1.0)
        if p == 0.3:  # its mean over masks
            assert_close(got.mean(0), expected, rtol=0, atol=0.08)
        else:
            assert_close(got[1], expected, rtol=1e-12, atol=1e-13)


def test_dropout_is_a_function_of_the_key():
    module = filled(Language(dropout=0.3))
    layer, params, _ = fl.nn.from_module(module)
    tokens = torch.tensor([[2, 3, 5, 7]])
    keys = fl.random.split(fl.random.key(7), 3)

    def run(params, tokens, key):
        return layer.apply(params, tokens, key=key, train=True)["logits"]

    one = run(params, tokens, keys[0])
    assert_close(run(params, tokens, keys[0]), one, **EXACT)
    assert not torch.equal(run(params, tokens, keys[1]), one)
    with torch.no_grad():
        module.eval()
        expected = layer.apply(params, tokens, key=keys[0])["logits"]
        assert_close(expected, module(tokens)["logits"], rtol=1e-11, atol=1e-11)
    # Per sample: each has the mask of its key, whatever its neighbours are.
    got = fl.vmap(run, (None, None, 0))(params, tokens, keys)
    for y, key in zip(got, keys, strict=True):
        assert_close(y, run(params, tokens, key), rtol=1e-11, atol=1e-12)
    grads = fl.vmap(fl.grad(lambda *args: run(*args).square().sum()), (None, None, 0))(
        params, tokens, keys
    )
    weight = grads["block"]["linear1"]["weight"]
    assert not torch.equal(weight[0], weight[1])


def test_two_layers_drop_differently():
    module = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    layer = fl.nn.from_module(module).layer
    y = layer.apply((), torch.ones(N), key=fl.random.key(3), train=True)
    # The same mask twice would keep one half.
    assert_close((y > 0).double().mean().item(), 0.25, rtol=0, atol=0.015)


def test_dropout_compiles_once_and_equals_eager(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    module = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.3), nn.RReLU()).double()
    layer, params, _ = fl.nn.from_module(module)
    x = numbers(3, 5)

    def run(params, x, key):
        return layer.apply(params, x, key=key, train=True)

    jitted = fl.jit(run)
    for seed in (2, 3):
        key = fl.random.key(seed)
        got, expected = jitted(params, x, key), run(params, x, key)
        assert_close(got, expected, rtol=1e-12, atol=1e-13)
    assert jitted.traces == 1


class Truncated(nn.Linear):
    def reset_parameters(self):
        super().reset_parameters()
        nn.init.trunc_normal_(self.weight, 0.3, 2.0, -0.9, 1.7)


def test_init_compiles_also_truncated_normals(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    torchs = nn.init.trunc_normal_(torch.ones(2), generator=seeded())
    layer = fl.nn.from_module(Truncated(5, 3)).layer
    keys = fl.random.split(fl.random.key(3), 2)
    drawn = fl.jit(fl.vmap(layer.init))(keys)
    assert_close(drawn, fl.tree.stack([layer.init(key) for key in keys]))
    assert_close(nn.init.trunc_normal_(torch.ones(2), generator=seeded()), torchs)


def seeded():
    return torch.Generator().manual_seed(2)


def test_a_key_is_asked_for_only_where_something_is_drawn():
    layer = fl.nn.from_module(nn.Sequential(nn.Dropout(0.3), nn.Tanh())).layer
    x = torch.ones(3)
    assert_close(layer.apply((), x), x.tanh(), **EXACT)
    with pytest.raises(ValueError, match=r"apply: key: .*calls F.dropout, got None"):
        layer.apply((), x, train=True)
    none = fl.nn.from_module(nn.Sequential(nn.Dropout(0.0), nn.Tanh())).layer
    assert_close(none.apply((), x, train=True), x.tanh(), **EXACT)
    with pytest.raises(ValueError, match=r"calls torch.randn, got None. Pass key="):
        bridged(lambda x: x + torch.randn(3)).apply((), x)
    with pytest.raises(TypeError, match=r"random.fold_in: key: .*Make one with"):
        layer.apply((), x, train=True, key=3)


@pytest.mark.parametrize(
    "function",
    [
        torch.poisson,
        lambda x: torch.multinomial(x, 2),
        lambda x: x.clone().cauchy_(),
        lambda x: F.fractional_max_pool2d(x.expand(1, 3, 3), 2, 2),
    ],
)
def test_draws_that_take_no_key_are_refused(function):
    with pytest.raises(TypeError, match=r"draws that a key can make, got \w+. Draw"):
        bridged(function).apply((), torch.ones(3), key=fl.random.key(0))


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, g: torch.randn(2, generator=g),
        lambda x, g: torch.bernoulli(x, generator=g),
        lambda x, g: x.clone().uniform_(0.3, 0.7, generator=g),
        lambda x, g: nn.init.normal_(x.clone(), 0.0, 2.0, g),
    ],
    ids=["randn", "bernoulli", "uniform_", "init"],
)
def test_a_generator_of_its_own_is_refused(draw):
    generator = torch.Generator()
    layer = bridged(lambda x: draw(x, generator))
    with pytest.raises(
        TypeError, match=r"draws from the key, got \w+ with a generator="
    ):
        layer.apply((), torch.tensor([0.3, 0.6]), key=fl.random.key(0))


def test_draws_into_what_all_samples_share_are_refused():
    keys = fl.random.split(fl.random.key(0), 3)
    x = torch.tensor([[2.0, 3.0], [5.0, 7.0], [0.5, 4.0]])

    def run(layer):
        return fl.vmap(lambda x, key: layer.apply((), x, key=key))(x, keys)

    shared = bridged(lambda x: x + torch.empty(2).normal_())
    with pytest.raises(ValueError, match=r"got Tensor.normal_ on one that all samples"):
        run(shared)
    own = bridged(lambda x: torch.empty_like(x).normal_())
    expected = [own.apply((), x[i], key=keys[i]) for i in range(3)]
    assert_close(run(own), torch.stack(expected), **EXACT)
