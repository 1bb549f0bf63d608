# SPDX-License-Identifier: Apache-2.0
"""A layer of ours against its module of torch.nn, with the same weights, in float64.

A case is our layer, torch's module, and the shape of one sample.
"""

import math

import torch
from torch import Tensor
from torch.func import grad, vmap

from functorch_lab import tree


def prepare(case, batch=(2,)):
    """Our layer, torch's module, the params of both, and a batch."""
    layer, module, sample = case
    generator = torch.Generator().manual_seed(7)
    module = module.double()
    params = {
        k: torch.randn(p.shape, dtype=torch.float64, generator=generator)
        for k, p in module.named_parameters()
    }
    module.load_state_dict(params)
    x = torch.randn(*batch, *sample, dtype=torch.float64, generator=generator)
    return layer, module, params or (), x


def loss_of(y: Tensor) -> Tensor:
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


def check_outputs_and_gradients(case):
    layer, module, params, x = prepare(case)
    before = tree.copy((params, x))
    close(layer.apply(params, x), module(x).detach())
    gradients = grad(lambda p, x: loss_of(layer.apply(p, x) ** 2), (0, 1))(params, x)
    close(gradients, module_gradients(module, x))
    torch.testing.assert_close((params, x), before, rtol=0, atol=0)


def check_per_sample_gradients(case):
    """`vmap(grad)` against one backward pass of the module for each sample."""
    layer, module, params, x = prepare(case, batch=(3,))
    sample_loss = grad(lambda p, x: loss_of(layer.apply(p, x) ** 2), (0, 1))
    actual = vmap(sample_loss, in_dims=(None, 0))(params, x)
    rows = [module_gradients(module, row) for row in x.split(1)]
    close(actual, tree.stack([(grads, of_x[0]) for grads, of_x in rows]))


def check_leading_axes(case):
    layer, module, params, x = prepare(case, batch=(2, 3))
    y = layer.apply(params, x)
    close(torch.stack([module(row) for row in x]).detach(), y)
    close(layer.apply(params, x[1, 2]), y[1, 2])
    assert layer.apply(params, x[:, :0]).shape == (2, 0, *y.shape[2:])


def check_population(case):
    """`vmap` over params, and for a layer without any over inputs, is a loop."""
    layer, _, params, x = prepare(case)
    population = [params, tree.scale(params, 0.5)]
    if params == ():
        actual = vmap(layer.apply, (None, 0))((), x)
        close(actual, torch.stack([layer.apply((), row) for row in x]))
        return
    actual = vmap(layer.apply, (0, None))(tree.stack(population), x)
    close(actual, torch.stack([layer.apply(each, x) for each in population]))


def check_second_derivatives(case):
    """First and second derivatives against finite differences along directions."""
    layer, _, params, x = prepare(case)
    leaves = [leaf.requires_grad_() for leaf in tree.leaves((params, x))]
    structure = tree.flatten((params, x))[1]

    def function(*leaves):
        return layer.apply(*tree.unflatten(structure, leaves))

    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def same_distribution(ours, torchs, range_within: float | None = 0.01):
    """Kolmogorov and Smirnov's distance, and for bounded ones the range.

    The distance of two samples of n from one distribution exceeds 2.2 sqrt(2/n) with
    probability 1e-4.
    """
    ours, torchs = ours.flatten().sort().values, torchs.flatten().sort().values
    n = len(ours)
    below = torch.searchsorted(torchs, ours) / n
    distance = (below - torch.arange(n) / n).abs().max()
    assert distance < 2.2 * math.sqrt(2 / n)
    if range_within is not None:
        width = float(torchs[-1] - torchs[0])
        ends, expected = ours[[0, -1]], torchs[[0, -1]]
        torch.testing.assert_close(ends, expected, rtol=0, atol=range_within * width)
