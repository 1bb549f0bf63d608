# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""rms_norm, group_norm and instance_norm against torch.nn, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn as torch_nn
from torch.func import grad, jvp, vmap

import functorch_lab as fl
from functorch_lab import nn, random, tree


def rms(shape, **options):
    return nn.rms_norm(shape, **options), torch_nn.RMSNorm(shape, **options), (3, 5)


def group(sample, groups, **options):
    ours = nn.group_norm(groups, sample[0], spatial_dims=len(sample) - 1, **options)
    return ours, torch_nn.GroupNorm(groups, sample[0], **options), sample


def instance(sample, **options):
    rank = len(sample) - 1
    modules = [
        torch_nn.InstanceNorm1d,
        torch_nn.InstanceNorm2d,
        torch_nn.InstanceNorm3d,
    ]
    ours = nn.instance_norm(sample[0], spatial_dims=rank, **options)
    return ours, modules[rank - 1](sample[0], **options), sample


CASES = {
    "rms": rms(5),
    "rms, two axes": rms((3, 5), eps=0.3),
    "rms, plain": rms([5], elementwise_affine=False),
    "group": group((6, 7, 5), 3),
    "group, square": group((6, 6, 6), 2),
    "group, features": group((6,), 2, eps=0.3),
    "group, sequence": group((6, 7), 6),
    "group, volume": group((6, 2, 5, 3), 1),
    "group, plain": group((6, 7, 5), 2, affine=False),
    "instance": instance((3, 7, 5), affine=True),
    "instance, sequence": instance((3, 7), eps=0.3),
    "instance, volume": instance((3, 2, 5, 7), affine=True),
}
every_case = pytest.mark.parametrize("name", CASES)


def prepare(name, batch=(2,)):
    layer, module, sample = CASES[name]
    generator = torch.Generator().manual_seed(7)
    module = module.double()
    params = {
        k: torch.randn(p.shape, dtype=torch.float64, generator=generator)
        for k, p in module.named_parameters()
    }
    module.load_state_dict(params)
    x = 0.7 + torch.randn(*batch, *sample, dtype=torch.float64, generator=generator)
    return layer, module, params or (), x


def loss_of(y):
    """A curved scalar to which every element contributes in another way."""
    weights = torch.linspace(0.3, 1.7, y.numel(), dtype=y.dtype).view_as(y)
    return (y**2 * weights).sum()


def module_gradients(module, x):
    x = x.clone().requires_grad_()
    leaves = dict(module.named_parameters())
    *grads, grad_x = torch.autograd.grad(loss_of(module(x)), [*leaves.values(), x])
    return dict(zip(leaves, grads, strict=True)) or (), grad_x


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@every_case
def test_outputs_and_gradients_match_torch(name):
    layer, module, params, x = prepare(name)
    for train in (False, True):
        close(layer.apply(params, x, train=train), module(x).detach())
    gradients = grad(lambda p, x: loss_of(layer.apply(p, x)), (0, 1))(params, x)
    close(gradients, module_gradients(module, x))


@every_case
def test_a_sample_is_the_same_alone_in_a_batch_and_under_vmap(name):
    layer, module, params, x = prepare(name, batch=(2, 3))
    y = layer.apply(params, x)
    close(y[1], module(x[1]).detach())
    close(layer.apply(params, x[1, 2]), y[1, 2])
    assert layer.apply(params, x[:, :0]).shape == x[:, :0].shape
    sample_loss = grad(lambda p, x: loss_of(layer.apply(p, x)), (0, 1))
    per_sample = vmap(sample_loss, (None, 0))(params, x[0])
    loop = [module_gradients(module, sample[None]) for sample in x[0]]
    close(per_sample, tree.stack([(p, g[0]) for p, g in loop]))


@every_case
def test_forward_and_second_derivatives(name):
    layer, module, params, x = prepare(name)
    tangent = torch.roll(x, 1, -1)
    forward = jvp(lambda x: loss_of(layer.apply(params, x)), (x,), (tangent,))[1]
    close(forward, (module_gradients(module, x)[1] * tangent).sum())
    leaves, treedef = tree.flatten(params)

    def output(x, *leaves):
        return layer.apply(tree.unflatten(treedef, leaves), x)

    inputs = [each.detach().requires_grad_() for each in (x[:1], *leaves)]
    torch.autograd.gradcheck(output, inputs, fast_mode=True)
    torch.autograd.gradgradcheck(output, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.rms_norm((3, 5)), {"weight": (3, 5)}),
        (nn.group_norm(2, 6, spatial_dims=2), {"weight": (6,), "bias": (6,)}),
        (nn.instance_norm(3, spatial_dims=1, affine=True),
         {"weight": (3,), "bias": (3,)}),
    ],
)  # fmt: skip
def test_params_begin_as_the_identity_in_the_default_dtype(layer, names, device):
    params = layer.init(random.key(3, device=device))
    expected = {
        name: (torch.ones if name == "weight" else torch.zeros)(shape, device=device)
        for name, shape in names.items()
    }
    torch.testing.assert_close(params, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rms_norm_has_the_eps_of_torch_in_every_dtype(dtype):
    x = (torch.linspace(-1.0, 1.4, 15) * 1e-3).reshape(3, 5).to(dtype)
    layer = nn.rms_norm(5, elementwise_affine=False)
    assert torch.equal(layer.apply((), x), F.rms_norm(x, (5,)))


X = torch.linspace(-1.0, 1.3, 42).reshape(2, 3, 7)
GROUP = nn.group_norm(2, 6, spatial_dims=1, affine=False)
INSTANCE = nn.instance_norm(3, spatial_dims=1)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.rms_norm(5).apply({"weight": torch.ones(5)}, X), ValueError,
         r"nn.rms_norm: x: expected last axes \(5,\), got shape \(2, 3, 7\)"),
        (lambda: nn.rms_norm(7).apply({"weight": torch.ones(5)}, X), ValueError,
         r"nn.rms_norm: params\['weight'\]: .*\(7,\), got \(5,\)"),
        (lambda: nn.rms_norm(7).apply({"weight": torch.ones(7)}, X.double()), TypeError,
         "nn.rms_norm: x: expected torch.float32, as the params have"),
        (lambda: nn.rms_norm(7, eps=-0.5), ValueError,
         "nn.rms_norm: eps: expected 0 or above, got -0.5"),
        (lambda: nn.rms_norm(0), ValueError, "nn.rms_norm: normalized_shape: .* got 0"),
        (lambda: nn.group_norm(4, 6, spatial_dims=2), ValueError,
         "nn.group_norm: num_groups: expected a divisor of num_channels=6, got 4"),
        (lambda: nn.group_norm(0, 6, spatial_dims=2), ValueError, "num_groups: .* 0"),
        (lambda: nn.group_norm(2, 6.0, spatial_dims=2), TypeError, "channels: .*fl"),
        (lambda: nn.group_norm(2, 6), TypeError, "spatial_dims"),
        (lambda: nn.group_norm(2, 6, spatial_dims=4), ValueError,
         "nn.group_norm: spatial_dims: expected at most 3, got 4"),
        (lambda: nn.group_norm(2, 6, spatial_dims=1, eps=-1.0), ValueError,
         "nn.group_norm: eps: expected 0 or above, got -1.0"),
        (lambda: nn.group_norm(2, 6, spatial_dims=1, eps="small"), TypeError,
         "nn.group_norm: eps: expected a number, got str"),
        (lambda: GROUP.apply((), X), ValueError,
         r"nn.group_norm: x: expected shape \(..., 6, length\), got \(2, 3, 7\)"),
        (lambda: GROUP.apply((), X[0, 0]), ValueError, r"6, length\), got \(7,\)"),
        (lambda: GROUP.apply((), X.long()), TypeError, "x: .* torch.int64"),
        (lambda: GROUP.apply({"weight": X}, X.reshape(6, 7)), ValueError,
         r"nn.group_norm: params: expected \(\), got dict"),
        (lambda: nn.group_norm(3, 3, spatial_dims=0).apply((), X[..., 0]), ValueError,
         r"nn.group_norm: x: expected more than one value in each group, .*\(2, 3\)"),
        (lambda: nn.group_norm(3, 7, spatial_dims=2), ValueError, "divisor"),
        (lambda: nn.instance_norm(3, spatial_dims=0), ValueError,
         "nn.instance_norm: spatial_dims: expected at least 1, got 0"),
        (lambda: INSTANCE.apply((), X.mT), ValueError,
         r"\(..., 3, length\), got \(2, 7, 3\). Move the channels .*movedim\(-1, -2\)"),
        (lambda: INSTANCE.apply((), X[..., :1]), ValueError,
         r"nn.instance_norm: x: .* one value in each group, got shape \(2, 3, 1\)"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def standard(x):
    wide = x.var(-1, correction=0, keepdim=True) + 0.3
    return (x - x.mean(-1, keepdim=True)) / wide.sqrt()


ROWS = {
    "layer": (nn.layer_norm(5, eps=0.3, elementwise_affine=False), standard),
    "group": (nn.group_norm(1, 5, eps=0.3, spatial_dims=0, affine=False), standard),
    "instance": (nn.instance_norm(2, eps=0.3, spatial_dims=1), standard),
    "rms": (
        nn.rms_norm(5, eps=0.3, elementwise_affine=False),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 0.3).sqrt(),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_third_derivatives_are_those_of_the_formula(name):
    layer, formula = ROWS[name]
    generator = torch.Generator().manual_seed(3)
    x, weights, along = torch.randn((3, 2, 5), generator=generator, dtype=torch.float64)

    def along_of(f):
        return lambda x: (fl.grad(f)(x) * along).sum()

    def third(norm):
        def f(x):
            return (norm(x) * weights).pow(3).sum()

        for _ in range(3):
            f = along_of(f)
        return f(x)

    close(third(lambda x: layer.apply((), x)), third(formula))
