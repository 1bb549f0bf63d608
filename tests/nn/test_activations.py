# SPDX-License-Identifier: Apache-2.0
"""Activations against their formulas and torch's modules, in float64."""

import math

import pytest
import torch
from torch import nn as torch_nn
from torch.func import grad, vmap

from functorch_lab import nn

X = torch.linspace(-5.3, 4.9, 21, dtype=torch.float64).reshape(3, 7)
CASES = {
    "identity": (nn.identity, torch_nn.Identity()),
    "relu": (nn.relu, torch_nn.ReLU()),
    "leaky_relu": (lambda x: nn.leaky_relu(x, 0.3), torch_nn.LeakyReLU(0.3)),
    "elu": (lambda x: nn.elu(x, alpha=0.7), torch_nn.ELU(0.7)),
    "selu": (nn.selu, torch_nn.SELU()),
    "gelu": (nn.gelu, lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
    "gelu, tanh": (
        lambda x: nn.gelu(x, approximate="tanh"),
        torch_nn.GELU(approximate="tanh"),
    ),
    "silu": (nn.silu, lambda x: x / (1 + torch.exp(-x))),
    "mish": (nn.mish, torch_nn.Mish()),
    "tanh": (nn.tanh, lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
    "sigmoid": (nn.sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
    "softplus": (nn.softplus, lambda x: torch.log(1 + torch.exp(x))),
    "softplus, beta": (lambda x: nn.softplus(x, 2.0, 3.0), torch_nn.Softplus(2.0, 3.0)),
    "softmax": (nn.softmax, lambda x: x.exp() / x.exp().sum(-1, keepdim=True)),
    "softmax, dim": (lambda x: nn.softmax(x, 0), torch_nn.Softmax(0)),
    "log_softmax": (nn.log_softmax, torch_nn.LogSoftmax(-1)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    ours, oracle = CASES[name]
    torch.testing.assert_close(ours(X), oracle(X), rtol=1e-12, atol=1e-14)
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad((oracle(x) ** 2 * (X + 0.3)).sum(), x)[0]
    actual = grad(lambda x: (ours(x) ** 2 * (X + 0.3)).sum())(X)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"softmax, dim"}))
def test_vmap_maps_rows(name):
    ours, _ = CASES[name]
    torch.testing.assert_close(vmap(ours)(X), torch.stack([ours(x) for x in X]))
