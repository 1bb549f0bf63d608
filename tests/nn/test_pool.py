# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Pools of every rank and option against torch.nn's, in float64."""

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

RANKS = (1, 2, 3)
# Of the last axes: (7,), (3, 7), (5, 3, 7).
SPACE = (5, 3, 7)
BOTH = {
    "plain": {"kernel_size": (3, 2, 3)},
    "one number": {"kernel_size": 2},
    "stride": {"kernel_size": (2, 3, 3), "stride": (2, 1, 2)},
    "padding": {"kernel_size": 3, "stride": (2, 2, 3), "padding": (1, 0, 1)},
    "as large as the padding allows": {"kernel_size": (9, 7, 13), "padding": (2, 2, 3)},
    "ceil": {"kernel_size": 2, "ceil_mode": True},
    "ceil, padding": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
}
ADAPTIVE = {
    "one": {"output_size": 1},
    "number": {"output_size": 2},
    "larger": {"output_size": (7, 5, 9)},
    "kept": {"output_size": (2, None, 3)},
    "kept, all": {"output_size": None},
}
OPTIONS = {
    "max_pool": {
        **BOTH,
        "dilation": {"kernel_size": (2, 2, 3), "dilation": (3, 2, 2), "stride": 1},
    },
    "avg_pool": {
        **BOTH,
        "without padding": {
            **{"kernel_size": 3, "stride": 2, "padding": 1},
            "count_include_pad": False,
        },
        "without padding, ceil": {
            **{"kernel_size": 2, "padding": 1, "ceil_mode": True},
            "count_include_pad": False,
        },
        "divisor": {"kernel_size": 2, "divisor_override": 3},
    },
    "adaptive_avg_pool": ADAPTIVE,
    "adaptive_max_pool": ADAPTIVE,
}
LACKING = {"avg_pool1d, divisor", "avg_pool3d, as large as the padding allows"}
MODULES = {
    "max_pool": "MaxPool",
    "avg_pool": "AvgPool",
    "adaptive_avg_pool": "AdaptiveAvgPool",
    "adaptive_max_pool": "AdaptiveMaxPool",
}


class Kept(torch_nn.Module):
    """torch's adaptive pools, of which not all ranks know what `None` means."""

    def __init__(self, module, rank):
        super().__init__()
        self.module, self.rank = module, rank

    def forward(self, x):
        size = self.module.output_size
        size = size if isinstance(size, tuple) else (size,) * self.rank
        space = zip(size, x.shape[-self.rank :], strict=True)
        return type(self.module)(tuple(n if s is None else s for s, n in space))(x)


def case(name, rank, options):
    options = {k: v[-rank:] if isinstance(v, tuple) else v for k, v in options.items()}
    module = getattr(torch_nn, f"{MODULES[name]}{rank}d")(**options)
    if name.startswith("adaptive"):
        module = Kept(module, rank)
    return getattr(nn, f"{name}{rank}d")(**options), module, (2, *SPACE[-rank:])


CASES = {
    f"{name}{rank}d, {what}": case(name, rank, options)
    for name, table in OPTIONS.items()
    for rank in RANKS
    for what, options in table.items()
    if f"{name}{rank}d, {what}" not in LACKING
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_volumes_in_half_precision(dtype, device):
    x = torch.linspace(0.3, 2.9, 2 * 105, device=device).reshape(2, 5, 3, 7).to(dtype)
    layer = nn.avg_pool3d((5, 3, 7))
    y = layer.apply((), x)
    assert (y.dtype, y.shape) == (dtype, (2, 1, 1, 1))
    expected = x.double().mean((-3, -2, -1), keepdim=True).to(dtype)
    torch.testing.assert_close(y, expected)


def test_padding_is_minus_infinity_for_the_largest_and_zero_for_the_mean():
    x = torch.tensor([[-2.0, -5.0, -3.0]])
    padded = {"kernel_size": 3, "stride": 3, "padding": 1}
    y = nn.max_pool1d(**padded).apply((), x)
    torch.testing.assert_close(y, torch.tensor([[-2.0]]))
    y = nn.avg_pool1d(**padded).apply((), x)
    torch.testing.assert_close(y, torch.tensor([[-7.0 / 3.0]]))


def test_nan_is_not_passed_over():
    x = torch.tensor([[2.0, math.nan, 3.0, 5.0]])
    y = nn.max_pool1d(2).apply((), x)
    expected = torch.tensor([[math.nan, 5.0]])
    torch.testing.assert_close(y, expected, equal_nan=True)


PIXELS = torch.linspace(0, 255, 3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.max_pool2d(3, padding=2), ValueError,
         r"nn.max_pool2d: padding: .*half of kernel_size=\(3, 3\), got \(2, 2\)"),
        (lambda: nn.avg_pool3d((2, 3, 5), padding=(1, 2, 1)), ValueError,
         r"nn.avg_pool3d: padding: .*=\(2, 3, 5\), got \(1, 2, 1\)"),
        (lambda: nn.max_pool2d(5).apply((), PIXELS), ValueError,
         r"at least \(5, 5\) pixels with its padding, got \(3, 4, 5\)"),
        (lambda: nn.max_pool1d(2, dilation=5).apply((), PIXELS), ValueError,
         r"nn.max_pool1d: x: expected at least \(6,\) elements with .*got \(3, 4, 5\)"),
        (lambda: nn.avg_pool3d(2).apply((), PIXELS), ValueError,
         r"\(..., channels, depth, height, width\), got \(3, 4, 5\)"),
        (lambda: nn.max_pool2d(2, padding=1).apply((), PIXELS[:, :0]), ValueError,
         r"at least \(2, 2\) pixels with its padding, got \(3, 0, 5\)"),
        (lambda: nn.max_pool1d(2, padding=1, dilation=3).apply((), PIXELS[..., :2]),
         ValueError, r"max_pool1d: x: .* least \(3,\) elements, got .* Dilate less"),
        (lambda: nn.avg_pool3d(3, padding=1).apply((), PIXELS[None, :2]), ValueError,
         r"at least \(3, 3, 3\) voxels, got \(1, 2, 4, 5\). Use a smaller kernel.$"),
        (lambda: nn.avg_pool2d(2).apply((), PIXELS.long()), TypeError, "torch.int64"),
        (lambda: nn.avg_pool2d(2).apply({"weight": PIXELS}, PIXELS), ValueError,
         r"nn.avg_pool2d: params: expected \(\), got dict of length 1"),
        (lambda: nn.avg_pool2d(2, divisor_override=0), ValueError, "got 0"),
        (lambda: nn.avg_pool1d((2, 2)), ValueError, "nn.avg_pool1d: kernel_size: .* 2"),
        (lambda: nn.max_pool3d(2.5), TypeError, "nn.max_pool3d: kernel_size: .* float"),
        (lambda: nn.max_pool2d(0), ValueError, "kernel_size: .* got 0"),
        (lambda: nn.max_pool2d(2, stride=0), ValueError, "stride: .* got 0"),
        (lambda: nn.max_pool2d(2, dilation=0), ValueError, "dilation: .* got 0"),
        (lambda: nn.avg_pool2d(2, padding=-1), ValueError, "padding: .* got -1"),
        (lambda: nn.adaptive_avg_pool2d(0), ValueError,
         "nn.adaptive_avg_pool2d: output_size: .* got 0"),
        (lambda: nn.adaptive_max_pool1d((2, 3)), ValueError,
         "nn.adaptive_max_pool1d: output_size: .* 1 of them, got 2"),
        (lambda: nn.adaptive_max_pool3d(2.0), TypeError, "output_size: .* got float"),
        (lambda: nn.adaptive_avg_pool2d(2).apply((), PIXELS[0]), ValueError,
         r"nn.adaptive_avg_pool2d: x: .*height, width\), got \(4, 5\)"),
        (lambda: nn.adaptive_max_pool2d(2).apply((), PIXELS[:, :0]), ValueError,
         r"at least \(1, 1\) pixels, got \(3, 0, 5\)"),
        (lambda: nn.adaptive_max_pool2d(2).apply((), PIXELS.int()), TypeError, "int32"),
        (lambda: nn.adaptive_avg_pool1d(2).apply({}, PIXELS), ValueError,
         r"nn.adaptive_avg_pool1d: params: expected \(\), got dict"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
