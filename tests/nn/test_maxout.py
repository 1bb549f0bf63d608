# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Maxout against torch's linear map followed by its pool, in float64."""

import pytest
import torch
from torch import nn as torch_nn

from functorch_lab import nn, random
from parity import (
    check_leading_axes,
    check_outputs_and_gradients,
    check_per_sample_gradients,
    check_population,
    check_second_derivatives,
    same_distribution,
)


class Maxout(torch_nn.Linear):
    """Neighbouring outputs of one linear map, of which a pool takes the largest."""

    def __init__(self, in_features, out_features, pieces=2, bias=True):
        super().__init__(in_features, out_features * pieces, bias=bias)
        self.pool = torch_nn.MaxPool1d(pieces)

    def forward(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.pool(super().forward(x).flatten(0, -2)).unflatten(0, x.shape[:-1])


OPTIONS = {
    "plain": {},
    "three": {"pieces": 3},
    "one": {"pieces": 1},
    "no bias": {"bias": False, "pieces": 5},
}
CASES = {
    name: (nn.maxout(5, 7, **options), Maxout(5, 7, **options), (3, 5))
    for name, options in OPTIONS.items()
}
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_outputs_and_gradients_match_torch(name):
    check_outputs_and_gradients(CASES[name])


@every_case
def test_vmap_of_grad_matches_a_loop_over_samples(name):
    check_per_sample_gradients(CASES[name])


@every_case
def test_any_leading_axes(name):
    check_leading_axes(CASES[name])


@every_case
def test_a_population_of_params(name):
    check_population(CASES[name])


@every_case
def test_second_derivatives_and_forward_mode(name):
    check_second_derivatives(CASES[name])


def test_init_is_that_of_a_linear_layer():
    params = nn.maxout(50, 70, pieces=3).init(random.key(3))
    torch.manual_seed(0)
    module = Maxout(50, 70, pieces=3)
    same_distribution(params["weight"], module.weight.detach())
    same_distribution(params["bias"], module.bias.detach(), 0.05)


X = torch.linspace(-1.0, 1.3, 15).reshape(3, 5)
PARAMS = {"weight": torch.ones(14, 5) / 3, "bias": torch.ones(14) / 5}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.maxout(0, 7), ValueError, "nn.maxout: in_features: .* got 0"),
        (lambda: nn.maxout(5, 7.0), TypeError, "nn.maxout: out_features: .* got float"),
        (lambda: nn.maxout(5, 7, pieces=0), ValueError, "nn.maxout: pieces: .* got 0"),
        (lambda: nn.maxout(5, 7).apply(PARAMS, X[:, :3]), ValueError,
         r"x: expected shape \(..., 5\), got \(3, 3\)"),
        (lambda: nn.maxout(5, 7, pieces=3).apply(PARAMS, X), ValueError,
         r"params\['weight'\]: expected a tensor of shape \(21, 5\), got \(14, 5\)"),
        (lambda: nn.maxout(5, 7).apply(PARAMS, X.long()), TypeError, "torch.int64"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
