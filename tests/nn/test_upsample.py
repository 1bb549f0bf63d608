# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Upsampling of every rank and option against torch.nn.Upsample, in float64."""

import math

import pytest
import torch
from torch import nn as torch_nn

from functorch_lab import nn
from parity import (
    check_leading_axes,
    check_outputs_and_gradients,
    check_per_sample_gradients,
    check_population,
    check_second_derivatives,
)

# Of the last axes: (5,), (3, 5), (2, 3, 5).
SPACE = (2, 3, 5)
TARGETS = {
    "size": {"size": 7},
    "sizes": {"size": (5, 2, 7)},
    "factor": {"scale_factor": 2},
    "fraction": {"scale_factor": 1.7},
    "smaller": {"scale_factor": 0.6},
    "factors": {"scale_factor": (1.5, 2.0, 0.7)},
}
MODES = {
    "nearest": [{}],
    "linear": [{}, {"align_corners": False}, {"align_corners": True}],
}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def case(rank, mode, options):
    options = {k: v[-rank:] if isinstance(v, tuple) else v for k, v in options.items()}
    options["mode"] = LINEAR[rank] if mode == "linear" else mode
    module = torch_nn.Upsample(**options)
    return nn.upsample(**options, spatial_dims=rank), module, (2, *SPACE[-rank:])


CASES = {
    f"{rank}d, {mode}, {what}, {i}": case(rank, mode, {**target, **corners})
    for rank in (1, 2, 3)
    for mode, each in MODES.items()
    for what, target in TARGETS.items()
    for i, corners in enumerate(each)
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
def test_vmap_maps_inputs(name):
    check_population(CASES[name])


@every_case
def test_second_derivatives_and_forward_mode(name):
    check_second_derivatives(CASES[name])


def test_corners():
    x = torch.tensor([[2.0, 5.0, 11.0]], dtype=torch.float64)
    options = {"mode": "linear", "spatial_dims": 1}
    y = nn.upsample(5, align_corners=True, **options).apply((), x)
    expected = torch.tensor([[2.0, 3.5, 5.0, 8.0, 11.0]], dtype=torch.float64)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=0)
    y = nn.upsample(scale_factor=2, **options).apply((), x)
    expected = torch.tensor([[2.0, 2.75, 4.25, 6.5, 9.5, 11.0]], dtype=torch.float64)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=0)


X = torch.linspace(0.3, 2.9, 30).reshape(2, 3, 5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.upsample(2, spatial_dims=4), ValueError,
         "nn.upsample: spatial_dims: expected 1, 2 or 3, got 4"),
        (lambda: nn.upsample(2, spatial_dims="2"), ValueError, "got '2'"),
        (lambda: nn.upsample(2), TypeError, "spatial_dims"),
        (lambda: nn.upsample(2, mode="linear", spatial_dims=2), ValueError,
         "mode: expected 'nearest' or 'bilinear' with spatial_dims=2, got 'linear'"),
        (lambda: nn.upsample(2, mode="cubic", spatial_dims=1), ValueError, "'cubic'"),
        (lambda: nn.upsample(2, align_corners=True, spatial_dims=1), ValueError,
         "align_corners: expected False with mode='nearest', got True"),
        (lambda: nn.upsample(spatial_dims=1), ValueError,
         "size, scale_factor: expected exactly one of them, got neither"),
        (lambda: nn.upsample(2, scale_factor=2, spatial_dims=1), ValueError,
         "exactly one of them, got both"),
        (lambda: nn.upsample((2, 3, 5), spatial_dims=2), ValueError,
         "nn.upsample: size: .* 2 of them, got 3"),
        (lambda: nn.upsample(2.5, spatial_dims=2), TypeError, "size: .* got float"),
        (lambda: nn.upsample(0, spatial_dims=2), ValueError, "size: .* got 0"),
        (lambda: nn.upsample(scale_factor=(2, 3), spatial_dims=1), ValueError,
         "scale_factor: .* 1 of them, got 2"),
        (lambda: nn.upsample(scale_factor=-1.5, spatial_dims=1), ValueError,
         "scale_factor: expected a finite number above 0, got -1.5"),
        (lambda: nn.upsample(scale_factor=math.nan, spatial_dims=1), ValueError, "nan"),
        (lambda: nn.upsample(scale_factor="2", spatial_dims=1), TypeError,
         "scale_factor: expected a number, got str"),
        (lambda: nn.upsample(scale_factor=True, spatial_dims=1), TypeError, "got bool"),
        (lambda: nn.upsample(2, spatial_dims=3).apply((), X), ValueError,
         r"\(..., channels, depth, height, width\), got \(2, 3, 5\)"),
        (lambda: nn.upsample(scale_factor=0.3, spatial_dims=2).apply((), X), ValueError,
         r"at least \(4, 4\) pixels, got \(2, 3, 5\). Give it a larger input"),
        (lambda: nn.upsample(2, spatial_dims=1).apply((), X[..., :0]), ValueError,
         r"at least \(1,\) elements, got \(2, 3, 0\)"),
        (lambda: nn.upsample(2, spatial_dims=1).apply((), X.int()), TypeError, "int32"),
        (lambda: nn.upsample(2, spatial_dims=1).apply({}, X), ValueError, "got dict"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
