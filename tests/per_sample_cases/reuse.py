# SPDX-License-Identifier: Apache-2.0
"""Rows of parameters that are used more than once, or not as they are stored."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from per_sample_cases._row import Row, curved, ids, of_function, of_module

WORDS = ids(4, 3, 7)


class Tied(nn.Module):
    """An embedding whose matrix is the head's too, by one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.embedding = nn.Embedding(11, 5)
        self.hidden = nn.Linear(5, 5)
        if way == "module":
            self.head = nn.Linear(5, 11, bias=False)
            self.head.weight = self.embedding.weight

    def forward(self, words):
        h = torch.tanh(self.hidden(self.embedding(words)))
        if self.way == "module":
            return self.head(h)
        if self.way == "F.linear":
            return F.linear(h, self.embedding.weight)
        return h @ self.embedding.weight.T


class Reused(nn.Module):
    """Layers of which each is called twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.GroupNorm(1, 2)
        self.linear = nn.Linear(7, 7)

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x)))
        x = self.norm(self.conv(F.avg_pool2d(x, (2, 1))))
        return self.linear(torch.tanh(self.linear(x)))


class TwoWays(nn.Module):
    """A linear layer, called, and its weight by hand."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.linear = nn.Linear(5, 5)

    def forward(self, x):
        y = torch.tanh(self.linear(x))
        if self.way == "transposed":
            return y @ self.linear.weight
        if self.way == "F.linear":
            return F.linear(y, self.linear.weight, self.linear.bias)
        if self.way == "one row":
            return y * self.linear.weight[2]
        return y + self.linear.weight.square().sum()


class Fused(nn.Module):
    """Attention on slices of one matrix."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.qkv = nn.Linear(4, 12)

    def forward(self, x):
        if self.way == "output chunked":
            q, k, v = self.qkv(x).chunk(3, -1)
        elif self.way == "matrix sliced":
            w, b = self.qkv.weight, self.qkv.bias
            q, k, v = (F.linear(x, w[i : i + 4], b[i : i + 4]) for i in (0, 4, 8))
        elif self.way == "matrix split":
            parts = zip(self.qkv.weight.split(4), self.qkv.bias.chunk(3), strict=True)
            q, k, v = (F.linear(x, w, b) for w, b in parts)
        else:
            w = self.qkv.weight.view(3, 4, 4)
            q, k, v = (x @ w[i].T for i in range(3))
            q = q + self.qkv.bias.reshape(3, 4)[0]
        scores = q @ k.transpose(-1, -2) / 2
        return scores.softmax(-1) @ v


class _Merged(nn.Module):
    """A low-rank change of a weight; Hu et al. (2021), LoRA, section 4.1."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(2, 5))
        self.b = nn.Parameter(torch.ones(7, 2))

    def forward(self, weight):
        return weight + self.b @ self.a


def _merged() -> nn.Module:
    layer = nn.Linear(5, 7)
    parametrize.register_parametrization(layer, "weight", _Merged())
    return layer


def _reused() -> Iterator[Row]:
    group = "reuse"
    for way in ("module", "F.linear", "h @ W.T"):
        name = f"tied embedding and head, {way}"
        yield of_module(group, name, lambda way=way: Tied(way), WORDS)
    yield of_module(group, "every layer twice", Reused, (3, 2, 6, 7))
    for way in ("transposed", "F.linear", "one row", "penalty"):
        yield of_module(
            group,
            f"a linear layer and its weight, {way}",
            lambda way=way: TwoWays(way),
            (3, 7, 5),
            factored=way != "penalty",
        )
    yield of_module(
        group,
        "one embedding of two inputs",
        lambda: nn.Embedding(11, 5),
        WORDS,
        ids(11, 3, 2, seed=9),
        losses=lambda call, x, y: curved(call(x).sum(1, keepdim=True) * call(y)),
    )
    yield of_function(
        group,
        "in a loop over time",
        _recurrence,
        {"w": (5, 5), "u": (5, 5), "b": (5,)},
        (3, 7, 5),
    )


def _recurrence(p, x):
    h = torch.zeros_like(x[..., 0, :])
    for t in range(x.shape[-2]):
        h = torch.tanh(x[..., t, :] @ p["w"] + h @ p["u"] + p["b"])
    return h


def _views() -> Iterator[Row]:
    group = "views"
    for way in ("output chunked", "matrix sliced", "matrix split", "matrix reshaped"):
        yield of_module(
            group, f"fused q, k, v, {way}", lambda way=way: Fused(way), (3, 7, 4)
        )
    yield of_function(
        group,
        "axes merged",
        lambda p, x: x @ p["w"].flatten(1),
        {"w": (5, 2, 2)},
        (3, 5),
    )
    yield of_function(
        group,
        "reshaped across axes",
        lambda p, x: x @ p["w"].reshape(5, 4),
        {"w": (2, 10)},
        (3, 5),
        factored=False,
    )
    yield of_function(
        group,
        "convolution of a transposed view",
        lambda p, x: F.conv1d(x, p["w"].transpose(0, 1)),
        {"w": (5, 2, 3)},
        (3, 5, 7),
    )
    yield of_function(
        group,
        "two matrices concatenated",
        lambda p, x: F.linear(x, torch.cat([p["w"], p["v"]])),
        {"w": (2, 5), "v": (3, 5)},
        (3, 7, 5),
        factored=False,
    )
    yield of_function(
        group,
        "cast to float64",
        lambda p, x: F.linear(x.double(), p["w"].double()).to(x.dtype),
        {"w": (2, 5)},
        (3, 7, 5),
    )

    def in_bfloat16(p, x):
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(x, p["w"], p["b"]).to(x.dtype)

    yield of_function(
        group,
        "autocast to bfloat16",
        in_bfloat16,
        {"w": (2, 5), "b": (2,)},
        (3, 7, 5),
        tolerance=2e-2,
        dtypes=(torch.float32,),
    )


def _parametrized() -> Iterator[Row]:
    group = "parametrizations"
    for name, build, shape in (
        ("weight_norm", lambda: parametrizations.weight_norm(nn.Linear(5, 7)), (3, 5)),
        (
            "weight_norm of a convolution",
            lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2)),
            (3, 2, 7),
        ),
        (
            "spectral_norm, eval",
            lambda: parametrizations.spectral_norm(nn.Linear(5, 7)),
            (3, 5),
        ),
        ("a LoRA, merged", _merged, (3, 4, 5)),
    ):
        yield of_module(group, name, build, shape, factored=False)
    yield of_function(
        group,
        "a LoRA, merged by hand",
        lambda p, x: F.linear(x, p["w"] + p["b"] @ p["a"]),
        {"w": (7, 5), "b": (7, 2), "a": (2, 5)},
        (3, 4, 5),
        factored=False,
    )
    yield of_function(
        group,
        "a LoRA beside the layer",
        lambda p, x: F.linear(x, p["w"]) + x @ p["a"].T @ p["b"].T,
        {"w": (7, 5), "b": (7, 2), "a": (2, 5)},
        (3, 4, 5),
    )


ROWS = [*_reused(), *_views(), *_parametrized()]
