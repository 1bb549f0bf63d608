# SPDX-License-Identifier: Apache-2.0
"""Derivatives by slow and obvious means, with nothing but torch.

A function here takes a flat list of tensors, and a derivative is a list with one entry
for each floating tensor of it; integers are passed to the function as they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Scalar = Callable[[list[Tensor]], Tensor]


def finite_difference_gradient(
    function: Scalar, leaves: Sequence[Tensor], step: float = 1e-5
) -> list[Tensor]:
    """Central differences, one element at a time.

    The error is `step**2 / 6` times the third derivative, plus rounding, 1e-16 / step
    of the value: float64 is needed.
    """
    gradients = []
    for i, leaf in enumerate(leaves):
        if not leaf.is_floating_point():
            continue
        if leaf.dtype != torch.float64:
            raise TypeError(f"finite differences need float64, got {leaf.dtype}")
        gradient = torch.empty_like(leaf, memory_format=torch.contiguous_format)
        for k in range(leaf.numel()):
            values = []
            for sign in (1, -1):
                moved = leaf.clone(memory_format=torch.contiguous_format)
                moved.view(-1)[k] += sign * step
                values.append(function([*leaves[:i], moved, *leaves[i + 1 :]]))
            gradient.view(-1)[k] = (values[0] - values[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def gradient_loop(
    function: Scalar, samples: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """One backward pass for each sample; gradients stacked along a new first axis."""
    rows = []
    for sample in samples:
        leaves = [leaf.detach().clone() for leaf in sample]
        floating = [x.requires_grad_() for x in leaves if x.is_floating_point()]
        rows.append(
            torch.autograd.grad(
                function(leaves), floating, allow_unused=True, materialize_grads=True
            )
        )
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def dense_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Of shape `(*output, *input)`: one backward pass for each output element."""
    x = x.detach().clone().requires_grad_()
    y = function(x)
    rows = [
        torch.autograd.grad(
            element, x, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]
        for element in y.reshape(-1)
    ]
    return torch.stack(rows).reshape(y.shape + x.shape)
