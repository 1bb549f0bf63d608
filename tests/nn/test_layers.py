# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Every layer and option against its module of torch.nn, in float64."""

import pytest
import torch
from torch import nn as torch_nn
from torch.func import grad, vmap

from functorch_lab import nn, tree
from parity import (
    check_leading_axes,
    check_outputs_and_gradients,
    check_per_sample_gradients,
    check_population,
    close,
    loss_of,
    module_gradients,
    prepare,
)

IMAGE, TOKENS = (6, 7, 8), (3, 5)


def norm(*args, **options):
    return nn.layer_norm(*args, **options), torch_nn.LayerNorm(*args, **options), TOKENS


CASES = {
    "linear": (nn.linear(5, 7), torch_nn.Linear(5, 7), TOKENS),
    "linear, no bias": (
        nn.linear(5, 7, bias=False),
        torch_nn.Linear(5, 7, bias=False),
        TOKENS,
    ),
    "flatten": (nn.flatten(), torch_nn.Flatten(-3), IMAGE),
    "flatten, two axes": (nn.flatten(-2), torch_nn.Flatten(-2), IMAGE),
    "layer_norm": norm(5),
    "layer_norm, two axes": norm(TOKENS, eps=0.3),
    "layer_norm, no bias": norm(5, bias=False),
    "layer_norm, plain": norm((5,), elementwise_affine=False),
}
pytestmark = [
    # Of torch's own forward derivatives, at their first use.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_match_torch(name):
    check_outputs_and_gradients(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_vmap_of_grad_matches_a_loop_over_samples(name):
    check_per_sample_gradients(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_any_leading_axes(name):
    check_leading_axes(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_a_population_of_params(name):
    check_population(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_forward_derivatives_match_the_backward_ones(name):
    layer, module, params, x = prepare(CASES[name])
    tangent = torch.roll(x, 1, -1)
    forward = torch.func.jvp(
        lambda x: loss_of(layer.apply(params, x) ** 2), (x,), (tangent,)
    )[1]
    close(forward, (module_gradients(module, x)[1] * tangent).sum())


@pytest.mark.parametrize("name", CASES)
def test_compiles_without_a_break(name):
    layer, _, params, x = prepare(CASES[name])
    torch.compiler.reset()

    def gradient(params, x):
        return grad(lambda p: loss_of(layer.apply(p, x) ** 2))(params), vmap(
            layer.apply, in_dims=(None, 0)
        )(params, x)

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    close(compiled(params, x), gradient(params, x))


@pytest.mark.parametrize("name", CASES)
def test_init_makes_what_torch_has(name, device):
    from functorch_lab import random

    layer, module, _ = CASES[name]
    params = layer.init(random.key(3, device=device))
    expected = {k: tuple(p.shape) for k, p in module.named_parameters()}
    if not expected:
        assert params == ()
        return
    assert {k: tuple(p.shape) for k, p in params.items()} == expected
    assert {p.dtype for p in params.values()} == {torch.float32}
    assert {p.device.type for p in params.values()} == {device.type}
    torch.testing.assert_close(layer.init(random.key(3, device=device)), params)


def test_params_are_made_in_the_default_dtype():
    from functorch_lab import random

    torch.set_default_dtype(torch.float64)
    try:
        params = nn.mlp(3, [5], 2).init(random.key(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in tree.leaves(params)} == {torch.float64}


X = torch.linspace(-1.0, 1.3, 30).reshape(2, 3, 5)
PARAMS = {"weight": torch.ones(7, 5) / 3, "bias": torch.ones(7) / 5}
SAME = "Pass the params that this layer's init made"
LINEAR = nn.linear(5, 7)
PIXELS = torch.linspace(0, 255, 3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: LINEAR.apply(PARAMS, X[..., :3]), ValueError,
         r"nn.linear: x: expected shape \(..., 5\), got \(2, 3, 3\)"),
        (lambda: LINEAR.apply(PARAMS, X[0, 0, 0]), ValueError, r"\(..., 5\), got \(\)"),
        (lambda: LINEAR.apply(PARAMS, X.long()), TypeError,
         "nn.linear: x: .* got torch.int64. Convert to floating point"),
        (lambda: LINEAR.apply(PARAMS, X.tolist()), TypeError, "x: .* got list"),
        (lambda: LINEAR.apply(PARAMS, X.double()), TypeError,
         "x: expected torch.float32, as the params have, got torch.float64"),
        (lambda: LINEAR.apply(PARAMS, X.to("meta")), TypeError,
         "x: expected device cpu, as the params have, got meta"),
        (lambda: LINEAR.apply({"bias": PARAMS["bias"]}, X), ValueError,
         rf"nn.linear: params: expected .*'weight'\], got .*\['bias'\]. {SAME}"),
        (lambda: LINEAR.apply({"w": X, "bias": X}, X), ValueError,
         r"'weight'\], got a dict with \['bias', 'w'\]"),
        (lambda: LINEAR.apply((), X), ValueError, r"'weight'\], got tuple"),
        (lambda: LINEAR.apply({**PARAMS, "bias": ()}, X), ValueError,
         r"params\['bias'\]: expected a tensor of shape \(7,\), got \(\)"),
        (lambda: nn.linear(5, 2).apply(PARAMS, X), ValueError,
         r"params\['weight'\]: expected a tensor of shape \(2, 5\), got \(7, 5\)"),
        (lambda: nn.linear(0, 2), ValueError, "nn.linear: in_features: .* got 0"),
        (lambda: nn.linear(2, 2.5), TypeError, "out_features: .* got float"),
        (lambda: nn.flatten(1), ValueError, "expected a negative axis, got 1"),
        (lambda: nn.flatten().apply((), PIXELS[0]), ValueError, r"3 axes, .*\(4, 5\)"),
        (lambda: nn.flatten(PIXELS), TypeError, "start_dim: .* got Tensor"),
        (lambda: nn.layer_norm(5).apply(PARAMS, X), ValueError,
         r"params\['weight'\]: expected a tensor of shape \(5,\), got \(7, 5\)"),
        (lambda: nn.layer_norm((3, 4)).apply(PARAMS, X), ValueError,
         r"nn.layer_norm: x: expected last axes \(3, 4\), got shape \(2, 3, 5\)"),
        (lambda: nn.layer_norm(()), ValueError, r"at least one size, got \(\)"),
        (lambda: nn.layer_norm(5, eps=-1.0), ValueError,
         "nn.layer_norm: eps: expected 0 or above, got -1"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_autocast_converts_the_input_itself():
    with torch.autocast("cpu", torch.bfloat16):
        y = LINEAR.apply(PARAMS, X.bfloat16())
    assert y.dtype == torch.bfloat16
