# SPDX-License-Identifier: Apache-2.0
"""A convolution that is applied several times has one use, of more images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab import per_sample
from per_sample_cases._oracle import norms, one_by_one


def test_a_convolution_used_twice_alike_is_one_pair() -> None:
    def loss_fn(w: Tensor, x: Tensor) -> Tensor:
        x = F.conv1d(x, w, padding=1).tanh()
        x = F.conv1d(x, w, padding=1).tanh()
        return F.conv1d(x, w, stride=2).square().sum()

    generator = torch.Generator().manual_seed(3)
    w = torch.randn(7, 7, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    factor = per_sample.factors(loss_fn)(w, x)
    images = [use.signal.shape[1] for use in factor.uses]
    assert sorted(images) == [1, 2]
    expected = one_by_one(loss_fn, w, x)
    found = factor.squared_norm().sqrt()
    torch.testing.assert_close(found, norms(expected), rtol=1e-12, atol=0)
    (gradients,) = expected.values()
    total = factor.weighted_sum()
    torch.testing.assert_close(total, gradients.sum(0), rtol=1e-12, atol=1e-12)
