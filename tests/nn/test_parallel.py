# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""parallel against stax: each layer on its own input."""

import jax
import pytest
import torch
from jax.example_libraries import stax

import functorch_lab as fl
from functorch_lab import nn, random

KEY = random.key(3)
X = torch.linspace(-1.0, 1.4, 15).reshape(3, 5)


def fan_out(x):
    return x, x


def test_branches_equal_those_of_stax():
    model = nn.sequential(
        fan_out,
        nn.parallel(nn.linear(5, 7), nn.sequential(nn.tanh, nn.linear(5, 7))),
        sum,
    )
    params = model.init(KEY)
    _, (first, (_, second)), _ = params
    peer = stax.serial(
        stax.FanOut(2),
        stax.parallel(stax.Dense(7), stax.serial(stax.Tanh, stax.Dense(7))),
        stax.FanInSum,
    )[1]

    def dense(p):
        return jax.numpy.asarray(p["weight"].T), jax.numpy.asarray(p["bias"])

    peer_params = ((), (dense(first), ((), dense(second))), ())
    expected = torch.tensor(peer(peer_params, jax.numpy.asarray(X)).tolist())
    torch.testing.assert_close(model.apply(params, X), expected)


def test_each_layer_has_its_own_input_params_and_key():
    log = []

    def recorder(scale):
        def apply(params, x, *, key=None, train=False):
            log.append((key, train))
            return x * scale

        return fl.types.Layer(lambda key: {"key": key}, apply)

    model = nn.parallel(recorder(2), nn.relu, recorder(3))
    params = model.init(KEY)
    assert params[1] == ()
    assert not torch.equal(params[0]["key"], params[2]["key"])
    y = model.apply(params, [X, X[0], X[1, 2]], key=KEY, train=True)
    torch.testing.assert_close(y, (2 * X, X[0].relu(), 3 * X[1, 2]), rtol=0, atol=0)
    (first, train), (second, _) = log
    assert train
    assert len({tuple(k.tolist()) for k in (first, second, KEY)}) == 3


def test_states_stay_with_their_layers():
    norm = nn.batch_norm(5, spatial_dims=0)
    model = nn.parallel(norm, nn.tanh, norm)
    params, state = model.init(KEY)
    y, after = model.apply(params, state, (X, X, 2 * X), train=True)
    for i, x in ((0, X), (2, 2 * X)):
        expected = norm.apply(params[i], state[i], x, train=True)
        torch.testing.assert_close((y[i], after[i]), expected, rtol=0, atol=0)
    torch.testing.assert_close(y[1], X.tanh())
    assert after[1] == ()
    assert (after[0]["running_mean"] - after[2]["running_mean"]).abs().min() > 0.001


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.parallel(nn.relu, nn.tanh).apply(((), ()), X), ValueError,
         "nn.parallel: x: expected a tuple of 2, one input for each layer, got Tensor"),
        (lambda: nn.parallel(nn.relu, nn.tanh).apply(((), ()), (X,)), ValueError,
         "nn.parallel: x: expected a tuple of 2, .* got tuple of length 1"),
        (lambda: nn.parallel(nn.relu, nn.tanh).apply((), (X, X)), ValueError,
         "nn.parallel: params: expected a tuple of 2, got tuple of length 0"),
        (lambda: nn.parallel(nn.batch_norm(5, spatial_dims=0)).apply(
            ((),), {}, (X,)), ValueError,
         "nn.parallel: state: expected a tuple of 1, got dict of length 0"),
        (lambda: nn.parallel(nn.relu, 3), TypeError,
         r"nn.parallel: layers\[1\]: expected a Layer or a plain function, got int"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
