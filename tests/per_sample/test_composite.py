# SPDX-License-Identifier: Apache-2.0
"""Functions with an inside, cells and made parameters, against one backward each."""

import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import functorch_lab as fl
from functorch_lab.per_sample import DensePair, factors, norms
from per_sample_cases._compared import curved
from per_sample_cases._oracle import one_by_one
from per_sample_cases._row import draw, filled

BATCH, WIDTH, LENGTH, SOURCES = 3, 4, 5, 7
MASK = torch.zeros(1, 3, dtype=torch.bool)


BIASES = draw(LENGTH, SOURCES)


def dense(params: Any) -> set[str]:
    """The leaves that should keep pairs."""
    return {name for name, leaf in params.items() if leaf.ndim > 1}


def check(
    loss_fn: Callable[..., Tensor],
    params: Any,
    *batch: Tensor,
    paired: set[str] | None = None,
    transform: Callable[..., Any] = lambda f: f,
) -> None:
    """Gradients and norms are the oracle's, and these leaves keep pairs alone."""
    found = exact(loss_fn, params, *batch, transform=transform)
    kept = {
        name
        for name, factor in found.items()
        if all(isinstance(use, DensePair) for use in factor.uses)
    }
    assert kept == (dense(params) if paired is None else paired)


def exact(
    loss_fn: Callable[..., Tensor],
    params: Any,
    *batch: Tensor,
    transform: Callable[..., Any] = lambda f: f,
) -> Any:
    """The factors, once gradients and norms are the oracle's."""
    params = {name: leaf.detach() for name, leaf in params.items()}
    expected = one_by_one(loss_fn, params, *batch)
    found = transform(factors(loss_fn))(params, *batch)
    whole = sum(grad.view(BATCH, -1).square().sum(1) for grad in expected.values())
    for name, factor in found.items():
        error = (factor.materialize() - expected[name]).reshape(BATCH, -1).norm(dim=1)
        assert (error <= 1e-12 * torch.as_tensor(whole).sqrt()).all(), name
    square = sum(factor.squared_norm() for factor in found.values())
    torch.testing.assert_close(square, whole, rtol=1e-11, atol=0.0)
    return found


def called(module: nn.Module, call: Callable[..., Any]) -> Callable[..., Tensor]:
    """A loss of the module's parameters, without the bridge."""

    def loss(params: Any, *sample: Tensor) -> Tensor:
        def run(*inputs: Any, **named: Any) -> Any:
            return torch.func.functional_call(module, params, inputs, named)

        return curved(call(run, *sample))

    return loss


def bridged(module: nn.Module, call: Callable[..., Any]) -> Any:
    """A loss of the module's parameters, by the bridge, and the parameters."""
    layer, params, state = fl.nn.from_module(module)
    if state != ():
        apply = lambda params, x: layer.apply(params, state, x)[0]  # noqa: E731
        return layered(SimpleNamespace(apply=apply), params, call)
    return layered(layer, params, call)


def layered(layer: Any, params: Any, call: Callable[..., Any]) -> Any:
    """A loss of a layer's parameters by their names, and the parameters."""
    leaves, structure = fl.tree.flatten(params)
    names = [".".join(re.findall(r"\w+", path)) for path in fl.tree.paths(params)]

    def loss(named: Any, *sample: Tensor) -> Tensor:
        tree = fl.tree.unflatten(structure, [named[name] for name in names])
        return curved(call(partial(layer.apply, tree), *sample))

    return loss, dict(zip(names, leaves, strict=True))


def self_attention(attend: Any, x: Tensor, y: Tensor) -> Tensor:
    return attend(x, x, x, need_weights=False)[0]


def cross_attention(attend: Any, x: Tensor, y: Tensor) -> Tensor:
    mask = torch.arange(SOURCES) > 4
    output, weights = attend(x, y, y, key_padding_mask=mask)
    return torch.cat([output.flatten(), weights.flatten()])


def other_values(attend: Any, x: Tensor, y: Tensor) -> Tensor:
    return attend(x, y, y.flip(0), attn_mask=BIASES)[0]


def batch_of_one(attend: Any, x: Tensor, y: Tensor) -> Tensor:
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=x.dtype)
    x = x[:, None]
    return attend(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)[0]


ATTENTIONS: dict[str, tuple[dict[str, Any], Any]] = {
    "self": ({}, self_attention),
    "no bias": ({"bias": False}, self_attention),
    "cross": ({}, cross_attention),
    "values of their own": ({}, other_values),
    "batched and causal": ({}, batch_of_one),
    "bias of keys": ({"add_bias_kv": True}, cross_attention),
    "zero attention": ({"add_zero_attn": True}, cross_attention),
    "separate weights": ({"kdim": WIDTH, "vdim": WIDTH}, cross_attention),
}


def attention(options: dict[str, Any]) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(WIDTH, 2, **options)
    if "kdim" in options:  # torch packs what is of one size
        module = nn.MultiheadAttention(WIDTH, 2, kdim=3, vdim=2)
    return filled(module, torch.float64)


@pytest.mark.parametrize("way", ["called", "bridged"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_multi_head_attention(name: str, way: str) -> None:
    options, call = ATTENTIONS[name]
    if "kdim" in options:
        call = lambda attend, x, y: attend(x, y[:, :3], y[:, :2])[0]  # noqa: E731
    module = attention(options)
    loss, params = called(module, call), dict(module.named_parameters())
    if way == "bridged":
        loss, params = bridged(module, call)
    paired = {k for k in params if k.endswith("weight")}
    x, y = draw(BATCH, LENGTH, WIDTH), draw(BATCH, SOURCES, WIDTH, seed=6)
    check(loss, params, x, y, paired=paired)


def test_multi_head_attention_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    options, call = ATTENTIONS["batched and causal"]
    module = attention(options)
    loss, params = called(module, call), dict(module.named_parameters())
    paired = {k for k in params if k.endswith("weight")}
    x, y = draw(BATCH, LENGTH, WIDTH), draw(BATCH, SOURCES, WIDTH, seed=6)
    check(loss, params, x, y, paired=paired, transform=fl.jit)


def test_a_padding_mask_of_another_size() -> None:
    module = attention({})

    def attend(run: Any, x: Tensor) -> Tensor:
        x = x[:, None]
        return run(x, x, x, key_padding_mask=torch.zeros(1, 1, LENGTH).bool()[0])[0]

    def wrong(run: Any, x: Tensor) -> Tensor:
        return run(x[:, None], x[:2, None], x[:2, None], key_padding_mask=MASK)[0]

    params = {name: p.detach() for name, p in module.named_parameters()}
    norms(called(module, attend))(params, draw(BATCH, LENGTH, WIDTH))
    with pytest.raises(ValueError, match=r"key_padding_mask: expected shape \(1, 2\)"):
        norms(called(module, wrong))(params, draw(BATCH, LENGTH, WIDTH))


@pytest.mark.parametrize("way", ["called", "bridged"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["after", "first"])
def test_transformer_layers(norm_first: bool, way: str) -> None:
    options = {"dim_feedforward": 6, "dropout": 0.1, "batch_first": True}
    options["norm_first"] = norm_first
    encoder = nn.TransformerEncoderLayer(WIDTH, 2, activation="gelu", **options)
    decoder = nn.TransformerDecoderLayer(WIDTH, 2, bias=False, **options)
    module = filled(nn.ModuleList([encoder, decoder]), torch.float64).eval()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = module

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.decoder(x, self.encoder(y))

    both = Both().eval()

    def call(run: Any, x: Tensor, y: Tensor) -> Tensor:
        return run(x[None], y[None])

    loss, params = called(both, call), dict(both.named_parameters())
    if way == "bridged":
        loss, params = bridged(both, call)
    x, y = draw(BATCH, LENGTH, WIDTH), draw(BATCH, SOURCES, WIDTH, seed=6)
    check(loss, params, x, y)


HEADS: dict[str, Any] = {
    "plain": lambda a, q, k, v: a(q, k, v),
    "causal, scaled": lambda a, q, k, v: a(q, k, v, None, 0.0, True, scale=0.7),
    "mask": lambda a, q, k, v: a(q, k, v, attn_mask=BIASES > -1),
    "biases by head": lambda a, q, k, v: a(
        q, k, v, attn_mask=BIASES * torch.tensor([[[0.5]], [[1.5]]])
    ),
    "biases of each sample": lambda a, q, k, v: a(
        q, k, v, BIASES * v.sum((2, 3))[:, :, None, None]
    ),
    "biases of each pair": lambda a, q, k, v: a(
        torch.cat([q, q.cos()]),
        torch.cat([k, k.sin()]),
        torch.cat([v, v]),
        BIASES * torch.tensor([0.5, 1.5]).view(2, 1, 1, 1),
    ),
    "shared heads": lambda a, q, k, v: a(q, k[:, :1], v[:, :1], enable_gqa=True),
    "broadcast": lambda a, q, k, v: a(q, k[:, :1], v[:, :1]),
    "three axes": lambda a, q, k, v: a(q[0], k[0], v[0]),
    "five axes": lambda a, q, k, v: a(q[None], k[None], v[None]),
    "a parameter": lambda a, q, k, v: a(q, k, v.tanh()),
}


@pytest.mark.parametrize("name", HEADS)
def test_attention_without_parameters(name: str) -> None:
    def loss(params: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = params["scale"] * q
        return curved(HEADS[name](F.scaled_dot_product_attention, q, k, v))

    q = draw(BATCH, 1, 2, LENGTH, WIDTH)
    k, v = draw(2, BATCH, 1, 2, SOURCES, WIDTH, seed=6)
    check(loss, {"scale": draw(WIDTH)}, q, k, v)


CELLS: dict[str, Callable[..., nn.Module]] = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "rnn": nn.RNNCell,
    "relu": partial(nn.RNNCell, nonlinearity="relu"),
}


def looped(cell: Any, x: Tensor) -> Tensor:
    state = None
    for row in x:
        state = cell(row, state)
    return torch.stack(state) if isinstance(state, tuple) else torch.as_tensor(state)


@pytest.mark.parametrize("way", ["called", "bridged", "no bias"])
@pytest.mark.parametrize("name", CELLS)
def test_cells_of_torch(name: str, way: str) -> None:
    module = filled(CELLS[name](WIDTH, 3, bias=way != "no bias"), torch.float64)
    loss, params = called(module, looped), dict(module.named_parameters())
    if way == "bridged":
        loss, params = bridged(module, looped)
    check(loss, params, draw(BATCH, LENGTH, WIDTH))


def test_a_cell_of_torch_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    module = filled(nn.GRUCell(WIDTH, 3), torch.float64)
    x = draw(BATCH, 2, WIDTH)
    params = dict(module.named_parameters())
    check(called(module, looped), params, x, transform=fl.jit)


def test_a_cell_whose_weights_are_no_parameters() -> None:
    module = filled(nn.LSTMCell(WIDTH, 3), torch.float64).requires_grad_(False)

    def loss(params: Any, x: Tensor) -> Tensor:
        return curved(looped(module, params["scale"] * x))

    check(loss, {"scale": draw(WIDTH)}, draw(BATCH, LENGTH, WIDTH))


RECURRENT = {
    "rnn": fl.nn.rnn,
    "gru": partial(fl.nn.gru, bidirectional=True),
    "lstm": partial(fl.nn.lstm, num_layers=2, proj_size=2),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name: str) -> None:
    layer = RECURRENT[name](WIDTH, 3)
    params = fl.tree.cast(layer.init(fl.random.key(0)), torch.float64)
    loss, params = layered(layer, params, lambda run, x: run(x))
    check(loss, params, draw(BATCH, LENGTH, WIDTH))


FUSED: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: nn.GRU(WIDTH, 3, 2, bidirectional=True),
    "lstm": lambda: nn.LSTM(WIDTH, 3, 2, batch_first=True, proj_size=2),
    "rnn": lambda: nn.RNN(WIDTH, 3, bias=False),
    "relu": lambda: nn.RNN(WIDTH, 3, nonlinearity="relu", bidirectional=True),
}


@pytest.mark.parametrize("batched", [False, True], ids=["bare", "batch of two"])
@pytest.mark.parametrize("name", FUSED)
def test_recurrent_layers_of_torch(name: str, batched: bool) -> None:
    module = filled(FUSED[name](), torch.float64)

    def call(run: Any, x: Tensor) -> Tensor:
        axis = 0 if name == "lstm" else 1
        output, last = run(torch.stack([x, x.sin()], axis) if batched else x)
        ends = last if isinstance(last, tuple) else (last,)
        return torch.cat([part.flatten() for part in (output, *ends)])

    params = dict(module.named_parameters())
    check(called(module, call), params, draw(BATCH, LENGTH, WIDTH))


def test_a_fused_layer_behind_the_bridge_says_what_to_use() -> None:
    loss, params = bridged(nn.GRU(WIDTH, 3).double(), lambda run, x: run(x)[0])
    with pytest.raises(ValueError, match=r"fused nn.GRU under vmap.* fl\.nn\.gru, or"):
        norms(loss)(params, draw(BATCH, LENGTH, WIDTH))


MADE: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, 3)),
    "weight norm, columns": lambda: parametrizations.weight_norm(
        nn.Linear(WIDTH, 3), dim=1
    ),
    "weight norm, whole": lambda: parametrizations.weight_norm(
        nn.Linear(WIDTH, 3),
        dim=None,  # pyright: ignore[reportArgumentType]
    ),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(WIDTH, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, 3)),
}


@pytest.mark.parametrize("way", ["called", "bridged"])
@pytest.mark.parametrize("name", MADE)
def test_parametrized_modules(name: str, way: str) -> None:
    module = MADE[name]().double().eval()
    loss = called(module, lambda run, x: run(x))
    params = dict(module.named_parameters())
    if way == "bridged":
        loss, params = bridged(module, lambda run, x: run(x))
    exact(loss, params, draw(BATCH, LENGTH, WIDTH))


LAYERS = {
    "weight norm": fl.nn.weight_norm(fl.nn.linear(WIDTH, 3)),
    "low rank": fl.nn.lora(fl.nn.linear(WIDTH, 3), 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_make_their_weights(name: str) -> None:
    layer = LAYERS[name]
    params = fl.tree.cast(layer.init(fl.random.key(0)), torch.float64)
    params = fl.tree.map(lambda leaf: draw(*leaf.shape), params)
    loss, params = layered(layer, params, lambda run, x: run(x))
    exact(loss, params, draw(BATCH, LENGTH, WIDTH))
