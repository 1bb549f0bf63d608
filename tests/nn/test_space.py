# SPDX-License-Identifier: Apache-2.0
"""Layers over space with any geometry: a result, or an error of ours that names it.

Never one of torch's from within, and never a result that is empty or not finite.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from functorch_lab import nn, random

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
CHANNELS = 4


def per_axis(least, most, rank):
    return st.tuples(*[st.integers(least, most)] * rank)


def options_of(kind, rank):
    """A strategy for the keyword arguments of this kind of layer."""
    kernel = {"kernel_size": per_axis(1, 4, rank), "stride": per_axis(1, 3, rank)}
    pads, taps = per_axis(0, 4, rank), per_axis(1, 3, rank)
    channels = {"in_channels": st.just(CHANNELS), "out_channels": st.just(6)}
    conv = {**kernel, **channels, "dilation": taps, "groups": st.sampled_from([1, 2])}
    pool = {**kernel, "padding": per_axis(0, 2, rank), "ceil_mode": st.booleans()}
    factors = st.sampled_from([0.1, 0.3, 0.77, 1.0, 1.3, 2.0])
    return {
        "conv": {
            **conv,
            "padding": st.one_of(pads, st.sampled_from(["same", "valid"])),
            "padding_mode": st.sampled_from(
                ["zeros", "reflect", "replicate", "circular"]
            ),
        },
        "conv_transpose": {
            **conv,
            "padding": pads,
            "output_padding": per_axis(0, 2, rank),
        },
        "max_pool": {**pool, "dilation": taps},
        "avg_pool": {**pool, "count_include_pad": st.booleans()},
        "adaptive_avg_pool": {"output_size": per_axis(1, 9, rank)},
        "adaptive_max_pool": {"output_size": per_axis(1, 9, rank)},
        "upsample": {
            "scale_factor": st.tuples(*[factors] * rank),
            "mode": st.sampled_from(["nearest", LINEAR[rank]]),
            "spatial_dims": st.just(rank),
        },
    }[kind]


KINDS = ["conv", "conv_transpose", "max_pool", "avg_pool", "upsample"]
KINDS += ["adaptive_avg_pool", "adaptive_max_pool"]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_result_or_an_error_of_ours(kind, rank, data):
    options = data.draw(st.fixed_dictionaries(options_of(kind, rank)))
    space = data.draw(st.tuples(*[st.sampled_from([1, 2, 3, 5, 7])] * rank))
    name = kind if kind == "upsample" else f"{kind}{rank}d"
    x = torch.linspace(-1.3, 1.9, 2 * CHANNELS * torch.Size(space).numel())
    try:
        layer = getattr(nn, name)(**options)
        y = layer.apply(layer.init(random.key(0)), x.reshape(2, CHANNELS, *space))
    except ValueError as error:
        if not str(error).startswith(f"nn.{name}: "):
            raise
        return
    assert y.ndim == rank + 2
    assert y.numel() > 0
    assert y.isfinite().all()
