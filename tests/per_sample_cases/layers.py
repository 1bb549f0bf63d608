# SPDX-License-Identifier: Apache-2.0
"""Rows of one layer of torch.nn each, with its options."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from per_sample_cases._row import BATCH, Row, curved, draw, ids, of_module

SPACE = ((7,), (5, 7), (5, 4, 3))
CONVS: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Keywords(nn.Module):
    """Layers that are given their inputs by name."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 2)
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(6, 5)

    def forward(self, *, series):
        x = F.relu(self.conv(input=series))
        return self.linear(input=self.norm(input=x))


class Bag(nn.Module):
    """Bags of ids, given by offsets, as one long list for the whole batch."""

    def __init__(self, **options):
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 5, **options)

    def forward(self, words, offsets):
        begins = words.shape[1] * torch.arange(len(words))[:, None]
        bags = self.bag(words.flatten(), (offsets + begins).flatten())
        return bags.reshape(*offsets.shape, 5)


class Weighted(nn.Module):
    """A weighted sum of the vectors of a bag."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 5, mode="sum")

    def forward(self, words, weights):
        return self.bag(words, per_sample_weights=weights)


def _linear() -> Iterator[Row]:
    group = "linear"
    yield of_module(group, "1-d sample", lambda: nn.Linear(5, 7), (3, 5), axis="bare")
    yield of_module(group, "no bias", lambda: nn.Linear(5, 7, bias=False), (3, 5))
    for name, shape in {"3-d": (3, 7, 5), "4-d": (3, 2, 7, 5)}.items():
        for axis in ("bare", "kept"):
            yield of_module(
                group,
                f"{name} input, {axis}",
                lambda: nn.Linear(5, 2),
                shape,
                axis=axis,
            )
    yield of_module(
        group,
        "keyword inputs",
        Keywords,
        (3, 2, 7),
        losses=lambda call, x: curved(call(series=x)),
    )
    yield of_module(
        group,
        "narrow and long: 11 positions, 2 to 3",
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)),
        (3, 11, 2),
    )
    yield of_module(
        group,
        "wide and short: 2 positions, 11 to 13",
        lambda: nn.Sequential(nn.Linear(11, 13), nn.Tanh(), nn.Linear(13, 2)),
        (3, 2, 11),
    )
    yield of_module(
        group, "bilinear", lambda: nn.Bilinear(5, 7, 2), (3, 5), (3, 7), axis="bare"
    )
    yield of_module(
        group,
        "bilinear, 3-d inputs, no bias",
        lambda: nn.Bilinear(5, 7, 2, bias=False),
        (3, 4, 5),
        (3, 4, 7),
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "stride 2, padding 1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "no bias, valid": {"kernel_size": 2, "padding": "valid", "bias": False},
    "same, even kernel": {"kernel_size": 2, "padding": "same"},
    "same, dilation 2": {"kernel_size": 2, "padding": "same", "dilation": 2},
    "groups 2": {"kernel_size": 2, "groups": 2, "padding": 1},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
    "replicate, stride 2": {
        "kernel_size": 2,
        "padding": 1,
        "stride": 2,
        "padding_mode": "replicate",
    },
}
TRANSPOSED_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 2},
    "stride 2, padding 1, output_padding 1": {
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "output_padding": 1,
    },
    "groups 2, no bias": {"kernel_size": 2, "groups": 2, "bias": False, "padding": 1},
    "dilation 2": {"kernel_size": 2, "dilation": 2},
}


def _conv() -> Iterator[Row]:
    for rank, (conv, space) in enumerate(zip(CONVS, SPACE, strict=True), 1):
        for number, (name, options) in enumerate(OPTIONS.items()):
            yield of_module(
                f"conv{rank}d",
                name,
                lambda conv=conv, options=options: conv(4, 6, **options),
                (BATCH, 4, *space),
                axis=("bare", "added")[number % 2],
            )
    yield of_module(
        "conv2d",
        "depthwise, then 1x1",
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3), nn.Tanh(), nn.Conv2d(6, 2, 1)
        ),
        (3, 3, 5, 7),
    )
    yield of_module(
        "conv2d",
        "different by axis",
        lambda: nn.Conv2d(2, 3, (2, 3), (2, 1), (1, 2), (2, 1)),
        (3, 2, 5, 7),
    )


def _conv_transposed() -> Iterator[Row]:
    for rank, (conv, space) in enumerate(zip(TRANSPOSED, SPACE, strict=True), 1):
        for number, (name, options) in enumerate(TRANSPOSED_OPTIONS.items()):
            yield of_module(
                f"conv_transpose{rank}d",
                name,
                lambda conv=conv, options=options: conv(4, 6, **options),
                (BATCH, 4, *(size - 1 for size in space)),
                axis=("bare", "added")[number % 2],
            )


def _embedding() -> Iterator[Row]:
    group, words = "embedding", ids(4, 3, 7)
    yield of_module(
        group, "repeated ids", lambda: nn.Embedding(11, 5), words, axis="bare"
    )
    for name, options in {
        "padding_idx": {"padding_idx": 2},
        "padding_idx from the end": {"padding_idx": -9},
        "scale_grad_by_freq": {"scale_grad_by_freq": True},
    }.items():
        yield of_module(
            group, name, lambda options=options: nn.Embedding(11, 5, **options), words
        )
    yield of_module(
        group,
        "2-d ids, scaled",
        lambda: nn.Embedding(11, 5),
        ids(4, 3, 2, 7),
        losses=lambda call, words: curved(5**0.5 * call(words)),
    )
    group = "embedding_bag"
    for mode in ("sum", "mean", "max"):
        yield of_module(
            group, mode, lambda mode=mode: nn.EmbeddingBag(11, 5, mode=mode), words
        )
    yield of_module(
        group, "padding_idx", lambda: nn.EmbeddingBag(11, 5, padding_idx=2), words
    )
    yield of_module(group, "per_sample_weights", Weighted, words, draw(3, 7))
    offsets = torch.tensor([[0, 2], [0, 5], [0, 3]])
    yield of_module(group, "offsets, mean", Bag, words, offsets)
    yield of_module(group, "offsets, sum", lambda: Bag(mode="sum"), words, offsets)


def _norms() -> Iterator[Row]:
    tokens, image = (3, 7, 5), (3, 4, 5, 7)
    rows: dict[tuple[str, str], Any] = {
        ("layer_norm", "last axis"): (lambda: nn.LayerNorm(5), tokens),
        ("layer_norm", "two axes"): (lambda: nn.LayerNorm([7, 5]), (3, 2, 7, 5)),
        ("layer_norm", "bias=False"): (lambda: nn.LayerNorm(5, bias=False), tokens),
        ("layer_norm", "large eps"): (lambda: nn.LayerNorm(5, eps=0.3), tokens),
        ("rms_norm", "eps=None"): (lambda: nn.RMSNorm(5), tokens),
        ("rms_norm", "two axes, eps"): (
            lambda: nn.RMSNorm([7, 5], eps=0.3),
            (3, 2, 7, 5),
        ),
        ("group_norm", "2 groups"): (lambda: nn.GroupNorm(2, 4), image),
        ("group_norm", "one axis"): (lambda: nn.GroupNorm(2, 4), (3, 4, 7)),
        ("instance_norm", "1-d"): (
            lambda: nn.InstanceNorm1d(4, affine=True),
            (3, 4, 7),
        ),
        ("instance_norm", "2-d"): (lambda: nn.InstanceNorm2d(4, affine=True), image),
        ("batch_norm", "eval, vectors"): (lambda: nn.BatchNorm1d(5), (3, 5)),
        ("batch_norm", "eval, images"): (lambda: nn.BatchNorm2d(4), image),
    }
    for (group, name), (build, shape) in rows.items():
        yield of_module(group, name, build, shape)
    yield of_module(
        "layer_norm",
        "a sample is one vector",
        lambda: nn.LayerNorm(5),
        (3, 5),
        axis="bare",
    )
    yield of_module("prelu", "one slope", lambda: nn.PReLU(1), (3, 5), axis="bare")
    yield of_module("prelu", "one slope per channel", lambda: nn.PReLU(4), image)


ROWS = [*_linear(), *_conv(), *_conv_transposed(), *_embedding(), *_norms()]
