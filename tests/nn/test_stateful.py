# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""stateful, and sequential, residual and compose of layers with a state."""

from typing import Any

import pytest
import torch
from torch import nn as torch_nn

import functorch_lab as fl
from functorch_lab import nn, random, tree
from functorch_lab.types import Layer, StatefulLayer

KEY = random.key(3)
X = torch.linspace(-1.0, 1.4, 35, dtype=torch.float64).reshape(7, 5) ** 3
NORM = nn.batch_norm(5, spatial_dims=0)


def counter(log=None):
    """A layer whose state counts its calls, and which writes down what it gets."""

    def apply(params, state, x, *, key=None, train=False):
        if log is not None:
            log.append((params, key, train))
        return x + state["calls"], {"calls": state["calls"] + 1}

    return StatefulLayer(lambda key: ({"key": key}, {"calls": torch.tensor(2)}), apply)


def loss_of(y):
    weights = torch.linspace(0.3, 1.7, y.numel(), dtype=y.dtype).view_as(y)
    return (y**2 * weights).sum()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


class Block(torch_nn.Module):
    """The same model in torch.nn: its normalisation is called twice."""

    def __init__(self, inner=None):
        super().__init__()
        self.norm = torch_nn.BatchNorm1d(5)
        self.dense = torch_nn.Linear(5, 5)
        self.inner = inner or torch_nn.Identity()

    def forward(self, x):
        return self.norm(torch.tanh(self.dense(self.norm(x)))) + self.inner(x)


def load(module, **parts):
    """Puts our params and state, by the names of torch's submodules, in the module."""
    module.load_state_dict(
        {
            f"{at}.{k}": v
            for at, trees in parts.items()
            for t in trees
            for k, v in t.items()
        }
    )
    return module.double()


def gradients(module, x):
    return {
        name: gradient
        for (name, _), gradient in zip(
            module.named_parameters(),
            torch.autograd.grad(loss_of(module(x)), list(module.parameters())),
            strict=True,
        )
    }


def three_steps(model, params, state, x):
    """Of training: outputs and gradients each time, and the last state."""
    steps = []
    for i in range(3):

        def loss(params, state=state, x=x * (i + 1)):
            y, after = model.apply(params, state, x, train=True)
            return loss_of(y), (y, after)

        grads, (y, state) = fl.grad(loss, has_aux=True)(params)
        steps.append((y, grads))
    return steps, state


def test_sequential_and_residual_equal_torch_over_several_steps():
    inner = nn.sequential(nn.linear(5, 5), NORM, nn.tanh)
    model = nn.sequential(NORM, nn.residual(inner), nn.linear(5, 2))
    assert isinstance(model, StatefulLayer)
    params, state = tree.cast(model.init(KEY), torch.float64)
    assert tree.structure(state) == tree.structure((state[0], ((), state[0], ()), ()))

    class Residual(torch_nn.Sequential):
        def forward(self, input):  # noqa: A002  (torch's name)
            return input + super().forward(input)

    module = torch_nn.Sequential(
        torch_nn.BatchNorm1d(5),
        Residual(torch_nn.Linear(5, 5), torch_nn.BatchNorm1d(5), torch_nn.Tanh()),
        torch_nn.Linear(5, 2),
    )
    parts = {
        "0": (params[0], state[0]),
        "1.0": (params[1][0],),
        "1.1": (params[1][1], state[1][1]),
        "2": (params[2],),
    }
    load(module, **parts)
    steps, state = three_steps(model, params, state, X)
    for i, (y, grads) in enumerate(steps):
        x = X * (i + 1)
        expected = gradients(module, x)
        for at, of_part in {
            "0": grads[0], "1.0": grads[1][0], "1.1": grads[1][1], "2": grads[2],
        }.items():  # fmt: skip
            close(of_part, {k: expected[f"{at}.{k}"] for k in ("weight", "bias")})
        # torch has counted this batch in the line above.
        close(y, torch.func.functional_call(module, tree.copy(
            dict(module.named_buffers())), (x,)).detach())  # fmt: skip
    buffers = dict(module.named_buffers())
    close({f"0.{k}": v for k, v in state[0].items()}
          | {f"1.1.{k}": v for k, v in state[1][1].items()}, buffers)  # fmt: skip
    y, same = model.apply(params, state, X[2])
    close(y, module.eval()(X[2][None])[0].detach())
    close(same, state)


def test_compose_calls_a_layer_twice_with_the_state_of_the_first_call():
    def forward(m, x):
        return m.norm(torch.tanh(m.dense(m.norm(x)))) + x

    model = nn.compose(forward, norm=NORM, dense=nn.linear(5, 5))
    params, state = tree.cast(model.init(KEY), torch.float64)
    assert state["dense"] == ()
    module = load(
        Block(), norm=(params["norm"], state["norm"]), dense=(params["dense"],)
    )
    steps, state = three_steps(model, params, state, X)
    for i, (_, grads) in enumerate(steps):
        expected = gradients(module, X * (i + 1))
        flat = {f"{at}.{k}": v for at, g in grads.items() for k, v in g.items()}
        close(flat, expected)
    close(
        {f"norm.{k}": v for k, v in state["norm"].items()}, dict(module.named_buffers())
    )
    close(state["norm"]["num_batches_tracked"], torch.tensor(6))


def test_a_state_passes_through_every_combinator():
    inner = nn.compose(
        lambda m, x: m.count(m.count(x)) + 0 * m.count.state["calls"],
        count=counter(),
        plain=nn.tanh,
    )
    model = nn.sequential(nn.relu, inner, nn.residual(counter()))
    params, state = model.init(KEY)
    y, after = model.apply(params, state, torch.tensor(7))
    assert y == 2 * (7 + 2 + 3) + 2
    expected = ((), {"count": {"calls": torch.tensor(4)}, "plain": ()},
                {"calls": torch.tensor(3)})  # fmt: skip
    torch.testing.assert_close(after, expected)
    assert tree.equal(model.init(KEY)[1], state)


def test_keys_and_train_reach_stateful_parts_as_others():
    log: list[Any] = []
    model = nn.sequential(counter(log), nn.relu, nn.compose(
        lambda m, x: m.a(x), a=nn.residual(counter(log))))  # fmt: skip
    params, state = model.init(KEY)
    plain = Layer(lambda key: {"key": key}, lambda params, x, **_: x)
    expected = nn.sequential(plain, nn.relu, nn.compose(lambda m, x: m.a(x), a=plain))
    torch.testing.assert_close(params, expected.init(KEY), rtol=0, atol=0)
    model.apply(params, state, X)
    assert [(key, train) for _, key, train in log] == [(None, False)] * 2
    log.clear()
    model.apply(params, state, X, key=KEY, train=True)
    (_, first, train), (_, second, _) = log
    assert train
    assert len({tuple(k.tolist()) for k in (first, second, KEY)}) == 3


def test_stateful_lifts_what_has_no_state():
    layer = nn.linear(5, 2)
    lifted = nn.stateful(layer)
    params, state = lifted.init(KEY)
    assert state == ()
    torch.testing.assert_close(params, layer.init(KEY), rtol=0, atol=0)
    x = X.float()
    y, state = lifted.apply(params, (), x, key=KEY, train=True)
    torch.testing.assert_close(y, layer.apply(params, x), rtol=0, atol=0)
    assert state == ()
    assert nn.stateful(NORM) is NORM
    y, _ = nn.stateful(torch.tanh).apply((), (), X)
    close(y, torch.tanh(X))
    dropped, _ = nn.stateful(nn.dropout(0.5)).apply((), (), X, key=KEY, train=True)
    close(dropped, nn.dropout(0.5).apply((), X, key=KEY, train=True))


def test_without_a_stateful_part_they_are_layers():
    parts = [
        nn.sequential(nn.relu),
        nn.residual(nn.relu),
        nn.compose(lambda m, x: m.a(x), a=nn.linear(2, 3)),
        nn.parallel(nn.relu),
        nn.repeat(nn.relu, 2),
    ]
    assert {type(part) for part in parts} == {Layer}
    parts = [
        nn.sequential(NORM),
        nn.residual(nn.sequential(nn.relu, NORM)),
        nn.compose(lambda m, x: m.a(x), a=NORM, b=nn.relu),
        nn.parallel(nn.relu, NORM),
        nn.repeat(NORM, 2),
    ]
    assert {type(part) for part in parts} == {StatefulLayer}


def vmapped(m, x):
    return fl.vmap(m.count)(x)


def differentiated(m, x):
    return fl.grad(lambda x: m.count(x).sum())(x)


@pytest.mark.parametrize("forward", [vmapped, differentiated])
def test_a_state_does_not_leave_a_transform_inside_forward(forward):
    model = nn.compose(forward, count=counter())
    with pytest.raises(ValueError, match=r"forward: m.count: .* its new state is lost"):
        fl.vmap(lambda x: model.apply(*model.init(KEY), x))(X)


def test_what_leaves_the_state_alone_may_be_transformed_inside_forward():
    model = nn.compose(lambda m, x: fl.vmap(m.norm)(x), norm=NORM)
    params, state = tree.cast(model.init(KEY), torch.float64)
    y, _ = model.apply(params, state, X)
    close(y, NORM.apply(params["norm"], state["norm"], X)[0])
    outside = fl.vmap(lambda x: model.apply(params, state, x)[0])(X[:, None])
    close(outside[:, 0], y)


SEQUENTIAL = nn.sequential(NORM, nn.linear(5, 2))
COMPOSED = nn.compose(lambda m, x: m.a(x), a=NORM, b=nn.tanh)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: SEQUENTIAL.apply(SEQUENTIAL.init(KEY)[0], (), X), ValueError,
         "nn.sequential: state: expected a tuple of 2, got tuple of length 0. Pass the "
         "state"),
        (lambda: SEQUENTIAL.apply((), ((), ()), X), ValueError,
         "nn.sequential: params: expected a tuple of 2, got tuple of length 0"),
        (lambda: SEQUENTIAL.apply(SEQUENTIAL.init(KEY)[0], ((), ()), X.float()),
         ValueError, r"nn.batch_norm at \[0\]: state: expected a dict"),
        (lambda: nn.stateful(nn.relu).apply((), NORM.init(KEY)[1], X), ValueError,
         r"nn.stateful: state: expected \(\), got dict of length 3. Pass the state"),
        (lambda: nn.stateful(torch_nn.ReLU()), TypeError,
         "nn.stateful: layer: expected a Layer or a plain function, got ReLU"),
        (lambda: COMPOSED.apply(COMPOSED.init(KEY)[0], {"a": ()}, X), ValueError,
         r"nn.compose: state: expected a dict with \['a', 'b'\], got \['a'\]. Pass"),
        (lambda: COMPOSED.apply((), COMPOSED.init(KEY)[1], X), ValueError,
         r"nn.compose: params: expected a dict with \['a', 'b'\], got tuple"),
        (lambda: nn.residual(nn.sequential(counter(), nn.flatten(-2))).apply(
            ({"key": KEY}, ()), ({"calls": KEY[0]}, ()), X), ValueError,
         "nn.residual: layer: expected an output of the input's shape"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
