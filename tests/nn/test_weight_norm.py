# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false
"""weight_norm against torch.nn.utils.parametrizations.weight_norm."""

import pytest
import torch
from torch import nn as torch_nn
from torch.nn.utils import parametrizations

import functorch_lab as fl
from functorch_lab import nn, random, tree
from parity import close, loss_of

KEY = random.key(11)


def numbers(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# Each entry: our layer, torch's module, the axis, and an input.
CASES = {
    "linear": (nn.linear(5, 3), torch_nn.Linear(5, 3), 0, numbers((7, 5), 1)),
    "linear, last axis": (
        nn.linear(5, 3),
        torch_nn.Linear(5, 3),
        1,
        numbers((7, 5), 1),
    ),
    "linear, one length": (
        nn.linear(5, 3),
        torch_nn.Linear(5, 3),
        None,
        numbers((7, 5), 1),
    ),
    "conv2d": (
        nn.conv2d(3, 5, (2, 3)),
        torch_nn.Conv2d(3, 5, (2, 3)),
        0,
        numbers((2, 3, 5, 7), 2),
    ),
    "conv_transpose1d": (
        nn.conv_transpose1d(3, 5, 2),
        torch_nn.ConvTranspose1d(3, 5, 2),
        1,
        numbers((2, 3, 7), 3),
    ),
}


def prepare(name):
    """Our layer, torch's module and the params of both."""
    layer, module, dim, x = CASES[name]
    fresh = type(module)(*arguments(module)).double()
    module = parametrizations.weight_norm(fresh, dim=dim)
    normed = nn.weight_norm(layer, dim=dim)
    parts = module.parametrizations.weight
    params = normed.init(KEY)
    with torch.no_grad():
        parts.original0.copy_(numbers(parts.original0.shape, 5).abs() + 0.3)
        parts.original1.copy_(numbers(parts.original1.shape, 7))
        module.bias.copy_(numbers(module.bias.shape, 8))
    params["base"] = {"weight": parts.original1, "bias": module.bias}
    params["g"]["weight"] = parts.original0.reshape(params["g"]["weight"].shape)
    params = tree.map(lambda leaf: leaf.detach().clone(), params)
    return normed, module, params, x


def arguments(module):
    if isinstance(module, torch_nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels, module.kernel_size


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_torch(name):
    normed, module, params, x = prepare(name)
    close(normed.apply(params, x), module(x).detach())
    parts = module.parametrizations.weight
    leaves = [parts.original0, parts.original1, module.bias]
    expected = torch.autograd.grad(loss_of(module(x) ** 2), leaves)
    grads = fl.grad(lambda p: loss_of(normed.apply(p, x) ** 2))(params)
    close(grads["g"]["weight"].flatten(), expected[0].flatten())
    close(grads["base"]["weight"], expected[1])
    close(grads["base"]["bias"], expected[2])
    assert grads["g"]["bias"] == ()


@pytest.mark.parametrize("name", CASES)
def test_it_begins_as_the_layer(name):
    layer, _, dim, x = CASES[name]
    normed = nn.weight_norm(layer, dim=dim)
    base = tree.cast(layer.init(random.key(3)), torch.float64)
    params = normed.init(KEY, base=base)
    close(normed.apply(params, x), layer.apply(base, x))
    close(nn.merge(normed, params), base)
    drawn = normed.init(KEY)
    lengths = drawn["g"]["weight"]
    axes = [a for a in range(base["weight"].ndim) if a != dim]
    expected = drawn["base"]["weight"].square().sum(axes, keepdim=True).sqrt()
    torch.testing.assert_close(lengths, expected)


def test_merged_weights_have_the_lengths():
    normed, module, params, _ = prepare("conv2d")
    merged = nn.merge(normed, params)
    close(merged["weight"], module.weight.detach())
    close(merged["bias"], module.bias.detach())
    close(merged["weight"].flatten(1).norm(dim=1), params["g"]["weight"].flatten())


def test_derivatives_of_first_and_second_order():
    normed = nn.weight_norm(nn.linear(3, 2))
    fresh = tree.cast(normed.init(KEY), torch.float64)
    params = tree.map(lambda p: numbers(p.shape, p.numel()), fresh)
    leaves, structure = tree.flatten((params, numbers((5, 3), 1)))
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def function(*leaves):
        return normed.apply(*structure.unflatten(leaves)).tanh()

    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_every_weight_of_a_model_and_no_other_leaf():
    model = nn.sequential(nn.linear(5, 7), nn.layer_norm(7), nn.tanh, nn.linear(7, 3))
    paths = tree.paths(nn.weight_norm(model).init(KEY)["g"])
    assert paths == ["[0]['weight']", "[3]['weight']"]
    paths = tree.paths(nn.weight_norm(model, where="3.*").init(KEY)["g"])
    assert paths == ["[3]['weight']"]


def test_a_row_of_zeros_stays_zero():
    layer = nn.linear(5, 3, bias=False)
    normed = nn.weight_norm(layer)
    weight = numbers((3, 5), 1)
    weight[1] = 0
    params, x = normed.init(KEY, base={"weight": weight}), numbers((7, 5), 2)
    close(normed.apply(params, x), x @ weight.T)
    grads = fl.grad(lambda p: normed.apply(p, x).square().sum())(params)
    close(grads["base"]["weight"][1], torch.zeros(5, dtype=torch.float64))
    assert all(leaf.isfinite().all() for leaf in tree.leaves(grads))


def test_a_bridged_module_and_a_stateful_layer():
    module = torch_nn.Sequential(torch_nn.Linear(5, 3), torch_nn.BatchNorm1d(3))
    layer, base, state = nn.from_module(module.double())
    normed = nn.weight_norm(layer, where="0.*")
    params, begin = normed.init(KEY, base=(base, state))
    assert tree.paths(params["g"]) == ["['0']['weight']"]
    x = numbers((7, 5), 1)
    y, after = normed.apply(params, begin, x, train=True)
    close(y, module(x).detach())
    close(after["1"]["running_var"], module[1].running_var)


LINEAR = nn.weight_norm(nn.linear(5, 3))
GIVEN = LINEAR.init(KEY)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.weight_norm(3), TypeError, "weight_norm: layer: .* got int"),
        (
            lambda: nn.weight_norm(nn.linear(5, 3), dim="0"),
            TypeError,
            "weight_norm: dim: .* got str",
        ),
        (
            lambda: nn.weight_norm(nn.linear(5, 3), dim=2).init(KEY),
            ValueError,
            r"dim: expected an axis of \['weight'\] of shape \(3, 5\), got 2",
        ),
        (
            lambda: nn.weight_norm(nn.layer_norm(5)).init(KEY),
            ValueError,
            r"where: .* got '\*weight', which chooses \[\"\['weight'\]\"\]",
        ),
        (
            lambda: nn.weight_norm(nn.linear(5, 3), where=None),
            TypeError,
            "weight_norm: where: .* got NoneType",
        ),
        (
            lambda: LINEAR.apply({**GIVEN, "g": {"weight": (), "bias": torch.ones(3)}}),
            ValueError,
            r"weight_norm: params\['g'\]\['bias'\]: .* shape \(3,\)",
        ),
        (
            lambda: nn.weight_norm(nn.linear(5, 3), dim=1).apply(GIVEN, torch.ones(5)),
            ValueError,
            r"params\['g'\]\['weight'\]: .* shape \(3, 5\), got \(3, 1\)",
        ),
        (
            lambda: nn.merge(LINEAR, {"base": GIVEN["base"]}),
            ValueError,
            r"weight_norm: params: .*\['base', 'g'\], got a dict with \['base'\]",
        ),
    ],
)
def test_errors_say_what_was_expected_and_got(call, error, message):
    with pytest.raises(error, match=message):
        call()
