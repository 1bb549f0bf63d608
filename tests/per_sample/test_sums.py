# SPDX-License-Identifier: Apache-2.0
"""Weighted sums: which weights are taken."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from functorch_lab import per_sample
from per_sample_cases import by_path
from per_sample_losses import (
    COUNT,
    MASK,
    WEIGHTS,
    batch,
    gradients,
    loss_fn,
    padded,
    params,
    rows,
)


def weighted(weights: Any, **options: Any) -> Any:
    return per_sample.weighted_sum(loss_fn, **options)(
        params(), *batch(), weights=weights
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float16])
def test_weights_of_any_real_dtype(dtype):
    weights = torch.arange(COUNT).sub(3).to(dtype)
    grads = gradients(loss_fn, params(), batch())
    expected = {
        path: torch.tensordot(weights.double(), leaf, 1) for path, leaf in grads.items()
    }
    assert_close(by_path(weighted(weights)), expected, rtol=1e-12, atol=1e-12)


def test_the_weight_of_padding_does_not_count():
    weights = torch.where(MASK, WEIGHTS, torch.nan).double()
    function = per_sample.weighted_sum(loss_fn, chunk_size=2)
    got = function(params(), *padded(batch()), weights=weights, mask=MASK)
    grads = gradients(loss_fn, params(), rows(MASK, batch()))
    expected = {
        path: torch.tensordot(weights[MASK], leaf, 1) for path, leaf in grads.items()
    }
    assert_close(by_path(got), expected, rtol=1e-12, atol=1e-12)


def test_weights_are_checked():
    where = r"^per_sample\.weighted_sum: weights: expected"
    with pytest.raises(TypeError, match=rf"{where} a tensor of 7 real .* got list"):
        weighted([1.0] * COUNT)
    with pytest.raises(TypeError, match=rf"{where} a tensor .* of complex64\. Write"):
        weighted(torch.ones(COUNT, dtype=torch.complex64))
    with pytest.raises(ValueError, match=rf"{where} shape \(7,\), .* got \(7, 1\)\."):
        weighted(WEIGHTS[:, None], chunk_size=3)
    with pytest.raises(ValueError, match=rf"{where} shape \(7,\), .* got \(5,\)\."):
        weighted(WEIGHTS[:5])
