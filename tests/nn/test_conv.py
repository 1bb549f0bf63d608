# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Convolutions and transposed ones, of every rank and option, against torch.nn's."""

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

RANKS = (1, 2, 3)
# Of the last axes: (7,), (3, 7), (5, 3, 7).
SPACE, KERNEL, STEPS, PADS = (5, 3, 7), (2, 2, 3), (2, 1, 3), (3, 1, 2)
MODES = ("zeros", "reflect", "replicate", "circular")
OPTIONS = {
    "plain": {},
    "one number": {"kernel_size": 2, "stride": 2, "padding": 1},
    "no bias": {"bias": False},
    "stride": {"stride": STEPS},
    "padding": {"padding": PADS},
    "valid": {"padding": "valid"},
    "dilation": {"dilation": (3, 1, 2)},
    "groups": {"groups": 3},
    "depthwise": {"groups": 6, "out_channels": 12},
    "circular, once around": {"padding_mode": "circular", "padding": SPACE},
    "reflect, to the end": {"padding_mode": "reflect", "padding": (4, 2, 6)},
    **{
        f"{mode}, {what}": {"padding_mode": mode, **options}
        for mode in MODES
        for what, options in {
            "stride": {"padding": PADS, "stride": STEPS},
            "same": {"padding": "same", "kernel_size": (3, 1, 2)},
            "same, dilation": {"padding": "same", "dilation": (3, 1, 2)},
        }.items()
        # What is mirrored must be larger than the padding.
        if (mode, what) != ("reflect", "same, dilation")
    },
}
TRANSPOSED = {
    "plain": {},
    "one number": {"kernel_size": 2, "stride": 3, "padding": 1, "output_padding": 2},
    "no bias": {"bias": False},
    "stride": {"stride": STEPS},
    "padding": {"padding": (1, 0, 2)},
    "output padding": {"stride": (3, 2, 3), "output_padding": (1, 0, 2)},
    "output padding by dilation": {"dilation": (3, 1, 2), "output_padding": (2, 0, 1)},
    "dilation": {"dilation": (3, 1, 2)},
    "groups": {"groups": 3, "stride": 2},
    "depthwise": {"groups": 6, "out_channels": 12, "padding": 1},
}


def case(name, rank, options):
    kind = "ConvTranspose" if name == "conv_transpose" else "Conv"
    options = {"out_channels": 3, "kernel_size": KERNEL, **options}
    options = {k: v[-rank:] if isinstance(v, tuple) else v for k, v in options.items()}
    space = SPACE[-rank:] if name == "conv" else (3, 2, 5)[-rank:]
    return (
        getattr(nn, f"{name}{rank}d")(6, **options),
        getattr(torch_nn, f"{kind}{rank}d")(6, **options),
        (6, *space),
    )


def cases():
    return {
        f"{name}{rank}d, {what}": case(name, rank, options)
        for name, table in {"conv": OPTIONS, "conv_transpose": TRANSPOSED}.items()
        for rank in RANKS
        for what, options in table.items()
    }


CASES = cases()
every_case = pytest.mark.parametrize("name", CASES)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


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


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_init_is_that_of_torch(name, rank, device):
    options = {"out_channels": 200, "kernel_size": 3, "groups": 2}
    ours, module, _ = case(name, rank, options)
    torch.manual_seed(0)
    module.reset_parameters()
    params = ours.init(random.key(3, device=device))
    expected = dict(module.named_parameters())
    assert params.keys() == expected.keys()
    for key, tensor in params.items():
        assert (tensor.shape, tensor.dtype) == (expected[key].shape, torch.float32)
        assert tensor.device.type == device.type
        same_distribution(tensor.cpu(), expected[key].detach(), 0.05)
    torch.testing.assert_close(ours.init(random.key(3, device=device)), params)


def test_initializers_replace_the_defaults():
    layer = nn.conv_transpose2d(
        2, 3, 5, weight_init=nn.init.constant(0.7), bias_init=nn.init.constant(0.3)
    )
    expected = {"weight": torch.full((2, 3, 5, 5), 0.7), "bias": torch.full((3,), 0.3)}
    torch.testing.assert_close(layer.init(random.key(0)), expected)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_the_transpose_is_the_transpose(kind, rank):
    """<conv(x), y> = <x, conv_transpose(y)>, with the same weight."""
    options = {"stride": 2, "padding": 1, "bias": False}
    shape, space = (3, 2, *KERNEL[-rank:]), (5, 3, 7)[-rank:]
    weight = torch.linspace(-1.0, 1.3, 6 * KERNEL[-1] * 2 ** (rank - 1))
    params = {"weight": weight.double().reshape(shape)}
    x = torch.linspace(0.3, 2.0, 2 * torch.Size(space).numel(), dtype=torch.float64)
    x = x.sin().reshape(2, *space)
    forward = getattr(nn, f"conv{rank}d")(2, 3, shape[2:], **options)
    y = forward.apply(params, x).cos()
    # The sizes that a stride of 2 takes to the same size.
    rest = tuple((n + 2 - k) % 2 for n, k in zip(space, shape[2:], strict=True))
    back = getattr(nn, f"conv_transpose{rank}d")(
        3, 2, shape[2:], output_padding=rest, **options
    )
    left = (forward.apply(params, x) * y).sum()
    right = (x * back.apply(params, y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


CONV = {"weight": torch.ones(2, 3, 2, 2) / 3, "bias": torch.ones(2) / 5}
CONV2D, UP = nn.conv2d(3, 2, 2), nn.conv_transpose2d(2, 3, 2, padding=1)
PIXELS = torch.linspace(0, 255, 3 * 4 * 5).reshape(3, 4, 5)
UP_PARAMS = {"weight": CONV["weight"], "bias": torch.ones(3) / 5}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: CONV2D.apply(CONV, PIXELS.to(torch.uint8)), TypeError,
         "nn.conv2d: x: .*got torch.uint8. Convert to floating point"),
        (lambda: CONV2D.apply(CONV, PIXELS.double()), TypeError,
         "nn.conv2d: x: expected torch.float32, as the params have, got torch.float64"),
        (lambda: CONV2D.apply({"weight": CONV["weight"]}, PIXELS), ValueError,
         r"params: expected a dict with \['bias', 'weight'\], got .*\['weight'\]"),
        (lambda: nn.conv2d(3, 5, 2).apply(CONV, PIXELS), ValueError,
         r"params\['weight'\]: .*\(5, 3, 2, 2\), got \(2, 3, 2, 2\)"),
        (lambda: CONV2D.apply(CONV, PIXELS[0]), ValueError,
         r"\(..., channels, height, width\), got \(4, 5\). .*unsqueeze\(-3\)"),
        (lambda: CONV2D.apply(CONV, PIXELS[:2]), ValueError,
         r"expected shape \(..., 3, height, width\), got \(2, 4, 5\)"),
        (lambda: CONV2D.apply(CONV, PIXELS.movedim(0, -1)), ValueError,
         r"got \(4, 5, 3\). Move the channels with x.movedim\(-1, -3\)"),
        (lambda: CONV2D.apply(CONV, PIXELS[:, :1]), ValueError,
         r"at least \(2, 2\) pixels with its padding, got \(3, 1, 5\)"),
        (lambda: nn.conv2d(3, 2, 2, padding=1).apply(CONV, PIXELS[:, :0]), ValueError,
         r"at least \(2, 2\) pixels with its padding, got \(3, 0, 5\)"),
        (lambda: nn.conv2d(3, 2, 2, padding=4, padding_mode="reflect").apply(
            CONV, PIXELS), ValueError,
         r"reflect padding, \(left, right, top, bottom\) = \(4, 4, 4, 4\), got \(3, 4"),
        (lambda: nn.conv2d(3, 2, 2, padding=(5, 5), padding_mode="circular").apply(
            CONV, PIXELS), ValueError, r"circular padding, .*\(5, 5, 5, 5\), got"),
        (lambda: nn.conv1d(3, 2, 2).apply({**CONV, "weight": torch.ones(2, 3, 2)},
            PIXELS[0]), ValueError, r"nn.conv1d: .*\(..., 3, length\), got \(4, 5\)"),
        (lambda: nn.conv3d(3, 2, 2).apply({**CONV, "weight": torch.ones(2, 3, 2, 2, 2)},
            PIXELS), ValueError,
         r"nn.conv3d: .*\(..., channels, depth, height, width\), got \(3, 4, 5\)"),
        (lambda: nn.conv2d(4, 6, 3, groups=3), ValueError, "divisor of in_channels=4"),
        (lambda: nn.conv2d(6, 4, 3, groups=3), ValueError, "divisor of out_channels=4"),
        (lambda: nn.conv_transpose1d(6, 4, 3, groups=3), ValueError,
         "nn.conv_transpose1d: groups: expected a divisor of out_channels=4, got 3"),
        (lambda: nn.conv2d(3, 3, 3, groups=0), ValueError, "groups: .* got 0"),
        (lambda: nn.conv2d(0, 3, 3), ValueError, "in_channels: .* got 0"),
        (lambda: nn.conv3d(3, 2.0, 3), TypeError, "nn.conv3d: out_channels: .* float"),
        (lambda: nn.conv2d(3, 3, (3, 0)), ValueError, "kernel_size: .* got 0"),
        (lambda: nn.conv2d(3, 3, (3, 3, 3)), ValueError,
         r"kernel_size: .*2 of them, got 3. Give \(height, width\)"),
        (lambda: nn.conv1d(3, 3, (3, 3)), ValueError, r"got 2. Give \(length\)"),
        (lambda: nn.conv2d(3, 3, "3"), TypeError, "kernel_size: .* got str"),
        (lambda: nn.conv2d(3, 3, 3, stride=0), ValueError, "stride: .* got 0"),
        (lambda: nn.conv2d(3, 3, 3, dilation=0), ValueError, "dilation: .* got 0"),
        (lambda: nn.conv2d(3, 3, 3, padding=-1), ValueError, "padding: .* got -1"),
        (lambda: nn.conv2d(3, 3, 3, padding="full"), ValueError, "got 'full'"),
        (lambda: nn.conv2d(3, 3, 3, padding="same", stride=2), ValueError, "'same'"),
        (lambda: nn.conv2d(3, 3, 3, padding_mode="wrap"), ValueError, "got 'wrap'"),
        (lambda: nn.conv_transpose2d(3, 3, 3, padding="same"), TypeError,
         "nn.conv_transpose2d: padding: .* got str"),
        (lambda: nn.conv_transpose2d(3, 3, 3, stride=2, output_padding=(1, 2)),
         ValueError, r"output_padding: expected less than stride=\(2, 2\) .*\(1, 2\)"),
        (lambda: nn.conv_transpose2d(3, 3, 3, output_padding=-1), ValueError, "got -1"),
        (lambda: UP.apply(UP_PARAMS, PIXELS[:2, :1]), ValueError,
         r"nn.conv_transpose2d: x: .*padding=\(1, 1\) leaves .*got \(2, 1, 5\)"),
        (lambda: UP.apply(UP_PARAMS, PIXELS[:2, :0]), ValueError, r"got \(2, 0, 5\)"),
        (lambda: nn.conv_transpose1d(2, 3, 5, bias=False).apply(
            {"weight": torch.ones(2, 3, 5)}, PIXELS[:2, 0, :0]), ValueError,
         r"nn.conv_transpose1d: x: .*got \(2, 0\). Use less padding or a"),
        (lambda: UP.apply(UP_PARAMS, PIXELS), ValueError, r"\(..., 2, height, width\)"),
        (lambda: UP.apply(CONV, PIXELS[:2]), ValueError,
         r"params\['bias'\]: expected a tensor of shape \(3,\), got \(2,\)"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
