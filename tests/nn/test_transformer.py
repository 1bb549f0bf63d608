# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""transformer against GPT-2 and Llama of Hugging Face, in float64, and its block."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn as torch_nn
from transformers import GPT2Config, GPT2LMHeadModel

import functorch_lab as fl
from functorch_lab import nn, random, tree
from functorch_lab.types import Layer
from transformer_models import (
    TOKENS,
    gpt2,
    gpt2_tree,
    llama,
    llama_tree,
    loss_of,
)

MODELS = {"gpt2": (gpt2, gpt2_tree), "llama": (llama, llama_tree)}
every_model = pytest.mark.parametrize("name", MODELS)


def close(actual, expected, atol=1e-14):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=atol)


def prepare(name):
    """Our model, Hugging Face's, and its weights as our params."""
    make, to_tree = MODELS[name]
    model, module = make()
    return model, module, to_tree(dict(module.named_parameters()))


def gradients_of(name, module, loss):
    leaves = dict(module.named_parameters())
    grads = torch.autograd.grad(loss, leaves.values())
    return MODELS[name][1](dict(zip(leaves, grads, strict=True)))


@every_model
def test_logits_and_gradients_equal_those_of_hugging_face(name):
    model, module, params = prepare(name)
    params = tree.map(torch.Tensor.detach, params)
    fresh = model.init(random.key(3))
    assert tree.structure(fresh) == tree.structure(params)
    assert [p.shape for p in tree.leaves(fresh)] == [
        p.shape for p in tree.leaves(params)
    ]
    logits = module(TOKENS).logits
    close(model.apply(params, TOKENS), logits.detach())
    close(model.apply(params, TOKENS, train=True), logits.detach())
    grads = fl.grad(lambda p: loss_of(model.apply(p, TOKENS)))(params)
    close(grads, gradients_of(name, module, loss_of(logits)), atol=1e-13)


@every_model
@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_is_not_looked_at_and_not_counted(name, side):
    model, module, params = prepare(name)
    mask = {
        "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]],
        "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]],
        "middle": [[1, 0, 1, 0, 1], [0, 1, 1, 0, 1]],
    }[side]
    mask = torch.tensor(mask).bool()
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    logits = module(TOKENS, attention_mask=mask.long(), position_ids=positions).logits
    close(model.apply(params, TOKENS, mask=mask)[mask], logits[mask])
    alone = [
        module(row[real][None]).logits[0]
        for row, real in zip(TOKENS, mask, strict=True)
    ]
    close(model.apply(params, TOKENS, mask=mask)[mask], torch.cat(alone))
    weight = mask[..., None].double()
    grads = fl.grad(lambda p: loss_of(model.apply(p, TOKENS, mask=mask) * weight))(
        tree.map(torch.Tensor.detach, params)
    )
    expected = gradients_of(name, module, loss_of(logits * weight))
    close(grads, expected, atol=1e-13)


@every_model
def test_padding_everywhere_still_gives_numbers(name):
    model, _, params = prepare(name)
    params = tree.map(torch.Tensor.detach, params)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    grads = fl.grad(lambda p: loss_of(model.apply(p, TOKENS, mask=mask)))(params)
    assert all(leaf.isfinite().all() for leaf in tree.leaves(grads))


@every_model
def test_per_sample_gradients_are_one_backward_pass_for_each(name):
    model, module, params = prepare(name)
    params = tree.map(torch.Tensor.detach, params)

    def loss_fn(params, tokens):
        return loss_of(model.apply(params, tokens))

    per_sample = fl.vmap(fl.grad(loss_fn), (None, 0))(params, TOKENS)
    rows = [
        gradients_of(name, module, loss_of(module(row[None]).logits)) for row in TOKENS
    ]
    close(per_sample, tree.stack(rows), atol=1e-13)


def test_any_leading_axes_are_a_batch():
    model, module, params = prepare("gpt2")
    params = tree.map(torch.Tensor.detach, params)
    expected = module(TOKENS).logits.detach()
    close(model.apply(params, TOKENS[1]), expected[1])
    close(model.apply(params, TOKENS[None, :, None]), expected[None, :, None])
    assert model.apply(params, TOKENS[:0]).shape == (0, 5, 11)
    short = TOKENS[:, :3].to(torch.int32)
    close(model.apply(params, short), expected[:, :3])


def test_sinusoidal_positions_are_added_to_the_embedding():
    sizes = 11, 6, 2, 3
    model = nn.transformer(*sizes, max_length=5, positions="sinusoidal")
    learned = nn.transformer(*sizes, max_length=5)
    params = tree.map(lambda p: p.double(), model.init(random.key(3)))
    # Vaswani et al., section 3.5, as a loop.
    table = torch.empty(5, 6, dtype=torch.float64)
    for position in range(5):
        for feature in range(6):
            angle = position / 10000 ** (feature // 2 * 2 / 6)
            wave = math.cos if feature % 2 else math.sin
            table[position, feature] = wave(angle)
    same = {**params, "positions": {"weight": table}}
    close(model.apply(params, TOKENS), learned.apply(same, TOKENS), atol=1e-13)


@pytest.mark.parametrize("layers", [2, 7])
def test_the_first_params_are_distributed_as_gpt2(layers):
    model = nn.transformer(199, 66, layers, 3, max_length=101)
    params = model.init(random.key(7))
    config = GPT2Config(
        vocab_size=199, n_positions=101, n_embd=66, n_layer=layers, n_head=3
    )
    torch.manual_seed(3)
    expected = gpt2_tree(dict(GPT2LMHeadModel(config).named_parameters()))
    for path, ours, theirs in zip(
        tree.paths(params), tree.leaves(params), tree.leaves(expected), strict=True
    ):
        assert ours.shape == theirs.shape, path
        n = ours.numel()
        if theirs.unique().numel() == 1:
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=0)
            continue
        std = theirs.std().item()
        # Both are estimates from n draws; five standard errors.
        assert abs(ours.std().item() / std - 1) < 5 / n**0.5, path
        assert abs(ours.mean().item()) < 5 * std / n**0.5, path


def test_the_block_drops_attention_weights_and_what_each_half_adds():
    block = nn.transformer_block(6, 2, hidden=2, dropout=0.3)
    params = tree.zeros_like(block.init(random.key(3)))
    attention, mlp = params["attention"], params["mlp"]
    x, key = torch.ones(500, 5, 6), random.key(2)
    mlp["down"]["bias"] = torch.full((6,), 0.7)  # is added, or nothing is
    added = block.apply(params, x, key=key, train=True) - 1
    torch.testing.assert_close(added.unique(), torch.tensor([0.0, 1.0]))
    assert abs(added.mean() - 0.7) < 0.03
    attention["out"]["bias"] = torch.full((6,), 0.7)  # one of both, or both
    added = block.apply(params, x, key=key, train=True) - 1
    assert abs((added == 1).float().mean() - 2 * 0.7 * 0.3) < 0.03
    mlp["down"]["bias"] = torch.zeros(6)
    added = block.apply(params, x, key=key, train=True) - 1
    torch.testing.assert_close(added.unique(), torch.tensor([0.0, 1.0]))
    # One position: its weight is 1, or nothing, and then it is added, or not.
    attention["out"] = {"weight": torch.eye(6), "bias": torch.zeros(6)}
    attention["qkv"]["bias"] = torch.ones(18)
    added = block.apply(params, x[:, :1], key=key, train=True) - 1
    torch.testing.assert_close(added.unique(), torch.tensor([0.0, 1 / 0.49]))
    assert abs((added > 0).float().mean() - 0.49) < 0.05
    torch.testing.assert_close(block.apply(params, x, key=key), x + 1)


def test_the_transformer_drops_its_embedding_and_gives_each_block_a_key(monkeypatch):
    model = nn.transformer(11, 6, 2, 3, max_length=5, dropout=0.3)
    params = model.init(random.key(3))
    plain = nn.transformer(11, 6, 2, 3, max_length=5).apply(params, TOKENS)
    key, other = random.split(random.key(5))
    close(model.apply(params, TOKENS, key=key), plain)
    dropped = model.apply(params, TOKENS, key=key, train=True)
    close(model.apply(params, TOKENS, key=key, train=True), dropped)
    assert not torch.equal(model.apply(params, TOKENS, key=other, train=True), dropped)
    empty = {**params, "blocks": tree.zeros_like(params["blocks"])}
    quiet = model.apply(empty, TOKENS)
    assert not torch.equal(model.apply(empty, TOKENS, key=key, train=True), quiet)
    seen = []

    def recorded(self, params, x, attend, key):
        seen.append(tuple(key.tolist()))
        return x, None

    monkeypatch.setattr("functorch_lab.nn._transformer_block.Block.apply", recorded)
    model.apply(params, TOKENS, key=key, train=True)
    assert len(set(seen)) == 2
    with pytest.raises(ValueError, match=r"transformer: key: .* dropout=0.3, got None"):
        model.apply(params, TOKENS, train=True)


def test_the_block_is_torchs_layer():
    block = nn.transformer_block(6, 3, hidden=7, norm_eps=0.02)
    module = torch_nn.TransformerEncoderLayer(
        6, 3, 7, 0.0, F.gelu, 0.02, batch_first=True, norm_first=True
    ).double()
    generator = torch.Generator().manual_seed(5)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    p = dict(module.named_parameters())
    names = {
        "attention": {"norm": "norm1", "qkv": "self_attn.in_proj", "out": "out_proj"},
        "mlp": {"norm": "norm2", "up": "linear1", "down": "linear2"},
    }

    def find(name, kind):
        joined = f"{name}_{kind}" if "in_proj" in name else f"{name}.{kind}"
        return p[joined.replace("out_proj", "self_attn.out_proj")].detach()

    params = {
        half: {
            each: {kind: find(name, kind) for kind in ("weight", "bias")}
            for each, name in inner.items()
        }
        for half, inner in names.items()
    }
    x = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1]]).bool()
    close(block.apply(params, x), module(x).detach(), 1e-13)
    padded = module(x, src_key_padding_mask=~mask).detach()
    close(block.apply(params, x, mask=mask), padded, 1e-13)
    causal = nn.transformer_block(6, 3, hidden=7, norm_eps=0.02, is_causal=True)
    future = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)
    close(causal.apply(params, x), module(x, future).detach(), 1e-13)
    repeated = nn.repeat(block, 2)
    twice = repeated.apply(tree.stack([params, params]), x)
    close(twice, module(module(x)).detach(), 1e-13)


def test_it_is_a_layer_for_combinators_and_training():
    model = nn.transformer(11, 6, 1, 3, max_length=5)
    assert isinstance(model, Layer)
    both = nn.sequential(model, nn.softmax)
    params = both.init(random.key(3))
    expected = model.apply(params[0], TOKENS).softmax(-1)
    torch.testing.assert_close(both.apply(params, TOKENS), expected)

    def loss_fn(params, tokens, key):
        logits = model.apply(params, tokens[:, :-1], key=key, train=True)
        return fl.losses.cross_entropy(logits, tokens[:, 1:]).mean()

    optimizer = fl.optim.adam(lr=0.03)
    state = fl.train.init(model.init(random.key(3)), optimizer, key=random.key(5))
    with fl.disable_jit():
        step = fl.train.make_step(loss_fn, optimizer)
        losses = []
        for _ in range(30):
            state, logs = step(state, TOKENS)
            losses.append(logs["loss"])
    assert losses[-1] < 0.3 * losses[0]


SIZES: Any = (11, 6, 1, 3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.transformer(0, 6, 1, 3, max_length=5), ValueError, "got 0"),
        (
            lambda: nn.transformer(11, 6, 0, 3, max_length=5),
            ValueError,
            "nn.transformer: num_layers: .* got 0",
        ),
        (
            lambda: nn.transformer(*SIZES, max_length=0),
            ValueError,
            "nn.transformer: max_length: .* got 0",
        ),
        (
            lambda: nn.transformer(11, 6, 1, 4, max_length=5),
            ValueError,
            "num_heads: expected a divisor of embed_dim=6, got 4",
        ),
        (
            lambda: nn.transformer(*SIZES, max_length=5, num_kv_heads=2),
            ValueError,
            "num_kv_heads: expected a divisor of num_heads=3, got 2",
        ),
        (
            lambda: nn.transformer(11, 9, 1, 3, max_length=5, positions="rotary"),
            ValueError,
            "positions: expected an even number of features .* got 3",
        ),
        (
            lambda: nn.transformer(*SIZES, max_length=5, positions="fixed"),
            ValueError,
            "positions: expected 'learned', 'rotary' .* got 'fixed'",
        ),
        (
            lambda: nn.transformer(*SIZES, max_length=5, norm="batch_norm"),
            ValueError,
            "norm: expected one of .* got 'batch_norm'",
        ),
        (
            lambda: nn.transformer(*SIZES, max_length=5, activation="gelu"),
            TypeError,
            "nn.transformer: activation: expected a function .* got str. Pass",
        ),
        (
            lambda: nn.transformer(*SIZES, max_length=5, dropout=2.0),
            ValueError,
            "nn.transformer: dropout: .* got 2.0",
        ),
        (
            lambda: nn.transformer(11, 6.0, 1, 3, max_length=5),
            TypeError,
            "embed_dim: expected an integer, got float",
        ),
    ],
)
def test_errors_of_the_configuration(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"tokens": TOKENS.double()}, TypeError, "tokens: .* got torch.float64"),
        ({"tokens": [2, 3]}, TypeError, "tokens: .* got list"),
        (
            {"tokens": torch.ones(2, 6, dtype=torch.long)},
            ValueError,
            r"tokens: .* T from 1 to max_length=5, got \(2, 6\)",
        ),
        ({"tokens": TOKENS[:, :0]}, ValueError, r"tokens: .* got \(2, 0\)"),
        ({"tokens": TOKENS[0, 0]}, ValueError, r"tokens: .* got \(\)"),
        ({"mask": TOKENS}, TypeError, "mask: expected a bool tensor, .* torch.int64"),
        (
            {"mask": TOKENS[0] > 2},
            ValueError,
            r"mask: expected shape \(2, 5\), .* got \(5,\)",
        ),
        ({"params": ()}, ValueError, "params: expected a dict with .* got tuple"),
        (
            {"params": "head"},
            ValueError,
            r"params: expected a dict with \['blocks', 'norm', .* 'head'",
        ),
        (
            {"params": "blocks"},
            ValueError,
            r"params\['blocks'\]: expected a tuple of 2, got tuple of length 1",
        ),
        (
            {"params": "block"},
            ValueError,
            r"nn.transformer: params\['mlp'\]: expected a dict with \['down', 'norm'",
        ),
        (
            {"params": "weight"},
            ValueError,
            r"nn.linear: params\['weight'\]: expected .* \(18, 6\), got \(18, 5\)",
        ),
    ],
)
def test_errors_of_a_call(change, kind, message):
    model = nn.transformer(11, 6, 2, 3, max_length=5)
    params = model.init(random.key(3))
    tokens, mask = change.get("tokens", TOKENS), change.get("mask")
    wrong = change.get("params", "")
    if wrong == "head":
        params["head"] = {"weight": torch.ones(11, 6)}
    elif wrong == "blocks":
        params["blocks"] = params["blocks"][:1]
    elif wrong == "block":
        del params["blocks"][1]["mlp"]["up"]
    elif wrong == "weight":
        params["blocks"][1]["attention"]["qkv"]["weight"] = torch.ones(18, 5)
    elif wrong == ():
        params = ()
    with pytest.raises(kind, match=message):
        model.apply(params, tokens, mask=mask)


@pytest.mark.parametrize(
    ("x", "mask", "kind", "message"),
    [
        (torch.ones(5, 7), None, ValueError, r"x: expected shape \(..., T, 6\)"),
        (torch.ones(6), None, ValueError, r"x: expected shape \(..., T, 6\), got \(6,"),
        (torch.ones(5, 6).long(), None, TypeError, "x: .* got torch.int64"),
        (torch.ones(5, 6), torch.ones(5, 5).bool(), ValueError, r"mask: .* got \(5, 5"),
    ],
)
def test_errors_of_the_block(x, mask, kind, message):
    block = nn.transformer_block(6, 3)
    with pytest.raises(kind, match=message):
        block.apply(block.init(random.key(3)), x, mask=mask)


def test_remat_computes_each_layer_again_and_changes_nothing():
    calls = []

    def counted(x):
        calls.append(x)
        return F.gelu(x)

    def gradients(remat):
        sizes = (7, 6, 3, 2)
        model = nn.transformer(
            *sizes, max_length=5, dropout=0.3, activation=counted, remat=remat
        )
        params = tree.cast(model.init(random.key(2)), torch.float64)
        tokens = torch.tensor([[2, 3, 5], [6, 4, 2]])

        def loss(params):
            key = random.key(3)
            return loss_of(model.apply(params, tokens, key=key, train=True))

        calls.clear()
        return fl.grad(loss)(params), len(calls)

    kept, once = gradients(remat=False)
    again, twice = gradients(remat=True)
    torch.testing.assert_close(again, kept, rtol=0, atol=0)
    assert (once, twice) == (3, 6)
