# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Rotary, sinusoidal and learned positions: against Llama and closed forms."""

import cmath
import math

import pytest
import torch
from torch import nn as torch_nn
from torch.autograd import gradcheck, gradgradcheck

import functorch_lab as fl
from functorch_lab import nn, random
from parity import close, loss_of, same_distribution


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def in_the_plane(x, positions, base):
    """Equation 14 of RoFormer: neighbours are one complex number, multiplied by a root.

    One number after another, in Python.
    """
    rows = x.expand(*torch.broadcast_shapes(x.shape[:-1], positions.shape), x.shape[-1])
    where = positions.expand(rows.shape[:-1]).flatten().tolist()
    turned = []
    for row, position in zip(
        rows.reshape(-1, x.shape[-1]).tolist(), where, strict=True
    ):
        for i in range(0, len(row), 2):
            angle = position * base ** (-i / len(row))
            z = complex(row[i], row[i + 1]) * cmath.exp(1j * angle)
            turned += [z.real, z.imag]
    return torch.tensor(turned, dtype=torch.float64).reshape(rows.shape)


POSITIONS = {
    "count": None,
    "one": torch.tensor(7),
    "others": torch.tensor([3, 2, 50, 3, 17]),
    "of samples": torch.arange(15).reshape(3, 1, 5) * 2 + 1,
    "of all": torch.arange(30).reshape(3, 2, 5),
    "fractions": torch.tensor([0.5, 1.25, 3.0, 4.75, 1000.5]),
    "short": torch.tensor([3, 2, 7, 3, 5], dtype=torch.int16),
}
every_positions = pytest.mark.parametrize(
    "positions", POSITIONS.values(), ids=POSITIONS
)


@every_positions
@pytest.mark.parametrize(("dim", "base"), [(2, 10000.0), (6, 500_000), (10, 0.7)])
def test_rotary_multiplies_complex_numbers(positions, dim, base):
    x = numbers(3, 2, 5, dim)
    where = torch.arange(5) if positions is None else positions
    expected = in_the_plane(x, where, base)
    close(nn.rotary(x, positions, base=base, interleaved=True), expected)
    # The other layout: all first members of the pairs, then all second ones.
    halves = torch.cat([x[..., ::2], x[..., 1::2]], -1)
    expected = torch.cat([expected[..., ::2], expected[..., 1::2]], -1)
    close(nn.rotary(halves, positions, base=base), expected)


@pytest.mark.parametrize("base", [10000.0, 500_000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotary_is_llamas(base, dtype, monkeypatch):
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama

    if dtype == torch.float64:  # Llama turns in float32 whatever the weights are
        monkeypatch.setattr(torch, "float", torch.float64)
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    config = transformers.LlamaConfig(
        hidden_size=36,
        num_attention_heads=6,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    rope = modeling_llama.LlamaRotaryEmbedding(config)
    query, key = numbers(3, 6, 5, 6).to(dtype), numbers(3, 2, 5, 6, seed=1).to(dtype)
    for positions in (torch.arange(5).expand(3, 5), torch.arange(15).view(3, 5) * 100):
        cos, sin = rope(query, positions)
        expected = modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)
        ours = [nn.rotary(x, positions[:, None], base=base) for x in (query, key)]
        if dtype == torch.float64:
            close(ours, list(expected))
        else:  # one unit in the last place of an angle of 1400
            torch.testing.assert_close(ours, list(expected), rtol=0, atol=3e-4)


@pytest.mark.parametrize("interleaved", [False, True])
def test_products_of_rotated_vectors_depend_on_the_distance(interleaved):
    query, key = numbers(7, 6), numbers(7, 6, seed=1)

    def scores(start):
        where = torch.arange(7) + start
        turned = [
            nn.rotary(x, where, base=31.0, interleaved=interleaved)
            for x in (query, key)
        ]
        return turned[0] @ turned[1].mT

    close(scores(13), scores(0))
    lengths = nn.rotary(query, interleaved=interleaved).norm(dim=-1)
    close(lengths, query.norm(dim=-1))


def test_rotary_in_low_precision_turns_in_float32():
    x = numbers(1, 8).expand(5, 8)
    where = torch.arange(5) + 4090
    exact = nn.rotary(x.bfloat16().double(), where)
    y = nn.rotary(x.bfloat16(), where)
    assert y.dtype == torch.bfloat16
    # Half a unit in the last of 8 bits; bfloat16 cannot even count to 4091.
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-3)


def table(positions, embed_dim, base):
    """Section 3.5 of Attention Is All You Need, entry by entry."""
    rows = []
    for position in positions.flatten().tolist():
        for feature in range(embed_dim):
            angle = position / base ** (feature // 2 * 2 / embed_dim)
            rows.append(math.cos(angle) if feature % 2 else math.sin(angle))
    values = torch.tensor(rows, dtype=torch.float64)
    return values.reshape(*positions.shape, embed_dim)


@every_positions
@pytest.mark.parametrize(("embed_dim", "base"), [(2, 10000.0), (6, 300)])
def test_sinusoidal_positions_are_those_of_the_paper(positions, embed_dim, base):
    x = numbers(3, 2, 5, embed_dim)
    layer = nn.sinusoidal_positions(embed_dim, base=base)
    assert layer.init(random.key(0)) == ()
    where = torch.arange(5) if positions is None else positions
    close(layer.apply((), x, positions), x + table(where, embed_dim, base))


WEIGHT = numbers(7, 6, seed=5)
PARAMS = {"weight": WEIGHT}
LEARNED = nn.learned_positions(7, 6)


@pytest.mark.parametrize(
    "positions", [None, [6], [3, 2, 6, 3, 0], [[[5, 4, 3, 2, 1]], [[2] * 5], [[0] * 5]]]
)
def test_learned_positions_are_an_embedding(positions):
    x = numbers(3, 2, 5, 6)
    given = None if positions is None else torch.tensor(positions)
    where = torch.arange(5) if positions is None else given
    module = torch_nn.Embedding(7, 6).double()
    module.load_state_dict(PARAMS)

    def function(params, x):
        y = LEARNED.apply(params, x, given)
        return loss_of(y**2), y

    (_, y), grads = fl.value_and_grad(function, (0, 1), has_aux=True)(PARAMS, x)
    leaf = x.clone().requires_grad_()
    expected = leaf + module(where)
    loss_of(expected**2).backward()
    close(y, expected.detach())
    close(grads, ({"weight": module.weight.grad}, leaf.grad))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,)])
@pytest.mark.parametrize("length", [5, 1, 0, 7])
def test_any_leading_axes_and_length(lead, length):
    x = numbers(*lead, length, 6)
    zeros = torch.zeros(3, length, 6, dtype=torch.float64)
    for add in (
        lambda x: LEARNED.apply(PARAMS, x),
        lambda x: nn.sinusoidal_positions(6).apply((), x),
    ):
        y = add(x)
        assert y.shape == x.shape
        close(y - x, add(zeros)[0].expand(x.shape))
    y = nn.rotary(x)
    assert y.shape == x.shape
    for i in range(lead[0]) if lead else []:
        close(y[i], nn.rotary(x[i]))


def test_init_of_learned_positions(device):
    params = nn.learned_positions(300, 70).init(random.key(3, device=device))
    weight = params["weight"]
    assert (weight.shape, weight.dtype) == ((300, 70), torch.float32)
    assert weight.device.type == device.type
    torch.manual_seed(0)
    module = torch_nn.Embedding(300, 70)
    same_distribution(weight.cpu(), module.weight.detach(), None)
    layer = nn.learned_positions(3, 2, weight_init=nn.init.constant(0.02))
    close(layer.init(random.key(0)), {"weight": torch.full((3, 2), 0.02)})


FUNCTIONS = {
    "rotary": nn.rotary,
    "interleaved": lambda x, p: nn.rotary(x, p, interleaved=True),
    "sinusoidal": lambda x, p: nn.sinusoidal_positions(6).apply((), x, p) ** 2,
    "learned": lambda x, p: LEARNED.apply(PARAMS, x, p) ** 2,
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@every_function
def test_vmap_over_samples_and_their_positions(function):
    x, positions = numbers(3, 2, 5, 6), torch.arange(15).reshape(3, 5) % 7
    expected = [function(x[i], positions[i]) for i in range(3)]
    close(fl.vmap(function)(x, positions), torch.stack(expected))
    whole = fl.vmap(function, (1, None))(x, positions)
    close(whole, torch.stack([function(x[:, i], positions) for i in range(2)]))


@every_function
def test_derivatives(function):
    x = numbers(5, 6).requires_grad_()
    positions = torch.tensor([3, 2, 6, 3, 0])
    assert gradcheck(lambda x: function(x, positions), x, check_forward_ad=True)
    assert gradgradcheck(lambda x: function(x, positions), x)


def test_compiled_equals_eager_without_a_break(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    x, positions = numbers(3, 5, 6), torch.tensor([3, 2, 6, 3, 0])

    def every(x, positions):
        return [
            fl.value_and_grad(lambda x, f=f, p=p: loss_of(f(x, p) ** 2))(x)
            for f in FUNCTIONS.values()
            for p in (None, positions)
        ]

    close(fl.jit(every)(x, positions), every(x, positions))


X = numbers(3, 5, 6)
SINES = nn.sinusoidal_positions(6)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.rotary(X[..., :5]), ValueError,
         r"rotary: x: expected shape \(..., T, dim\) with an even dim, got \(3, 5, 5"),
        (lambda: nn.rotary(X[..., :0]), ValueError, r"x: .* got \(3, 5, 0\)"),
        (lambda: nn.rotary(X[0, 0]), ValueError, r"x: .* got \(6,\)"),
        (lambda: nn.rotary(X.long()), TypeError, "x: .* got torch.int64"),
        (lambda: nn.rotary(X, base=0), ValueError, "base: .* above 0, got 0"),
        (lambda: nn.rotary(X, base=math.nan), ValueError, "base: .* above 0, got nan"),
        (lambda: nn.rotary(X, base=torch.tensor(2.0)), TypeError, "base: .* Tensor"),
        (lambda: nn.rotary(X, torch.arange(6)), ValueError,
         r"positions: expected a shape that broadcasts to \(3, 5\), .* got \(6,\)"),
        (lambda: nn.rotary(X, torch.ones(2, 3, 5)), ValueError, r"got \(2, 3, 5\)"),
        (lambda: nn.rotary(X, [0, 1]), TypeError, "positions: .* got list"),
        (lambda: nn.rotary(X, torch.arange(5) > 2), TypeError, "got torch.bool"),
        (lambda: nn.rotary(X, torch.arange(5, device="meta")), TypeError,
         "positions: expected device cpu, as x has, got meta"),
        (lambda: nn.sinusoidal_positions(0), ValueError, "embed_dim: .* 1, got 0"),
        (lambda: nn.sinusoidal_positions(5), ValueError,
         "embed_dim: expected an even number, got 5"),
        (lambda: nn.sinusoidal_positions(6.0), TypeError, "embed_dim: .* got float"),
        (lambda: nn.sinusoidal_positions(6, base=-1), ValueError, "base: .* got -1"),
        (lambda: SINES.apply(PARAMS, X), ValueError, r"expected \(\), got dict"),
        (lambda: SINES.apply((), X[..., :5]), ValueError,
         r"sinusoidal_positions: x: expected shape \(..., T, 6\), got \(3, 5, 5\)"),
        (lambda: SINES.apply((), X > 0), TypeError, "x: .* got torch.bool"),
        (lambda: SINES.apply((), X, torch.arange(4)), ValueError,
         r"sinusoidal_positions: positions: .* got \(4,\)"),
        (lambda: nn.learned_positions(0, 6), ValueError, "max_length: .* got 0"),
        (lambda: nn.learned_positions(7, 0), ValueError, "embed_dim: .* got 0"),
        (lambda: nn.learned_positions(7.0, 6), TypeError, "max_length: .* got float"),
        (lambda: LEARNED.apply((), X), ValueError, r"with \['weight'\], got tuple"),
        (lambda: LEARNED.apply(PARAMS, X[..., :5]), ValueError,
         r"learned_positions: x: expected shape \(..., T, 6\), got \(3, 5, 5\)"),
        (lambda: LEARNED.apply(PARAMS, X[0, 0]), ValueError, r"x: .* got \(6,\)"),
        (lambda: LEARNED.apply(PARAMS, X.float()), TypeError,
         "x: expected torch.float64, as the params have, got torch.float32"),
        (lambda: LEARNED.apply(PARAMS, numbers(3, 8, 6)), ValueError,
         r"x: expected at most max_length=7 positions, got shape \(3, 8, 6\)"),
        (lambda: LEARNED.apply(PARAMS, X, torch.arange(5) / 2), TypeError,
         "positions: expected integers, got torch.float32"),
        (lambda: LEARNED.apply(PARAMS, X, torch.arange(5) + 3), IndexError, "range"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
