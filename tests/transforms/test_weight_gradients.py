# SPDX-License-Identifier: Apache-2.0
"""Compiled updates read gradients of convolutions in the order of the weights."""

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_code
from torch.testing import assert_close

import functorch_lab as fl


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_weights_in_the_default_order_get_such_gradients(order):
    generator = torch.Generator().manual_seed(3)

    def numbers(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = numbers(5, 3, 3, 2).contiguous(memory_format=order)
    x = numbers(2, 3, 7, 5)

    def step(weight, x):
        def loss(weight):
            return F.conv2d(x, weight).square().sum()

        return weight - 0.3 * fl.grad(loss)(weight)

    got, code = run_and_get_code(fl.jit(step), weight, x)
    leaf = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(x, leaf).square().sum(), leaf)
    assert_close(got, weight - 0.3 * expected, rtol=1e-12, atol=1e-12)
    copied = "functorch_lab.in_order" in "".join(code)
    assert copied == (order == torch.contiguous_format)
