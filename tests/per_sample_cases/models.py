# SPDX-License-Identifier: Apache-2.0
"""Rows of whole models, and of ways to arrange batch and time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import functorch_lab as fl
from per_sample_cases._modules import (
    GPT,
    Attention,
    Autoencoder,
    Encoder,
    FusedLSTM,
    Images,
    Loop,
    Merged,
    Mixer,
    Positions,
    TimeMajor,
)
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
    for length in (7, 3):
        yield of_module(
            group,
            f"position embeddings, batch 3, length {length}",
            Positions,
            ids(11, 3, length),
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
    for batch_first in (True, False):
        yield of_module(
            group,
            f"MultiheadAttention, {'batch' if batch_first else 'time'} first",
            lambda batch_first=batch_first: Attention(batch_first),
            (3, 7, 6),
            (3, 2, 5),
            (3, 2, 4),
            batch_first=batch_first,
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
        begin = "pair" if cell is nn.LSTMCell else "zeros"
        name = f"{cell.__name__} in a loop"
        yield of_module(
            group,
            name,
            lambda cell=cell, begin=begin: Loop(cell(5, 4), begin),
            (3, 7, 5),
        )
        yield of_module(
            group,
            f"{name}, no bias, no state given",
            lambda cell=cell: Loop(cell(5, 4, bias=False), "none"),
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
