# SPDX-License-Identifier: Apache-2.0
"""Modules as people write them, for the rows of whole models."""

import torch
import torch.nn.functional as F
from torch import nn


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


class Positions(nn.Module):
    """Embeddings of positions, made once for the whole batch."""

    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(11, 5), nn.Embedding(9, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, words):
        x = self.words(words) + self.positions(torch.arange(words.shape[1]))
        return self.head(torch.tanh(x))


class Attention(nn.Module):
    """Attention of torch.nn with different keys and values, batch or time first."""

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(
            6, 3, kdim=5, vdim=4, batch_first=batch_first
        )

    def forward(self, *inputs):
        if self.batch_first:
            return self.attention(*inputs, need_weights=False)[0]
        inputs = [x.transpose(0, 1) for x in inputs]
        return self.attention(*inputs, need_weights=False)[0].transpose(0, 1)


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

    def __init__(self, cell, begin):
        super().__init__()
        self.cell = cell
        self.begin = begin
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        zeros = x.new_zeros(len(x), 4)
        state = {"none": None, "zeros": zeros, "pair": (zeros, zeros)}[self.begin]
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
