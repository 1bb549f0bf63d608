# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""compose: named layers, bound params, a new key for each call."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

import functorch_lab as fl
from functorch_lab import nn, random, types

KEY = random.key(3)
X = torch.linspace(-1.0, 1.4, 15).reshape(3, 5)


def forward(m, x):
    h = m.act(m.first(x))
    h = m.first(h) + m.drop(h)
    return F.linear(m.drop(h), m.first.params["weight"].T) + m.last(h)


MODEL = nn.compose(
    forward,
    first=nn.linear(5, 5),
    act=nn.tanh,
    drop=nn.dropout(0.5),
    last=nn.linear(5, 5),
)


def by_hand(params, x):
    w, b = params["first"]["weight"], params["first"]["bias"]
    h = torch.tanh(x @ w.T + b)
    h = h @ w.T + b + h
    return h @ w + h @ params["last"]["weight"].T + params["last"]["bias"]


def test_equals_the_model_by_hand():
    params = MODEL.init(KEY)
    assert list(params) == ["first", "act", "drop", "last"]
    torch.testing.assert_close(MODEL.apply(params, X), by_hand(params, X))
    torch.testing.assert_close(
        grad(lambda p: MODEL.apply(p, X).square().sum())(params)["first"],
        grad(lambda p: by_hand(p, X).square().sum())(params)["first"],
    )


def test_every_call_has_its_own_key():
    keys = []

    def apply(params, x, *, key=None, train=False):
        keys.append((key, train))
        return x

    layer = types.Layer(lambda key: (), apply)

    def forward(m, x):
        assert m.train
        y = m.a(m.b(m.a(x)))
        keys.append((m.key(), m.train))
        return y

    model = nn.compose(forward, a=layer, b=layer)
    model.apply(model.init(KEY), X, key=KEY, train=True)
    assert all(train for _, train in keys)
    assert len({tuple(k.tolist()) for k, _ in keys} | {tuple(KEY.tolist())}) == 5


def test_without_a_key_there_is_none():
    model = nn.compose(lambda m, x: (m.key(), m.train))
    assert model.init(KEY) == {}
    assert model.apply({}, X) == (None, False)


def test_dropout_differs_between_calls_and_needs_a_key():
    model = nn.compose(lambda m, x: (m.drop(x), m.drop(x)), drop=nn.dropout(0.5))
    x = torch.full((50,), 0.7)
    first, second = model.apply({"drop": ()}, x, key=KEY, train=True)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match=r"nn.dropout at \['drop'\]: key: .* got None"):
        model.apply({"drop": ()}, x, train=True)


def test_forward_takes_and_returns_any_trees():
    model = nn.compose(
        lambda m, x, mask: {"y": m.layer(x["a"]) * mask, "x": x}, layer=nn.linear(5, 2)
    )
    params = model.init(KEY)
    out = model.apply(params, {"a": X}, torch.tensor([1.0, 0.5]))
    weight, bias = params["layer"]["weight"], params["layer"]["bias"]
    expected = (X @ weight.T + bias) * torch.tensor([1.0, 0.5])
    torch.testing.assert_close(out["y"], expected)


def test_options_reach_the_layers():
    """A mask and lengths by name, through every combinator of one input and layer."""
    attention = nn.multi_head_attention(5, 1)

    def inner(m, x, *, mask):
        return m.kept(m.around(m.attn(x, mask=mask), mask=mask), mask=mask)

    parts = {"attn": attention, "around": nn.residual(attention)}
    block = nn.compose(inner, **parts, kept=nn.remat(attention))

    def outer(m, x, *, mask, lengths, axis=-1):
        return m.softmax(m.lstm(m.block(x, mask=mask), lengths=lengths), dim=axis)

    lstm = nn.lstm(5, 2)
    model = nn.compose(outer, block=block, lstm=lstm, softmax=torch.softmax)
    params = model.init(KEY)
    x = torch.stack([X, X.flip(0) * 0.3])
    lengths = torch.tensor([3, 2])
    mask = (torch.arange(3) < lengths[:, None])[:, None]
    options = {"mask": mask, "lengths": lengths, "axis": 1}

    def whole(params):
        return model.apply(params, x, **options)

    def by_place(params):
        h = x
        for name in ("attn", "around", "kept"):
            y = attention.apply(params["block"][name], h, None, None, mask)
            h = h + y if name == "around" else y
        return lstm.apply(params["lstm"], h, None, lengths).softmax(1)

    torch.testing.assert_close(whole(params), by_place(params))
    for gradient in (grad, fl.grad):
        torch.testing.assert_close(
            gradient(lambda p: whole(p).square().sum())(params),
            grad(lambda p: by_place(p).square().sum())(params),
        )
    assert not torch.allclose(whole(params)[1], model.apply(
        params, x, mask=mask | True, lengths=lengths, axis=1)[1])  # fmt: skip
    state = {"block": (), "lstm": (), "softmax": ()}
    y, state = nn.stateful(model).apply(params, (), x, **options)
    torch.testing.assert_close(y, whole(params))
    assert state == ()


def test_options_reach_stateful_layers():
    def apply(params, state, x, shift=2.0, *, scale, key=None, train=False):
        return x * scale + shift, {"calls": state["calls"] + 1}

    counter = types.StatefulLayer(lambda _: ((), {"calls": torch.tensor(2)}), apply)
    around = nn.residual(nn.remat(counter))
    model = nn.compose(lambda m, x, scale: m.a(x, 5.0, scale=scale), a=around)
    params, state = model.init(KEY)
    y, state = model.apply(params, state, X, scale=3.0)
    torch.testing.assert_close(y, 4 * X + 5)
    assert state["a"]["calls"] == 3


def test_composes_with_itself_and_with_sequential():
    inner = nn.compose(lambda m, x: m.b(m.a(x)), a=nn.linear(5, 7), b=nn.linear(7, 5))
    outer = nn.sequential(inner, nn.residual(inner))
    params = outer.init(KEY)
    h = inner.apply(params[0], X)
    torch.testing.assert_close(outer.apply(params, X), h + inner.apply(params[1], h))


def test_vmap_of_grad_with_keys_matches_a_loop():
    params, keys = MODEL.init(KEY), random.split(KEY, 3)

    def loss(params, x, key):
        return MODEL.apply(params, x, key=key, train=True).square().sum()

    actual = vmap(grad(loss), (None, 0, 0))(params, X, keys)
    for i in range(3):
        expected = grad(loss)(params, X[i], keys[i])["first"]["weight"]
        torch.testing.assert_close(actual["first"]["weight"][i], expected)


def test_compiles_without_a_break():
    torch.compiler.reset()
    params = MODEL.init(KEY)

    def loss(params, key):
        return MODEL.apply(params, X, key=key, train=True).square().sum()

    compiled = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, KEY), grad(loss)(params, KEY))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.compose(lambda m, x: m.attn(x), mlp=nn.relu).apply({"mlp": ()}, X),
         AttributeError, r"nn.compose: forward: m.attn: expected one of \['mlp'\]"),
        (lambda: nn.compose(lambda m, x: m.mlp(x, train=True), mlp=nn.relu).apply(
            {"mlp": ()}, X), TypeError, r"nn.compose: forward: m.mlp: expected options "
         r"other than \['key', 'train'\], which are bound already, got \['train'\]"),
        (lambda: nn.compose(lambda m, x: m.mlp(x, key=KEY), mlp=nn.relu).apply(
            {"mlp": ()}, X), TypeError, r"got \['key'\]. Pass them to the apply"),
        (lambda: nn.compose(lambda m, x: m.a(x, masks=X), a=nn.linear(5, 2)).apply(
            {"a": {}}, X), TypeError, "unexpected keyword argument 'masks'"),
        (lambda: nn.compose(forward, train=nn.relu), ValueError, r"got \['train'\]"),
        (lambda: nn.compose(forward, _a=nn.relu), ValueError, r"got \['_a'\]"),
        (lambda: nn.compose(nn.linear(2, 3)), TypeError, "forward: .* got Layer"),
        (lambda: nn.compose(forward, a=3), TypeError, "nn.compose: a: .* got int"),
        (lambda: MODEL.apply((), X), ValueError, r"dict with \['act', .* got tuple"),
        (lambda: MODEL.apply({"first": ()}, X), ValueError, r"got \['first'\]"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
