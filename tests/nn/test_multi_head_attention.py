# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""multi_head_attention against torch's module and Llama's, in float64."""

import itertools
import math

import pytest
import torch
from torch import nn as torch_nn

import functorch_lab as fl
from functorch_lab import nn, random, tree
from parity import close, loss_of, same_distribution

B, L, S, D, HEADS = 3, 5, 7, 6, 2
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def drawn(layer, seed=11):
    """Params without ones and zeros, and small.

    The gradient of the bias of the keys is zero, the difference of large numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(leaf):
        return 0.4 * torch.randn(leaf.shape, dtype=torch.float64, generator=generator)

    return tree.map(draw, layer.init(random.key(0)))


def load(module, params):
    """Writes our params into torch's module."""
    state = {"out_proj.weight": params["out_proj"]["weight"]}
    weights = {name: params[name]["weight"] for name in PROJECTIONS}
    if module.in_proj_weight is None:
        state |= {f"{name}_weight": w for name, w in weights.items()}
    else:
        state["in_proj_weight"] = torch.cat(list(weights.values()))
    if module.in_proj_bias is not None:
        biases = [params[name]["bias"] for name in PROJECTIONS]
        state |= {"in_proj_bias": torch.cat(biases)}
        state |= {"out_proj.bias": params["out_proj"]["bias"]}
    module.load_state_dict(state)


def gradients_of(module):
    """The gradients of torch's module in the structure of our params."""
    grads = {name: p.grad for name, p in module.named_parameters()}
    if "in_proj_weight" in grads:
        chunks = grads["in_proj_weight"].chunk(3)
    else:
        chunks = [grads[f"{name}_weight"] for name in PROJECTIONS]
    ours = {n: {"weight": g} for n, g in zip(PROJECTIONS, chunks, strict=True)}
    ours["out_proj"] = {"weight": grads["out_proj.weight"]}
    if "in_proj_bias" in grads:
        for name, g in zip(PROJECTIONS, grads["in_proj_bias"].chunk(3), strict=True):
            ours[name]["bias"] = g
        ours["out_proj"]["bias"] = grads["out_proj.bias"]
    return ours


def heads_of(mask):
    """torch wants the heads of a mask along its first axis."""
    return mask.expand(B, HEADS, *mask.shape[-2:]).reshape(-1, *mask.shape[-2:])


def masks(keys):
    """Ours, and what torch takes for it: its booleans are the opposite."""
    seen = numbers(L, keys, seed=2) > -0.7
    padding = numbers(B, keys, seed=3) > -0.7
    of_samples = numbers(B, L, keys, seed=4) > -0.7
    of_heads = numbers(B, HEADS, L, keys, seed=5) > -0.7
    added = numbers(B, 1, L, keys, seed=6)
    for mask in (seen, padding, of_samples, of_heads):
        mask[..., 0] = True  # torch's result is NaN where nothing is seen
    return {
        "none": (None, {}),
        "seen": (seen, {"attn_mask": ~seen}),
        "padding": (padding[:, None, :], {"key_padding_mask": ~padding}),
        "both": (
            padding[:, None, :] & seen,
            {"key_padding_mask": ~padding, "attn_mask": ~seen},
        ),
        "of samples": (of_samples, {"attn_mask": heads_of(~of_samples[:, None])}),
        "of heads": (of_heads, {"attn_mask": heads_of(~of_heads)}),
        "added": (added, {"attn_mask": heads_of(added)}),
    }


KINDS = {
    "self": ({}, {}),
    "self, no bias": ({"bias": False}, {}),
    "cross": ({}, {"context": (B, S, D)}),
    "sizes": (
        {"kdim": 3, "vdim": 2, "bias": False},
        {"context": (B, S, 3), "values": (B, S, 2)},
    ),
    "one context": ({"kdim": 3, "vdim": 3}, {"context": (B, S, 3)}),
}


@pytest.mark.parametrize("mask", masks(L))
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_match_torch(kind, mask):
    options, shapes = KINDS[kind]
    layer = nn.multi_head_attention(D, HEADS, **options)
    module = torch_nn.MultiheadAttention(D, HEADS, batch_first=True, **options).double()
    params = drawn(layer)
    load(module, params)
    inputs = [numbers(B, L, D)]
    inputs += [numbers(*shape, seed=1) for shape in shapes.values()]
    keys = L if len(inputs) == 1 else S
    ours, torchs = masks(keys)[mask]

    def function(params, *inputs):
        y = layer.apply(params, *inputs, mask=ours)
        return loss_of(y**2), y

    before = tree.copy((params, inputs))
    every = tuple(range(1 + len(inputs)))
    (_, y), grads = fl.value_and_grad(function, every, has_aux=True)(params, *inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    three = [leaves[0], leaves[min(1, len(leaves) - 1)], leaves[-1]]
    expected, _ = module(*three, need_weights=False, **torchs)
    loss_of(expected**2).backward()
    close(y, expected.detach())
    close(grads, (gradients_of(module), *(x.grad for x in leaves)))
    torch.testing.assert_close((params, inputs), before, rtol=0, atol=0)


def test_causal_is_the_lower_triangle():
    layer, masked = (
        nn.multi_head_attention(D, HEADS, is_causal=c) for c in (True, False)
    )
    module = torch_nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    params, x = drawn(layer), numbers(B, L, D)
    load(module, params)
    upper = torch.ones(L, L).triu(1) > 0
    expected = module(x, x, x, attn_mask=upper, need_weights=False)[0].detach()
    close(layer.apply(params, x), expected)
    close(masked.apply(params, x, mask=~upper), expected)
    other = numbers(B, L, D, seed=1)  # another sequence of the same length
    expected = module(x, other, other, attn_mask=upper, need_weights=False)[0].detach()
    close(layer.apply(params, x, other), expected)
    # Together with a mask: what both allow.
    padding = torch.tensor([True, False, True, True, False])
    expected = module(x, x, x, attn_mask=upper | ~padding, need_weights=False)[0]
    close(layer.apply(params, x, mask=padding[None, :]), expected.detach())


def by_head(params, x, head, group):
    """One head of queries after another, with matrices of their own."""
    outputs = []
    for h in range(params["q_proj"]["weight"].shape[0] // head):
        rows = {
            name: slice((h // group) * head, (h // group + 1) * head) for name in "kv"
        }
        rows["q"] = slice(h * head, (h + 1) * head)
        q, k, v = (
            x @ params[f"{n}_proj"]["weight"][rows[n]].mT
            + params[f"{n}_proj"]["bias"][rows[n]]
            for n in "qkv"
        )
        weights = torch.softmax(q @ k.mT / math.sqrt(head), -1)
        outputs.append(weights @ v @ params["out_proj"]["weight"][:, rows["q"]].mT)
    return sum(outputs) + params["out_proj"]["bias"]


@pytest.mark.parametrize(("kv_heads", "head"), [(6, 1), (3, 5), (2, 2), (1, 7)])
def test_shared_heads_and_their_size_against_a_loop(kv_heads, head):
    layer = nn.multi_head_attention(D, 6, num_kv_heads=kv_heads, head_dim=head)
    params, x = drawn(layer), numbers(B, L, D)

    def losses(apply):
        return fl.value_and_grad(lambda p, x: loss_of(apply(p, x) ** 2), (0, 1))

    ours = losses(layer.apply)(params, x)
    close(ours, losses(lambda p, x: by_head(p, x, head, 6 // kv_heads))(params, x))


@pytest.mark.parametrize("base", [True, 300.0])
@pytest.mark.parametrize("bias", [False, True])
def test_llamas_attention(base, bias, monkeypatch):
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama

    # Llama turns its positions in float32 whatever the weights are.
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    config = transformers.LlamaConfig(
        hidden_size=12,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=4,
        attention_bias=bias,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0 if base is True else base,
        },
        attn_implementation="sdpa",
    )
    module = modeling_llama.LlamaAttention(config, layer_idx=0).double()
    rope = modeling_llama.LlamaRotaryEmbedding(config)
    layer = nn.multi_head_attention(
        *(12, 6), num_kv_heads=3, head_dim=4, rotary=base, bias=bias, is_causal=True
    )
    params, x = drawn(layer), numbers(B, L, 12)
    names = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj"}
    names["out_proj"] = "o_proj"
    module.load_state_dict(
        {f"{names[a]}.{b}": params[a][b] for a in params for b in params[a]}
    )
    causal = torch.ones(L, L).tril() > 0
    for positions in (None, torch.arange(L) + 700, torch.arange(B * L).view(B, L) * 3):
        where = torch.arange(L) if positions is None else positions
        turns = rope(x, where.expand(B, L))
        expected = module(x, turns, causal.expand(B, 1, L, L))[0].detach()
        close(layer.apply(params, x, positions=positions), expected)


def test_rotary_positions_count_alone_by_their_distance():
    layer = nn.multi_head_attention(D, 3, rotary=True)
    params, x = drawn(layer), numbers(B, L, D)
    y = layer.apply(params, x)
    close(layer.apply(params, x, positions=torch.arange(L) + 13), y)
    turned = layer.apply(params, x, positions=torch.arange(L).flip(0))
    assert not torch.allclose(turned, y)
    plain = nn.multi_head_attention(D, 3).apply(params, x)
    for one in (torch.full((B, L), 5), torch.tensor([[5]] * B), torch.tensor(5)):
        close(layer.apply(params, x, positions=one), plain)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("crossed", [False, True])
def test_any_leading_axes(lead, crossed):
    layer = nn.multi_head_attention(D, HEADS, num_kv_heads=1)
    params, x = drawn(layer), numbers(*lead, L, D)
    keys = S if crossed else L
    context = [numbers(*lead, S, D, seed=1)] if crossed else []
    all_masks = {
        (L, keys): numbers(L, keys, seed=2) > -0.7,
        (*lead, 1, keys): numbers(*lead, 1, keys, seed=3) > -0.7,
        (*lead, HEADS, L, keys): numbers(*lead, HEADS, L, keys, seed=4),
    }
    for mask in all_masks.values():
        y = layer.apply(params, x, *context, mask=mask)
        assert y.shape == x.shape
        for index in itertools.product(*map(range, lead)):
            one = mask if mask.ndim == 2 else mask[index]
            rows = [x[index], *(c[index] for c in context)]
            close(y[index], layer.apply(params, *rows, mask=one))


def test_one_context_for_many_sequences():
    layer = nn.multi_head_attention(D, HEADS)
    params, x, context = drawn(layer), numbers(B, L, D), numbers(S, D, seed=1)
    y = layer.apply(params, x, context)
    close(y, layer.apply(params, x, context.expand(B, S, D)))
    assert layer.apply(params, x[0], context.expand(B, S, D)).shape == (B, L, D)


def test_a_query_that_sees_nothing_gets_the_bias():
    layer = nn.multi_head_attention(D, HEADS)
    params, x = drawn(layer), numbers(B, L, D)
    mask = numbers(B, L, L, seed=2) > -0.7
    mask[1, 3] = False

    def function(params, x):
        y = layer.apply(params, x, mask=mask)
        return loss_of(y**2), y

    for gradient in (fl.grad, torch.func.grad):
        grads, y = gradient(function, (0, 1), has_aux=True)(params, x)
        y = y[1] if isinstance(y, tuple) else y
        close(y[1, 3], params["out_proj"]["bias"])
        assert all(g.isfinite().all() for g in tree.leaves(grads))
    padded = layer.apply(params, x, mask=torch.zeros(B, 1, L) > 0)
    close(padded, params["out_proj"]["bias"].expand(B, L, D))


def test_padding_has_no_say():
    layer = nn.multi_head_attention(D, 3, rotary=True)
    params, x = drawn(layer), numbers(B, L, D)
    lengths = torch.tensor([5, 2, 3])
    mask = torch.arange(L) < lengths[:, None]

    def loss(params, x):
        y = layer.apply(params, x, mask=mask[:, None, :])
        return loss_of(torch.where(mask[..., None], y**2, 0.0)), y

    grads, y = fl.grad(loss, (0, 1), has_aux=True)(params, x)
    for sample, one, n in zip(x, y, lengths.tolist(), strict=True):
        close(one[:n], layer.apply(params, sample[:n]))
    assert (grads[1][~mask] == 0).all()


def test_dropout_only_in_training_and_by_the_key():
    layer, plain = (nn.multi_head_attention(D, HEADS, dropout=p) for p in (0.3, 0.0))
    params, x = drawn(layer), numbers(B, L, D)
    key, other = random.split(random.key(3)).unbind()
    expected = plain.apply(params, x)
    close(layer.apply(params, x), expected)
    close(layer.apply(params, x, key=key), expected)
    close(plain.apply(params, x, train=True), expected)
    y = layer.apply(params, x, key=key, train=True)
    close(layer.apply(params, x, key=key, train=True), y)
    assert not torch.equal(layer.apply(params, x, key=other, train=True), y)
    # It acts on the weights, of which the result is linear: the mean stays.
    keys = random.split(random.key(5), 3000)
    many = fl.vmap(lambda k: layer.apply(params, x, key=k, train=True))(keys)
    error = 5 * many.std(0) / math.sqrt(3000)
    assert ((many.mean(0) - expected).abs() < error).all()
    nothing = nn.multi_head_attention(D, HEADS, dropout=1.0)
    zero = nothing.apply(params, x, key=key, train=True)
    close(zero, params["out_proj"]["bias"].expand(B, L, D))


def test_per_sample_gradients_and_a_population():
    layer = nn.multi_head_attention(D, HEADS, num_kv_heads=1, is_causal=True)
    params, x = drawn(layer), numbers(B, L, D)
    mask = numbers(B, 1, L, seed=2) > -0.7

    def loss(params, x, mask):
        return loss_of(layer.apply(params, x, mask=mask) ** 2)

    got = fl.vmap(fl.grad(loss), (None, 0, 0))(params, x, mask)
    rows = zip(x, mask, strict=True)
    close(got, tree.stack([fl.grad(loss)(params, *row) for row in rows]))
    many = [params, drawn(layer, 12)]
    ys = fl.vmap(layer.apply, (0, None))(tree.stack(many), x)
    close(ys, torch.stack([layer.apply(p, x) for p in many]))


def test_autocast_and_a_mask_of_another_precision():
    layer = nn.multi_head_attention(D, 3, rotary=True)
    params = layer.init(random.key(0))
    x, mask = numbers(B, L, D).float(), numbers(L, L, seed=2).float()
    expected = layer.apply(params, x, mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer.apply(params, x, mask=mask)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.02)
    close(layer.apply(params, x, mask=mask.double()), expected)


@pytest.mark.parametrize("options", [{}, {"kdim": 30, "vdim": 170}])
def test_init_is_that_of_torch(options, device):
    layer = nn.multi_head_attention(120, 3, **options)
    torch.manual_seed(0)
    module = torch_nn.MultiheadAttention(120, 3, **options)
    params = layer.init(random.key(3, device=device))
    assert {p.device.type for p in tree.leaves(params)} == {device.type}
    params = tree.to(params, device="cpu")
    if module.in_proj_weight is None:
        theirs = [getattr(module, f"{name}_weight") for name in PROJECTIONS]
    else:
        theirs = module.in_proj_weight.chunk(3)
    theirs = [*theirs, module.out_proj.weight]
    for name, weight in zip((*PROJECTIONS, "out_proj"), theirs, strict=True):
        assert params[name]["weight"].shape == weight.shape
        same_distribution(params[name]["weight"], weight.detach())
        close(params[name]["bias"], torch.zeros(120))
    first, second = (params[name]["weight"].flatten()[:99] for name in PROJECTIONS[:2])
    assert not torch.allclose(first, second)


def test_the_fan_of_shared_heads():
    layer = nn.multi_head_attention(120, 6, num_kv_heads=2, head_dim=50, bias=False)
    params = layer.init(random.key(3))
    shapes = {name: tuple(p["weight"].shape) for name, p in params.items()}
    assert shapes == {
        "q_proj": (300, 120), "k_proj": (100, 120), "v_proj": (100, 120),
        "out_proj": (120, 300),
    }  # fmt: skip
    bound = math.sqrt(6 / (120 + 500))
    for name in PROJECTIONS:
        largest = params[name]["weight"].abs().max()
        torch.testing.assert_close(largest, torch.tensor(bound), rtol=0.01, atol=0)


LAYER = nn.multi_head_attention(D, HEADS)
PARAMS = drawn(LAYER)
X = numbers(B, L, D)
CROSS = nn.multi_head_attention(D, HEADS, kdim=3, vdim=2)
CAUSAL = nn.multi_head_attention(D, HEADS, is_causal=True)
TURNED = nn.multi_head_attention(D, 3, rotary=True)


def attend(*inputs, layer=LAYER, **options):
    return lambda: layer.apply(drawn(layer), *inputs, **options)


def make(*sizes, **options):
    return lambda: nn.multi_head_attention(*sizes, **options)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (make(0, 1), ValueError, "embed_dim: expected at least 1, got 0"),
        (make(6, 0), ValueError, "num_heads: expected at least 1, got 0"),
        (make(6, 2.0), TypeError, "num_heads: expected an integer, got float"),
        (make(6, 4), ValueError,
         "num_heads: expected a divisor of embed_dim=6, got 4. Choose one, or give"),
        (make(6, 3, num_kv_heads=2), ValueError,
         "num_kv_heads: expected a divisor of num_heads=3, got 2"),
        (make(6, 3, num_kv_heads=0), ValueError, "num_kv_heads: .* got 0"),
        (make(6, 3, head_dim=0), ValueError, "head_dim: .* at least 1, got 0"),
        (make(6, 3, kdim=-1), ValueError, "kdim: .* at least 1, got -1"),
        (make(6, 3, vdim=True), TypeError, "vdim: .* got bool"),
        (make(6, 3, dropout=1.3), ValueError, "attention: dropout: .* got 1.3"),
        (make(6, 3, dropout="a"), TypeError, "attention: dropout: .* got str"),
        (make(6, 2, rotary=True), ValueError,
         "rotary: expected an even head_dim, got 3"),
        (make(6, 3, rotary=-2), ValueError, "rotary: expected .* above 0, got -2"),
        (make(6, 3, rotary=0.0), ValueError, "rotary: expected .* above 0, got 0.0"),
        (make(6, 3, rotary="half"), TypeError, "rotary: expected a number .* got str"),
        (attend(X[..., :5]), ValueError,
         r"x: expected shape \(..., T, 6\), got \(3, 5, 5\)"),
        (attend(X[0, 0]), ValueError, r"x: expected shape \(..., T, 6\), got \(6,\)"),
        (attend(X > 0), TypeError, "x: expected a floating-point tensor, got torch.bo"),
        (attend([2.0]), TypeError, "x: expected a floating-point tensor, got list"),
        (attend(X.float()), TypeError,
         "x: expected torch.float64, as the params have, got torch.float32"),
        (attend(X.to("meta")), TypeError, "x: expected device cpu, .* got meta"),
        (attend(X, X[..., 2:]), ValueError,
         r"context: expected shape \(..., T, 6\), got \(3, 5, 4\)"),
        (attend(X, X.float()), TypeError, "context: expected torch.float64"),
        (attend(X, X, X[:, 1:]), ValueError,
         r"values: expected 5 vectors, as context has, got shape \(3, 4, 6\)"),
        (attend(X, None, X), ValueError,
         r"context: expected shape \(..., S, 6\), got None"),
        (attend(X, layer=CROSS), ValueError,
         r"context: expected shape \(..., S, 3\), got None"),
        (attend(X, X[..., :3], layer=CROSS), ValueError,
         r"values: expected shape \(..., S, 2\), got None.*vdim=3"),
        (attend(X, X[:2]), ValueError,
         r"context: .* leading axes .* of x, \(3, 5, 6\), got \(2, 5, 6\)\. Give"),
        (attend(X, X, X[:2]), ValueError, r"and values \(2, 5, 6\)"),
        (attend(X, X[:, 1:], layer=CAUSAL), ValueError,
         r"context: expected 5 vectors, .*is_causal=True, got shape \(3, 4, 6\)"),
        (attend(X, X, layer=TURNED), ValueError,
         "context: expected None with rotary positions"),
        (attend(X, positions=torch.arange(5)), ValueError,
         "positions: expected None without rotary positions, got Tensor"),
        (attend(X, positions=torch.arange(4), layer=TURNED), ValueError,
         r"positions: expected a shape that broadcasts to \(3, 5\), .* got \(4,\)"),
        (attend(X, positions=torch.arange(5) > 2, layer=TURNED), TypeError,
         "positions: expected a tensor of integers, got torch.bool"),
        (attend(X, mask=torch.ones(5, 5).long()), TypeError,
         r"mask: expected a boolean .* got torch.int64. Convert with mask.bool"),
        (attend(X, mask=[[True]]), TypeError, "mask: expected a bool.* got list"),
        (attend(X, mask=torch.ones(5, 5, device="meta")), TypeError,
         "mask: expected device cpu, as x has, got meta"),
        (attend(X, mask=torch.ones(3, 5) > 0), ValueError,
         r"mask: expected shape \(5, 5\) or \(3, 5, 5\) or \(3, 2, 5, 5\), or 1 for an "
         r"axis, got \(3, 5\). Give a padding mask \(..., S\) as mask\[..., None, :\]"),
        (attend(X, mask=torch.ones(5) > 0), ValueError, r"mask: .* got \(5,\)"),
        (attend(X, mask=torch.ones(2, 5, 5)), ValueError, r"mask: .* got \(2, 5, 5\)"),
        (attend(X, X[:, 1:], mask=torch.ones(5, 5)), ValueError,
         r"mask: expected shape \(5, 4\) or \(3, 5, 4\) or .* got \(5, 5\)"),
        (attend(X[0], mask=torch.ones(3, 5, 5)), ValueError,
         r"mask: expected shape \(5, 5\) or \(2, 5, 5\), or 1 .* got \(3, 5, 5\)"),
        (attend(X, layer=nn.multi_head_attention(D, 3, dropout=0.3), train=True),
         ValueError, "key: expected a key with train=True and dropout, got None"),
        (lambda: LAYER.apply((), X), ValueError, "expected a dict with .* got tuple"),
        (lambda: LAYER.apply({**PARAMS, "q_proj": PARAMS["q_proj"]["weight"]}, X),
         ValueError, "params: expected a dict with"),
        (lambda: CROSS.apply(PARAMS, X, X[..., :3], X[..., :2]), ValueError,
         r"params\['k_proj.weight'\]: expected .* of shape \(6, 3\), got \(6, 6\)"),
        (lambda: nn.multi_head_attention(D, HEADS, bias=False).apply(PARAMS, X),
         ValueError, r"params: expected a dict with .*'k_proj.weight'.*got .*bias"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
