# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Attention in both of its forms: against a loop over queries, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

import functorch_lab as fl
from functorch_lab.nn._attention import attention
from parity import close, loss_of

L, S, E, EV = 5, 7, 3, 2


def numbers(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator)


def loop(query, key, value, bias, scale):
    """One query of one head after another; bias `(*lead, H, L, S)`."""
    rows = []
    groups = query.shape[-3] // key.shape[-3]
    for lead in torch.cartesian_prod(*map(torch.arange, query.shape[:-3])).tolist():
        for head in range(query.shape[-3]):
            keys = key[(*lead, head // groups)]
            values = value[(*lead, head // groups)]
            for i, row in enumerate(query[(*lead, head)]):
                seen = bias[(*lead, head, i)] > -math.inf
                if not seen.any():
                    rows.append(values.new_zeros(values.shape[-1]))
                    continue
                exponents = scale * keys[seen] @ row + bias[(*lead, head, i)][seen]
                weights = (exponents - exponents.logsumexp(0)).exp()
                rows.append((weights[:, None] * values[seen]).sum(0))
    return torch.stack(rows).reshape(*query.shape[:-1], value.shape[-1])


def blinded(mask, query=2):
    """The mask, by which one query sees nothing."""
    dark = torch.arange(mask.shape[-2])[:, None] == query
    return torch.where(dark, False if mask.dtype == torch.bool else -torch.inf, mask)


BOOLEAN = numbers(L, S, seed=3) > -0.4
MASKS = {
    "none": None,
    "boolean": blinded(BOOLEAN),
    "keys": BOOLEAN[:1],
    "queries": BOOLEAN[:, 3:4],
    "heads": blinded(numbers(4, L, S, seed=5) > -0.4),
    "samples": blinded(numbers(2, 3, 1, L, S, seed=5) > -0.4),
    "some samples": numbers(3, 1, 1, S, seed=5) > -0.4,
    "everything": numbers(2, 3, 4, L, S, seed=7) > 0.3,
    "added": blinded(numbers(L, S, seed=9)),
    "added to heads": numbers(2, 1, 4, L, 1, seed=9),
    "added in float32": numbers(L, S, seed=9, dtype=torch.float32),
}


def as_bias(mask, is_causal):
    """The mask and causality as one tensor that is added."""
    full = (2, 3, 4, L, S)
    bias = torch.zeros(full, dtype=torch.float64)
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.where(mask, bias, -torch.inf)
    elif mask is not None:
        bias = bias + mask
    return bias + torch.full((L, S), -torch.inf).triu(1) if is_causal else bias


def outermost(function, args):
    return fl.value_and_grad(function, tuple(range(len(args))), has_aux=True)(*args)


def inside(function, args):
    def flipped(*args):
        value, aux = function(*args)
        return value, (value, aux)

    grads, aux = torch.func.grad(flipped, tuple(range(len(args))), has_aux=True)(*args)
    return aux, grads


FORMS = {"outermost": outermost, "inside": inside}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@every_form
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    ("is_causal", "kv_heads", "size", "scale"),
    [(False, 4, E, None), (True, 2, E, None), (True, 1, EV, 0.7)],
)
def test_values_and_gradients_of_a_loop(form, mask, is_causal, kv_heads, size, scale):
    lead = (2, 3)
    query = numbers(*lead, 4, L, E)
    key = numbers(*lead, kv_heads, S, E, seed=1)
    value = numbers(*lead, kv_heads, S, size, seed=2)

    def function(q, k, v):
        y = attention(q, k, v, mask=mask, is_causal=is_causal, scale=scale)
        return loss_of(y**2), y

    (_, y), grads = form(function, (query, key, value))
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    bias = as_bias(mask, is_causal)
    expected = loop(*leaves, bias, 1 / math.sqrt(E) if scale is None else scale)
    close(y, expected.detach())
    close(list(grads), list(torch.autograd.grad(loss_of(expected**2), leaves)))


@every_form
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("lengths", [(5, 7), (7, 5), (1, 5), (5, 5)])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_values_and_gradients_of_torch(form, is_causal, lengths, lead):
    queries, keys = lengths
    args = (
        numbers(*lead, 6, queries, E),
        numbers(*lead, 2, keys, E, seed=1),
        numbers(*lead, 2, keys, E, seed=2),
    )

    def function(attend):
        def run(q, k, v):
            y = attend(q, k, v)
            return loss_of(y**2), y

        return run

    options = {"is_causal": is_causal}
    got = form(function(lambda *a: attention(*a, **options)), args)
    with sdpa_kernel(SDPBackend.MATH):
        options["enable_gqa"] = True
        expected = outermost(
            function(lambda *a: F.scaled_dot_product_attention(*a, **options)), args
        )
    close(got, expected)


@every_form
def test_leading_axes_broadcast(form):
    query, key, value = numbers(3, 2, L, E), numbers(5, 1, 2, S, E), numbers(2, S, EV)
    whole = [x.expand(5, 3, 2, *x.shape[-2:]) for x in (query, key, value)]
    expected = loop(*whole, torch.zeros(5, 3, 2, L, S, dtype=torch.float64), E**-0.5)

    def function(q, k, v):
        y = attention(q, k, v)
        return y.sum(), y

    (_, y), grads = form(function, (query, key, value))
    close(y, expected)
    assert [g.shape for g in grads] == [query.shape, key.shape, value.shape]


@every_form
@pytest.mark.parametrize(
    ("lead", "queries", "keys"), [((0,), 5, 7), ((2,), 0, 7), ((2, 3), 5, 0)]
)
@pytest.mark.parametrize("with_mask", [False, True])
def test_of_nothing(form, lead, queries, keys, with_mask):
    mask = torch.ones(queries, keys) > 0 if with_mask else None
    args = (
        numbers(*lead, 4, queries, E),
        numbers(*lead, 2, keys, E),
        numbers(*lead, 2, keys, EV),
    )

    def function(q, k, v):
        y = attention(q, k, v, mask=mask)
        return y.sum(), y

    (_, y), grads = form(function, args)
    close(y, torch.zeros(*lead, 4, queries, EV, dtype=torch.float64))
    close(grads, tuple(torch.zeros_like(x) for x in args))


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", ["boolean", "added"])
def test_a_query_that_sees_nothing_in_low_precision(form, dtype, mask):
    args = tuple(numbers(2, 4, n, E, seed=n).to(dtype) for n in (L, S, S))

    def function(q, k, v):
        y = attention(q, k, v, mask=MASKS[mask])
        return y.float().square().sum(), y

    (_, y), grads = form(function, args)
    assert y.dtype == dtype
    close(y[..., 2, :], torch.zeros_like(y[..., 2, :]))
    close(grads[0][..., 2, :], torch.zeros_like(y[..., 2, :]))
    assert all(g.isfinite().all() and (g != 0).any() for g in grads)


@every_form
def test_large_scores_do_not_overflow(form):
    query, key = 300 * numbers(2, L, E), 300 * numbers(2, S, E)
    value = numbers(2, S, E)

    def function(q, k, v):
        y = attention(q.float(), k.float(), v.float())
        return y.square().sum(), y

    (_, y), grads = form(function, (query, key, value))
    best = (query @ key.mT).argmax(-1, keepdim=True).expand(2, L, E)
    torch.testing.assert_close(y, value.gather(1, best).float())
    assert all(g.isfinite().all() for g in grads)


@pytest.fixture
def fused_calls(monkeypatch):
    """The shapes of the queries that reach torch's fused attention."""
    shapes = []
    torchs = F.scaled_dot_product_attention

    def record(query, *args, **kwargs):
        shapes.append(tuple(query.shape))
        return torchs(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    return shapes


def test_the_form_is_chosen_by_what_is_around(fused_calls):
    query, key, value = (numbers(2, 3, 4, n, E) for n in (L, S, S))
    attention(query, key, value)
    attention(query[0, 0], key[0, 0], value[0, 0])
    fl.grad(lambda q: attention(q, key, value).sum())(query)
    # Four axes, whatever there is: for others torch has no fused kernel.
    assert fused_calls == [(6, 4, L, E), (1, 4, L, E), (6, 4, L, E)]
    fused_calls.clear()
    fl.vmap(attention)(query, key, value)
    fl.jvp(lambda q: attention(q, key, value), (query,), (query,))
    fl.grad(lambda q: fl.grad(lambda q: attention(q, key, value).sum())(q).sum())(query)
    attention(query, key, value, dropout=0.3, dropout_key=fl.random.key(0))
    assert fused_calls == []


def test_heads_are_repeated_where_no_kernel_shares_them_beside_a_mask(monkeypatch):
    heads = []

    def record(query, key, value, **options):
        heads.append((key.shape[1], value.shape[1], options["enable_gqa"]))
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    for device in ("cpu", "meta"):
        query, key = (
            torch.ones(6, L, E, device=device),
            torch.ones(2, S, E, device=device),
        )
        attention(query, key, key)
        attention(query, key, key, mask=torch.ones(L, S, device=device))
    assert heads == [(2, 2, True), (2, 2, True), (2, 2, True), (6, 6, False)]


@pytest.fixture
def no_fallback():
    """An error where vmap has no rule and would run a loop."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    functorch._set_vmap_fallback_enabled(False)
    yield
    functorch._set_vmap_fallback_enabled(True)


@pytest.mark.parametrize("in_dims", [(0, 0, 0, 0), (2, None, 1, None), (None, 0, 0, 1)])
def test_vmap_and_vmap_of_grad_are_a_loop(in_dims, no_fallback):
    stacks = [numbers(*s) for s in ((3, 4, L, E), (3, 2, S, E), (3, 2, S, EV))]
    stacks = [*stacks, numbers(3, L, S) > -0.5]
    pairs = list(zip(stacks, in_dims, strict=True))
    args = [x[0] if d is None else x.movedim(0, d) for x, d in pairs]
    calls = [[x[0 if d is None else i] for x, d in pairs] for i in range(3)]

    def run(q, k, v, mask):
        return attention(q, k, v, mask=mask)

    def loss(*args):
        return loss_of(run(*args) ** 2)

    close(fl.vmap(run, in_dims)(*args), torch.stack([run(*c) for c in calls]))
    got = fl.vmap(fl.grad(loss, (0, 1, 2)), in_dims)(*args)
    close(got, fl.tree.stack([fl.grad(loss, (0, 1, 2))(*c) for c in calls]))


def test_second_and_forward_derivatives_are_those_of_torch():
    query, key, value = (numbers(2, n, E, seed=n) for n in (3, 5, 5))
    mask = torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5])

    def ours(q, k):
        return loss_of(attention(q, k, value, mask=mask) ** 2)

    def torchs(q, k):
        with sdpa_kernel(SDPBackend.MATH):
            y = F.scaled_dot_product_attention(q, k, value, attn_mask=mask)
        return loss_of(y**2)

    hessian = torch.autograd.functional.hessian(torchs, (query, key))
    close(fl.hessian(ours, (0, 1))(query, key), hessian)
    direction = numbers(2, 3, E, seed=8)
    product = torch.einsum("abcdef,def->abc", hessian[0][0], direction)
    close(fl.hvp(ours, (query, key), (direction,)), product)
    along = fl.grad(lambda q: (fl.grad(ours)(q, key) * direction).sum())(query)
    close(along, product)
    _, tangent = fl.jvp(lambda q: ours(q, key), (query,), (direction,))
    close(tangent, (fl.grad(ours)(query, key) * direction).sum())


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_derivatives_of_the_written_form_are_those_of_differences(share):
    args = [numbers(2, 3, E), numbers(1, 5, E), numbers(1, 5, EV)]
    args = [x.requires_grad_() for x in (*args, numbers(3, 5))]

    def function(q, k, v, mask):
        def one(k_):
            return attention(
                q, k, v, mask=mask, is_causal=True, dropout=share, dropout_key=k_
            )

        return fl.vmap(one)(fl.random.key(3)[None])[0]

    assert gradcheck(function, args, check_forward_ad=True)
    assert gradgradcheck(function, args)


def test_dropout_takes_its_share_and_keeps_the_mean():
    query, key = numbers(4, L, E), numbers(4, S, E)
    # The values are one-hot: the result is the weights.
    value = torch.eye(S, dtype=torch.float64).expand(4, S, S)
    weights = attention(query, key, value)
    keys = fl.random.split(fl.random.key(5), 2000)
    drawn = fl.vmap(lambda k: attention(query, key, value, dropout=0.3, dropout_key=k))(
        keys
    )
    kept = drawn != 0
    n = kept.numel()
    assert abs(kept.double().mean() - 0.7) < 4 * math.sqrt(0.21 / n)
    close(drawn, torch.where(kept, (weights / 0.7).expand(drawn.shape), 0.0))
    # The mean of 2000 draws: 5 standard deviations of the largest weight.
    torch.testing.assert_close(drawn.mean(0), weights, rtol=0, atol=0.075)


def test_dropout_is_a_function_of_the_key():
    query, key, value = numbers(4, L, E), numbers(2, S, E), numbers(2, S, EV)

    def run(seed, share=0.3):
        key_ = fl.random.key(seed)
        return attention(query, key, value, dropout=share, dropout_key=key_)

    close(run(2), run(2))
    assert not torch.equal(run(2), run(3))
    close(run(2, 1.0), torch.zeros(4, L, EV, dtype=torch.float64))
    close(run(2, 0.0), attention(query, key, value))
    with pytest.raises(ValueError, match="dropout_key: expected a key with dropout"):
        attention(query, key, value, dropout=0.3)


@pytest.mark.parametrize("mask", ["none", "samples"])
def test_compiled_equals_eager_without_a_break(mask, monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    args = [numbers(2, 3, 4, n, E, seed=n) for n in (L, S, S)]

    def loss(q, k, v):
        return loss_of(attention(q, k, v, mask=MASKS[mask], is_causal=True) ** 2)

    def rows(q, k, v):
        y = attention(q, k, v, is_causal=True)
        return loss_of(y**2)

    def step(*args):
        return (
            fl.value_and_grad(loss, (0, 1, 2))(*args),
            fl.vmap(fl.grad(rows, (0, 1, 2)))(*args),
        )

    close(fl.jit(step)(*args), step(*args))
