# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""repeat: the layer in turn, against the copies written out in torch."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad

import functorch_lab as fl
from functorch_lab import nn, random, tree

KEY = random.key(3)
X = torch.linspace(-1.0, 1.4, 35, dtype=torch.float64).reshape(7, 5)
BLOCK = nn.sequential(nn.linear(5, 5), nn.tanh)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def loss_of(y):
    weights = torch.linspace(0.3, 1.7, y.numel(), dtype=y.dtype).view_as(y)
    return (y**2 * weights).sum()


def test_output_and_gradients_equal_the_copies_one_by_one():
    model = nn.repeat(BLOCK, 3)
    params = tree.cast(model.init(KEY), torch.float64)
    leaves = [
        (p["weight"].clone().requires_grad_(), p["bias"].clone().requires_grad_())
        for p, _ in tree.unstack(params)
    ]
    assert len({p[0].sum().item() for p in leaves}) == 3
    x = X.clone().requires_grad_()
    expected = x
    for weight, bias in leaves:
        expected = torch.tanh(F.linear(expected, weight, bias))
    close(model.apply(params, X), expected.detach())
    flat = [each for pair in leaves for each in pair]
    *of_params, of_x = torch.autograd.grad(loss_of(expected), [*flat, x])
    together = {
        "weight": torch.stack(of_params[::2]),
        "bias": torch.stack(of_params[1::2]),
    }
    grads = fl.grad(lambda p, x: loss_of(model.apply(p, x)), (0, 1))(params, X)
    close(grads, ((together, ()), of_x))


def test_begins_and_draws_as_a_sequential_of_copies():
    block = nn.sequential(nn.linear(5, 5), nn.dropout(0.5))
    repeated, written_out = nn.repeat(block, 3), nn.sequential(block, block, block)
    params, expected = repeated.init(KEY), written_out.init(KEY)
    torch.testing.assert_close(params, tree.stack(expected), rtol=0, atol=0)
    x = X.float()
    y = repeated.apply(params, x, key=KEY, train=True)
    expected = written_out.apply(expected, x, key=KEY, train=True)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


def test_every_copy_has_a_state_of_its_own():
    block = nn.sequential(nn.batch_norm(5, spatial_dims=0), nn.linear(5, 5))
    repeated, written_out = nn.repeat(block, 2), nn.sequential(block, block)
    params, state = tree.cast(repeated.init(KEY), torch.float64)
    copies, states = tuple(tree.unstack(params)), tuple(tree.unstack(state[0]))
    states = tuple((s, ()) for s in states)
    for _ in range(2):
        y, state = repeated.apply(params, state, X, train=True)
        expected, states = written_out.apply(copies, states, X, train=True)
        close((y, state), (expected, tree.stack(states)))
    close(
        repeated.apply(params, state, X),
        (written_out.apply(copies, states, X)[0], state),
    )


def test_of_a_plain_function():
    model = nn.repeat(torch.tanh, 2)
    assert model.init(KEY) == ()
    close(model.apply((), X), X.tanh().tanh())
    assert tree.structure(nn.repeat(BLOCK, 1).init(KEY)) == tree.structure(
        BLOCK.init(KEY)
    )


def test_compiled_equals_eager():
    model = nn.repeat(nn.sequential(BLOCK, nn.batch_norm(5, spatial_dims=0)), 3)
    params, state = tree.cast(model.init(KEY), torch.float64)
    torch.compiler.reset()

    def step(params, state, x):
        def loss(params):
            y, after = model.apply(params, state, x, train=True)
            return loss_of(y), after

        return grad(loss, has_aux=True)(params)

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    close(compiled(params, state, X), step(params, state, X))


WRONG = {"weight": torch.ones(2, 5, 5), "bias": torch.ones(2, 5)}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.repeat(nn.linear(5, 5), 3).apply(WRONG, X), ValueError,
         r"nn.repeat: params at \['bias'\]: expected a leading axis of n = 3, got "
         r"shape \(2, 5\)"),
        (lambda: nn.repeat(nn.batch_norm(5, spatial_dims=0), 2).apply(
            WRONG, {"num_batches_tracked": torch.tensor(3)}, X), ValueError,
         r"nn.repeat: state at \['num_batches_tracked'\]: .* n = 2, got shape \(\)"),
        (lambda: nn.repeat(nn.linear(5, 5), 2).apply((), X.float()), ValueError,
         "nn.linear: params: expected a dict"),
        (lambda: nn.repeat(BLOCK, 0), ValueError, "nn.repeat: n: .* got 0"),
        (lambda: nn.repeat(BLOCK, 2.0), TypeError, "nn.repeat: n: .* got float"),
        (lambda: nn.repeat([BLOCK], 2), TypeError, "nn.repeat: layer: .* got list"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_options_go_to_every_copy():
    block = nn.transformer_block(6, 2, hidden=3)
    model = nn.repeat(block, 3)
    params = tree.cast(model.init(random.key(3)), torch.float64)
    params = tree.map(lambda p: p + 0.3 * torch.sin(50 * p), params)
    x = torch.linspace(3, 40, 60, dtype=torch.float64).sin().reshape(2, 5, 6)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    expected = x
    for each in tree.unstack(params):
        expected = block.apply(each, expected, mask=mask)
    got = model.apply(params, x, mask=mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert (got - model.apply(params, x)).abs().max() > 1e-3
