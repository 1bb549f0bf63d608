# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Initializers against torch.nn.init: bounds, moments and the whole distribution."""

import math

import pytest
import torch
from torch import nn as torch_nn
from torch.func import vmap

from functorch_lab import nn, random
from parity import same_distribution

KEY = random.key(11)
SHAPE = (40, 30, 3, 5)

# Each entry: ours and torch's.
CASES = {
    "uniform": (
        nn.init.uniform(-0.3, 0.7),
        lambda t: torch_nn.init.uniform_(t, -0.3, 0.7),
    ),
    "normal": (nn.init.normal(0.4, 1.3), lambda t: torch_nn.init.normal_(t, 0.4, 1.3)),
    "trunc_normal": (
        nn.init.trunc_normal(0.4, 1.3, -0.9, 1.1),
        lambda t: torch_nn.init.trunc_normal_(t, 0.4, 1.3, -0.9, 1.1),
    ),
    "xavier_uniform": (
        nn.init.xavier_uniform(1.7),
        lambda t: torch_nn.init.xavier_uniform_(t, 1.7),
    ),
    "xavier_normal": (
        nn.init.xavier_normal(0.6),
        lambda t: torch_nn.init.xavier_normal_(t, 0.6),
    ),
    "kaiming_uniform": (nn.init.kaiming_uniform(), torch_nn.init.kaiming_uniform_),
    "kaiming_uniform, options": (
        nn.init.kaiming_uniform(0.7, "fan_out"),
        lambda t: torch_nn.init.kaiming_uniform_(t, 0.7, "fan_out"),
    ),
    "kaiming_normal": (
        nn.init.kaiming_normal(mode="fan_out", nonlinearity="tanh"),
        lambda t: torch_nn.init.kaiming_normal_(t, 0, "fan_out", "tanh"),
    ),
    "constant": (nn.init.constant(0.3), lambda t: torch_nn.init.constant_(t, 0.3)),
    "zeros": (nn.init.zeros(), torch_nn.init.zeros_),
    "ones": (nn.init.ones(), torch_nn.init.ones_),
}


@pytest.mark.parametrize("name", CASES)
def test_distribution_is_that_of_torch(name):
    ours, torchs = CASES[name]
    torch.manual_seed(0)
    expected = torchs(torch.empty(SHAPE))
    actual = ours(KEY, SHAPE)
    assert actual.shape == SHAPE
    if name in {"constant", "zeros", "ones"}:
        torch.testing.assert_close(actual, expected)
    else:
        normal = name in {"normal", "xavier_normal", "kaiming_normal"}
        same_distribution(actual, expected, None if normal else 0.01)


@pytest.mark.parametrize("name", CASES)
def test_dtype_device_and_key(name, device):
    ours, _ = CASES[name]
    key = random.key(5, device=device)
    half = ours(key, (7, 3), torch.float16)
    assert (half.dtype, half.device.type) == (torch.float16, device.type)
    torch.testing.assert_close(ours(key, (7, 3)), ours(key, (7, 3)))
    if name not in {"constant", "zeros", "ones"}:
        assert not torch.equal(ours(KEY, (7, 3)), ours(random.key(12), (7, 3)))
    keys = random.split(random.key(3), 2)
    many = vmap(lambda k: ours(k, (7, 3)))(keys)
    torch.testing.assert_close(many, torch.stack([ours(k, (7, 3)) for k in keys]))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 3, 2), (5, 5)])
def test_orthogonal_rows_or_columns(shape):
    rows = nn.init.orthogonal(gain=1.5)(KEY, shape).reshape(shape[0], -1)
    short = rows if rows.shape[0] <= rows.shape[1] else rows.T
    torch.testing.assert_close(short @ short.T, 2.25 * torch.eye(len(short)))


def test_orthogonal_is_uniform_over_rotations():
    keys = random.split(random.key(0), 2000)
    q = vmap(lambda k: nn.init.orthogonal()(k, (2, 2)))(keys)
    # Without the signs of R the first entry would always have one sign.
    angle = torch.atan2(q[:, 1, 0], q[:, 0, 0])
    same_distribution(angle, torch.linspace(-math.pi, math.pi, 2000))
    assert abs((torch.linalg.det(q) > 0).float().mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gains_are_those_of_torch(name):
    assert nn.init.calculate_gain(name) == torch_nn.init.calculate_gain(name)
    slope = 0.3 if name == "leaky_relu" else None
    expected = torch_nn.init.calculate_gain(name, slope)
    assert nn.init.calculate_gain(name, slope) == expected


@pytest.mark.parametrize(
    ("layer", "module", "fan_in"),
    [
        (nn.linear(50, 400), torch_nn.Linear(50, 400), 50),
        (nn.conv2d(6, 402, 3, groups=3), torch_nn.Conv2d(6, 402, 3, groups=3), 18),
    ],
)  # fmt: skip
def test_layers_start_as_those_of_torch(layer, module, fan_in):
    torch.manual_seed(1)
    module.reset_parameters()
    params, bound = layer.init(KEY), 1 / math.sqrt(fan_in)
    for name, within in [("weight", 0.01), ("bias", 0.05)]:
        ours, torchs = params[name], getattr(module, name).detach()
        assert ours.abs().max() <= bound
        same_distribution(ours, torchs, within)
        sigma = bound / math.sqrt(3)
        n = ours.numel()
        assert abs(ours.mean()) < 4 * sigma / math.sqrt(n)
        # The standard error of the deviation of uniform numbers is sigma sqrt(0.2/n).
        assert abs(ours.std() - sigma) < 4 * sigma * math.sqrt(0.2 / n)


def test_layers_take_initializers():
    layer = nn.linear(3, 5, weight_init=nn.init.ones(), bias_init=nn.init.constant(0.3))
    expected = {"weight": torch.ones(5, 3), "bias": torch.full((5,), 0.3)}
    torch.testing.assert_close(layer.init(KEY), expected)
    layer = nn.conv2d(2, 5, 3, weight_init=nn.init.zeros(), bias=False)
    torch.testing.assert_close(layer.init(KEY), {"weight": torch.zeros(5, 2, 3, 3)})


def test_weight_and_bias_are_independent():
    params = nn.linear(1, 50).init(KEY)
    assert not torch.equal(params["weight"].flatten(), params["bias"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.init.kaiming_normal()(KEY, (3,)), r"at least 2 axes.* got \(3,\)"),
        (lambda: nn.init.orthogonal()(KEY, (3,)), "orthogonal: .*at least 2 axes"),
        (lambda: nn.init.kaiming_normal(mode="out"), "kaiming_normal: .* got 'out'"),
        (lambda: nn.init.xavier_normal(nn.init.calculate_gain("no")), "got 'no'"),
        (lambda: nn.init.trunc_normal(a=1.0, b=-1.0), "a below b, got .*a=1.0, b=-1"),
    ],
)
def test_errors_say_what_was_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()
