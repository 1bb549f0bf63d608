# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Every layer and option against its module of torch.nn, in float64."""

import pytest
import torch
from torch import nn as torch_nn
from torch.func import grad, vmap

from functorch_lab import nn, tree

IMAGE, TOKENS = (6, 7, 8), (3, 5)


def conv(**options):
    options = {"kernel_size": 3, "out_channels": 4, **options}
    return nn.conv2d(6, **options), torch_nn.Conv2d(6, **options), IMAGE


def max_pool(*args, **options):
    return nn.max_pool2d(*args, **options), torch_nn.MaxPool2d(*args, **options), IMAGE


def avg_pool(*args, **options):
    return nn.avg_pool2d(*args, **options), torch_nn.AvgPool2d(*args, **options), IMAGE


def norm(*args, **options):
    return nn.layer_norm(*args, **options), torch_nn.LayerNorm(*args, **options), TOKENS


CASES = {
    "linear": (nn.linear(5, 7), torch_nn.Linear(5, 7), TOKENS),
    "linear, no bias": (
        nn.linear(5, 7, bias=False),
        torch_nn.Linear(5, 7, bias=False),
        TOKENS,
    ),
    "conv2d": conv(),
    "conv2d, no bias": conv(bias=False),
    "conv2d, stride": conv(kernel_size=(3, 2), stride=(2, 3)),
    "conv2d, padding": conv(padding=2),
    "conv2d, two paddings": conv(padding=(1, 3), kernel_size=(5, 2)),
    "conv2d, valid": conv(padding="valid"),
    "conv2d, same": conv(padding="same"),
    "conv2d, same, even": conv(padding="same", kernel_size=(2, 4), dilation=(1, 3)),
    "conv2d, dilation": conv(dilation=(3, 2)),
    "conv2d, groups": conv(groups=2, padding=1),
    "conv2d, depthwise": conv(groups=6, out_channels=12),
    "conv2d, reflect": conv(padding_mode="reflect", padding=(2, 1)),
    "conv2d, replicate": conv(padding_mode="replicate", padding=(2, 1), stride=2),
    "conv2d, circular": conv(padding_mode="circular", padding=(2, 1)),
    "conv2d, circular, same": conv(
        padding_mode="circular", padding="same", kernel_size=(2, 3)
    ),
    "max_pool2d": max_pool(2),
    "max_pool2d, padding": max_pool(3, stride=(2, 1), padding=1),
    "max_pool2d, dilation": max_pool((2, 3), dilation=2, stride=2),
    "max_pool2d, ceil": max_pool(3, ceil_mode=True),
    "avg_pool2d": avg_pool((2, 3)),
    "avg_pool2d, padding": avg_pool(3, stride=2, padding=(1, 0)),
    "avg_pool2d, options": avg_pool(
        3, padding=1, count_include_pad=False, ceil_mode=True
    ),
    "avg_pool2d, divisor": avg_pool(2, divisor_override=3),
    "flatten": (nn.flatten(), torch_nn.Flatten(-3), IMAGE),
    "flatten, two axes": (nn.flatten(-2), torch_nn.Flatten(-2), IMAGE),
    "layer_norm": norm(5),
    "layer_norm, two axes": norm(TOKENS, eps=0.3),
    "layer_norm, no bias": norm(5, bias=False),
    "layer_norm, plain": norm((5,), elementwise_affine=False),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    # Of torch's own forward derivatives, at their first use.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


def prepare(name, batch=(2,)):
    """Our layer, torch's module, the params of both, and a batch."""
    layer, module, sample = CASES[name]
    generator = torch.Generator().manual_seed(7)
    module = module.double()
    params = {
        k: torch.randn(p.shape, dtype=torch.float64, generator=generator)
        for k, p in module.named_parameters()
    }
    module.load_state_dict(params)
    x = torch.randn(*batch, *sample, dtype=torch.float64, generator=generator)
    return layer, module, params or (), x


def loss_of(y):
    """A scalar to which every element contributes in another way."""
    return (y * torch.linspace(0.3, 1.7, y.numel(), dtype=y.dtype).view_as(y)).sum()


def module_gradients(module, x):
    x = x.clone().requires_grad_()
    leaves = dict(module.named_parameters())
    loss = loss_of(module(x) ** 2)
    *grads, grad_x = torch.autograd.grad(loss, [*leaves.values(), x])
    return dict(zip(leaves, grads, strict=True)) or (), grad_x


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_match_torch(name):
    layer, module, params, x = prepare(name)
    before = tree.copy((params, x))
    close(layer.apply(params, x), module(x).detach())
    gradients = grad(lambda p, x: loss_of(layer.apply(p, x) ** 2), (0, 1))(params, x)
    close(gradients, module_gradients(module, x))
    torch.testing.assert_close((params, x), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_vmap_of_grad_matches_a_loop_over_samples(name):
    layer, module, params, x = prepare(name, batch=(3,))
    sample_loss = grad(lambda p, x: loss_of(layer.apply(p, x) ** 2), (0, 1))
    actual = vmap(sample_loss, in_dims=(None, 0))(params, x)
    loop = [module_gradients(module, sample) for sample in x]
    if name in {"flatten", "flatten, two axes"}:
        assert actual[0] == ()
    close(actual, tree.stack(loop))


@pytest.mark.parametrize("name", CASES)
def test_any_leading_axes(name):
    layer, _, params, x = prepare(name, batch=(2, 3))
    y = layer.apply(params, x)
    close(torch.stack([layer.apply(params, row) for row in x]), y)
    close(layer.apply(params, x[1, 2]), y[1, 2])
    assert layer.apply(params, x[:, :0]).shape == (2, 0, *y.shape[2:])


@pytest.mark.parametrize("name", CASES)
def test_a_population_of_params(name):
    layer, _, params, x = prepare(name)
    many = tree.map(lambda p: torch.stack([p, 0.5 * p]), params)
    in_dims = (0, None) if params != () else (None, 0)
    actual = vmap(layer.apply, in_dims)(many, x)
    inputs = [(params, x), (tree.scale(params, 0.5), x)]
    if params == ():
        inputs = [((), x[0]), ((), x[1])]
    close(actual, torch.stack([layer.apply(*each) for each in inputs]))


@pytest.mark.parametrize("name", CASES)
def test_forward_derivatives_match_the_backward_ones(name):
    layer, module, params, x = prepare(name)
    tangent = torch.roll(x, 1, -1)
    forward = torch.func.jvp(
        lambda x: loss_of(layer.apply(params, x) ** 2), (x,), (tangent,)
    )[1]
    close(forward, (module_gradients(module, x)[1] * tangent).sum())


@pytest.mark.parametrize("name", CASES)
def test_compiles_without_a_break(name):
    layer, _, params, x = prepare(name)
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
CONV = {"weight": torch.ones(2, 3, 2, 2) / 3, "bias": torch.ones(2) / 5}
SAME = "Pass the params that this layer's init made"
LINEAR, CONV2D = nn.linear(5, 7), nn.conv2d(3, 2, 2)
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
        (lambda: CONV2D.apply(CONV, PIXELS.to(torch.uint8)), TypeError,
         "nn.conv2d: x: .*got torch.uint8. Convert to floating point"),
        (lambda: CONV2D.apply(CONV, PIXELS[0]), ValueError,
         r"\(..., channels, height, width\), got \(4, 5\)"),
        (lambda: CONV2D.apply(CONV, PIXELS[:2]), ValueError,
         r"expected shape \(..., 3, height, width\), got \(2, 4, 5\)"),
        (lambda: CONV2D.apply(CONV, PIXELS.movedim(0, -1)), ValueError,
         r"got \(4, 5, 3\). Move the channels"),
        (lambda: CONV2D.apply(CONV, PIXELS[:, :1]), ValueError,
         r"at least \(2, 2\) pixels with its padding, got \(3, 1, 5\)"),
        (lambda: nn.conv2d(3, 2, 2, padding=4, padding_mode="reflect").apply(
            CONV, PIXELS), ValueError, r"reflect padding, .*\(4, 4, 4, 4\), got"),
        (lambda: nn.conv2d(3, 2, 2, padding=(5, 5), padding_mode="circular").apply(
            CONV, PIXELS), ValueError, r"circular padding, .*\(5, 5, 5, 5\), got"),
        (lambda: nn.conv2d(4, 6, 3, groups=3), ValueError, "divisor of in_channels=4"),
        (lambda: nn.conv2d(6, 4, 3, groups=3), ValueError, "divisor of out_channels=4"),
        (lambda: nn.conv2d(3, 3, (3, 0)), ValueError, "kernel_size: .* got 0"),
        (lambda: nn.conv2d(3, 3, (3, 3, 3)), ValueError, "kernel_size: .* got 3"),
        (lambda: nn.conv2d(3, 3, 3, stride=0), ValueError, "stride: .* got 0"),
        (lambda: nn.conv2d(3, 3, 3, padding=-1), ValueError, "padding: .* got -1"),
        (lambda: nn.conv2d(3, 3, 3, padding="full"), ValueError, "got 'full'"),
        (lambda: nn.conv2d(3, 3, 3, padding="same", stride=2), ValueError, "'same'"),
        (lambda: nn.conv2d(3, 3, 3, padding_mode="wrap"), ValueError, "got 'wrap'"),
        (lambda: nn.max_pool2d(3, padding=2), ValueError,
         r"nn.max_pool2d: padding: .*half of kernel_size=\(3, 3\), got \(2, 2\)"),
        (lambda: nn.max_pool2d(5).apply((), PIXELS), ValueError,
         r"at least \(5, 5\) pixels with its padding, got \(3, 4, 5\)"),
        (lambda: nn.avg_pool2d(2).apply((), PIXELS.long()), TypeError, "torch.int64"),
        (lambda: nn.avg_pool2d(2).apply(PARAMS, PIXELS), ValueError,
         r"nn.avg_pool2d: params: expected \(\), got dict of length 2"),
        (lambda: nn.avg_pool2d(2, divisor_override=0), ValueError, "got 0"),
        (lambda: nn.flatten(1), ValueError, "expected a negative axis, got 1"),
        (lambda: nn.flatten().apply((), PIXELS[0]), ValueError, r"3 axes, .*\(4, 5\)"),
        (lambda: nn.flatten(PIXELS), TypeError, "start_dim: .* got Tensor"),
        (lambda: nn.layer_norm(5).apply(PARAMS, X), ValueError,
         r"params\['weight'\]: expected a tensor of shape \(5,\), got \(7, 5\)"),
        (lambda: nn.layer_norm((3, 4)).apply(PARAMS, X), ValueError,
         r"nn.layer_norm: x: expected last axes \(3, 4\), got shape \(2, 3, 5\)"),
        (lambda: nn.layer_norm(()), ValueError, r"at least one size .* got \(\)"),
        (lambda: nn.layer_norm(5, eps=-1.0), ValueError, r"\(5,\) and -1"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_autocast_converts_the_input_itself():
    with torch.autocast("cpu", torch.bfloat16):
        y = LINEAR.apply(PARAMS, X.bfloat16())
    assert y.dtype == torch.bfloat16
