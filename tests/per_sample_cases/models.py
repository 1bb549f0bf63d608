# SPDX-License-Identifier: Apache-2.0
"""Rows of whole models, and of ways to arrange batch and time."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import functorch_lab as fl
from per_sample_cases._row import (
    Case,
    Row,
    curved,
    draw,
    filled,
    ids,
    of_function,
    of_module,
)


class Block(nn.Module):
    """Causal attention by hand, then a map of each position."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 10), nn.Linear(10, width)

    def forward(self, x):
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Positions added from a parameter, and the head tied or not."""

    def __init__(self, tied):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.positions = nn.Parameter(torch.ones(9, 6))
        self.block = Block(6, 2)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, words):
        x = self.words(words) + self.positions[: words.shape[1]]
        return self.head(self.norm(self.block(x)))


class Encoder(nn.Module):
    """torch's own encoder layer, position embeddings, a causal or padding mask."""

    def __init__(self, causal=False, **options):
        super().__init__()
        self.causal = causal
        self.words = nn.Embedding(11, 6)
        self.positions = nn.Embedding(9, 6)
        self.layer = nn.TransformerEncoderLayer(
            6, 2, 10, 0.0, norm_first=True, batch_first=True, **options
        )

    def forward(self, words, padding=None):
        length = words.shape[1]
        x = self.words(words) + self.positions(torch.arange(length))
        mask = None
        if self.causal:
            mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)
        y = self.layer(x, mask, padding)
        return y if padding is None else y.masked_fill(padding[..., None], 0.0)


class Attention(nn.Module):
    """Attention of torch.nn with different keys and values."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 3, kdim=5, vdim=4, batch_first=True)

    def forward(self, q, k, v):
        return self.attention(q, k, v, need_weights=False)[0]


class Images(nn.Module):
    """A small residual network with group norm, or batch norm in evaluation."""

    def __init__(self, norm):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = norm(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = norm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm1(self.first(x)))
        x = x + F.relu(self.norm2(self.second(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mixer(nn.Module):
    """Patches, a class token, and maps of positions and of channels in turn."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 2, 2)
        self.token = nn.Parameter(torch.ones(1, 1, 5))
        self.across, self.within = nn.Linear(7, 7), nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + torch.tanh(self.across(self.norm(x).mT)).mT
        return self.within(x)[:, 0]


class Autoencoder(nn.Module):
    """Down by a convolution, up by a transposed one."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(2, 5, 3, 2)
        self.up = nn.ConvTranspose2d(5, 2, 3, 2)

    def forward(self, x):
        return self.up(F.silu(self.down(x))) - x


class TimeMajor(nn.Module):
    """Time first in every layer, or only in the middle."""

    def __init__(self, everywhere):
        super().__init__()
        self.everywhere = everywhere
        self.first = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)
        self.second = nn.Linear(5, 2)

    def forward(self, x):
        x = x.transpose(0, 1) if self.everywhere else self.first(x).transpose(0, 1)
        x = self.first(x) if self.everywhere else x
        y = self.second(self.norm(torch.tanh(x)))
        return y.transpose(0, 1)


class Merged(nn.Module):
    """Batch and time in one axis."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)
        )

    def forward(self, x):
        return self.net(x.reshape(-1, 5)).reshape(*x.shape[:-1], 2)


class Loop(nn.Module):
    """A cell of torch.nn over the positions."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class FusedLSTM(nn.Module):
    """torch's LSTM over all positions at once."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


def _layouts() -> Iterator[Row]:
    group = "batch and time"
    yield of_module(
        group,
        "batch size equals length",
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)),
        (3, 3, 5),
    )
    yield of_function(
        group,
        "positions added, batch size equals length",
        lambda p, x: torch.tanh(x + p["positions"]) @ p["w"],
        {"positions": (3, 5), "w": (5, 2)},
        (3, 3, 5),
    )
    for everywhere in (True, False):
        where = "in every layer" if everywhere else "in the middle"
        for length in (7, 3):
            yield of_module(
                group,
                f"time first {where}, batch 3, length {length}",
                lambda everywhere=everywhere: TimeMajor(everywhere),
                (3, length, 5),
                batch_first=not everywhere,
            )
    yield of_module(group, "merged", Merged, (3, 7, 5))
    yield of_module(group, "merged, kept", Merged, (3, 7, 5), axis="kept")


def _models() -> Iterator[Row]:
    words = ids(11, 3, 7)
    group = "transformers"
    yield of_module(group, "by hand, causal", lambda: GPT(tied=False), words)
    yield of_module(group, "by hand, causal, tied", lambda: GPT(tied=True), words)
    yield of_module(
        group,
        "by hand, causal, tied, batch size equals length",
        lambda: GPT(tied=True),
        ids(11, 7, 7),
        axis="kept",
    )
    yield of_module(
        group,
        "TransformerEncoderLayer, causal",
        lambda: Encoder(causal=True),
        words,
        axis="kept",
    )
    padding = torch.arange(7) >= torch.tensor([7, 4, 5])[:, None]
    yield of_module(
        group, "TransformerEncoderLayer, padded", Encoder, words, padding, axis="kept"
    )
    yield of_module(
        group,
        "TransformerEncoderLayer, bias=False",
        lambda: Encoder(causal=True, bias=False),
        words,
    )
    yield of_module(
        group, "MultiheadAttention, kdim", Attention, (3, 7, 6), (3, 2, 5), (3, 2, 4)
    )
    group, image = "images", (3, 2, 5, 7)
    yield of_module(
        group,
        "residual, group norm",
        lambda: Images(lambda n: nn.GroupNorm(2, n)),
        image,
    )
    yield of_module(
        group, "residual, batch norm in eval", lambda: Images(nn.BatchNorm2d), image
    )
    yield of_module(group, "patches, class token, mixer", Mixer, (3, 3, 4, 6))
    yield of_module(group, "autoencoder", Autoencoder, image, axis="kept")
    group = "recurrent"
    for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        for bias in (True, False):
            yield of_module(
                group,
                f"{cell.__name__} in a loop" + ("" if bias else ", no bias"),
                lambda cell=cell, bias=bias: Loop(cell(5, 4, bias=bias)),
                (3, 7, 5),
            )
    yield of_module(
        group, "nn.LSTM", FusedLSTM, (3, 7, 5), refused=r"nn\.LSTM", factored=False
    )


def _redrawn(params: Any, dtype: torch.dtype) -> Any:
    """Other numbers, in place of the zeros and ones of biases and scales."""
    leaves, structure = fl.tree.flatten(params)
    drawn = [
        (0.5 * draw(*leaf.shape, seed=i)).to(dtype) for i, leaf in enumerate(leaves)
    ]
    return fl.tree.unflatten(structure, drawn)


def _draws() -> Iterator[Row]:
    """Dropout, each sample with its key: peers draw from torch's generator."""

    def make(dtype: torch.dtype, bridged: bool) -> Case:
        keys = fl.random.split(fl.random.key(3), 3)
        if bridged:
            module = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.4), nn.Linear(7, 2))
            layer, params, _ = fl.nn.from_module(filled(module, dtype))
        else:
            layer = fl.nn.sequential(
                fl.nn.linear(5, 7), fl.nn.dropout(0.4), fl.nn.linear(7, 2)
            )
            params = _redrawn(layer.init(fl.random.key(0)), dtype)

        def loss_fn(params, x, *, key):
            return curved(layer.apply(params, x, key=key, train=True)[None])[0]

        return Case(params, loss_fn, (draw(3, 4, 5).to(dtype),), keys=keys)

    for name, bridged in (("fl.nn", False), ("a bridged module", True)):
        yield Row(
            "dropout with keys",
            name,
            lambda dtype, bridged=bridged: make(dtype, bridged),
        )


def _trees() -> Iterator[Row]:
    """Models of our own: parameters in tuples and dicts."""

    def make(dtype: torch.dtype) -> Case:
        model = fl.nn.transformer(11, 6, 2, 2, max_length=9)
        params = _redrawn(model.init(fl.random.key(0)), dtype)

        def loss_fn(params, batch):
            return curved(model.apply(params, batch["words"])[None])[0]

        return Case(params, loss_fn, ({"words": ids(11, 3, 7)},))

    yield Row("transformers", "fl.nn.transformer", make)


ROWS = [*_layouts(), *_models(), *_draws(), *_trees()]
