# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""sequential and residual: params, keys and the order of layers."""

import pytest
import torch
from torch import nn as torch_nn

import functorch_lab as fl
from functorch_lab import nn, random, types

KEY = random.key(3)
X = torch.linspace(-1.0, 1.4, 15).reshape(3, 5)
LAYERS = (nn.linear(5, 7), nn.tanh, nn.linear(7, 2))


def recorder(log):
    """A layer that writes down what it was called with."""

    def apply(params, x, *, key=None, train=False):
        log.append((params, key, train))
        return x

    return types.Layer(lambda key: {"key": key}, apply)


def test_equals_the_layers_by_hand():
    model = nn.sequential(*LAYERS)
    params = model.init(KEY)
    first, empty, last = params
    assert empty == ()
    module = torch_nn.Sequential(
        torch_nn.Linear(5, 7), torch_nn.Tanh(), torch_nn.Linear(7, 2)
    )
    state = {"0.weight": first["weight"], "0.bias": first["bias"]}
    state |= {"2.weight": last["weight"], "2.bias": last["bias"]}
    module.load_state_dict(state)
    torch.testing.assert_close(model.apply(params, X), module(X).detach())
    torch.testing.assert_close(model.apply(list(params), X[0]), module(X[0]).detach())


def test_layers_start_differently_and_do_not_depend_on_what_follows():
    same = (nn.linear(5, 5), nn.linear(5, 5), nn.linear(5, 5))
    three, two = nn.sequential(*same).init(KEY), nn.sequential(*same[:2]).init(KEY)
    assert not torch.equal(three[0]["weight"], three[1]["weight"])
    torch.testing.assert_close(three[:2], two, rtol=0, atol=0)


def test_keys_and_train_reach_every_layer():
    log = []
    model = nn.sequential(recorder(log), nn.relu, recorder(log))
    params = model.init(KEY)
    model.apply(params, X)
    assert [(p is q, k, t) for (p, k, t), q in zip(log, params[::2], strict=True)] == [
        (True, None, False)
    ] * 2
    log.clear()
    model.apply(params, X, key=KEY, train=True)
    (_, first, train), (_, second, _) = log
    assert train
    assert not torch.equal(first, second)
    assert not torch.equal(first, KEY)


def test_empty_is_the_identity():
    model = nn.sequential()
    assert model.init(KEY) == ()
    torch.testing.assert_close(model.apply((), X, key=KEY), X)


def test_residual_adds_the_input():
    layer = nn.residual(nn.linear(5, 5))
    params = layer.init(KEY)
    expected = X + X @ params["weight"].T + params["bias"]
    torch.testing.assert_close(layer.apply(params, X), expected)
    log = []
    nn.residual(recorder(log)).apply({}, X, key=KEY, train=True)
    assert log == [({}, KEY, True)]


def test_nested_layers_compile_with_keys():
    torch.compiler.reset()
    block = nn.residual(nn.sequential(nn.linear(5, 5), nn.dropout(0.5), nn.gelu))
    model = nn.sequential(block, block, nn.linear(5, 2))
    params = model.init(KEY)

    def apply(params, x, key):
        return model.apply(params, x, key=key, train=True)

    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, X, KEY), apply(params, X, KEY))


NESTED = nn.sequential(
    nn.tanh,
    nn.compose(
        lambda m, x: m.wide((x, x)),
        wide=nn.parallel(nn.linear(5, 7), nn.residual(nn.linear(5, 5))),
    ),
)


def wrong(params):
    (of_tanh, of_compose), (_, second) = params, params[1]["wide"]
    first = {"weight": torch.ones(2), "bias": torch.ones(7)}
    return of_tanh, {**of_compose, "wide": (first, second)}


def refuses(x):
    raise ValueError("mine: no")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.sequential(*LAYERS).apply((), X), ValueError,
         "nn.sequential: params: expected a tuple of 3, got tuple of length 0"),
        (lambda: nn.sequential(*LAYERS).apply({"weight": X}, X), ValueError,
         "expected a tuple of 3, got dict of length 1"),
        (lambda: nn.sequential(nn.relu).apply((X,), X), ValueError,
         r"nn.sequential at \[0\]: params: expected \(\), got Tensor"),
        (lambda: NESTED.apply(wrong(NESTED.init(KEY)), X), ValueError,
         r"^nn.linear at \[1\]\['wide'\]\[0\]: params\['weight'\]: expected a tensor "
         r"of shape \(7, 5\), got \(2,\)"),
        (lambda: fl.jit(NESTED.apply)(NESTED.init(KEY), X.double()), TypeError,
         r"nn.linear at \[1\]\['wide'\]\[0\]: x: expected torch.float32, as "),
        (lambda: nn.sequential(refuses).apply(((),), X), ValueError, "^mine: no$"),
        (lambda: nn.sequential(nn.relu, torch_nn.Linear(2, 3)), TypeError,
         r"layers\[1\]: expected a Layer .*, got Linear. Use its counterpart in fl.nn"),
        (lambda: nn.sequential(LAYERS), TypeError, r"layers\[0\]: .* got tuple"),
        (lambda: nn.residual(torch_nn.ReLU()), TypeError,
         "nn.residual: layer: expected a Layer .*, got ReLU"),
        (lambda: nn.residual(nn.flatten(-2)).apply((), X), ValueError,
         r"output of the input's shape, \(3, 5\), got \(15,\)"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
