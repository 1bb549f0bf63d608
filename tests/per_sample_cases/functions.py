# SPDX-License-Identifier: Apache-2.0
"""Rows of plain functions of free parameters."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from per_sample_cases._row import Row, draw, ids, of_function


def _matmul() -> Iterator[Row]:
    group, weight = "matmul", {"w": (5, 2)}
    yield of_function(group, "x @ W, vector", lambda p, x: x @ p["w"], weight, (3, 5))
    yield of_function(group, "x @ W", lambda p, x: x @ p["w"], weight, (3, 7, 5))
    yield of_function(group, "W @ x", lambda p, x: p["w"] @ x, weight, (3, 2, 7))
    yield of_function(
        group, "W @ x, vector", lambda p, x: p["w"] @ x, weight, (3, 2), module=False
    )
    yield of_function(
        group, "mv", lambda p, x: torch.mv(p["w"], x), weight, (3, 2), module=False
    )
    yield of_function(group, "x @ W.T", lambda p, x: x @ p["w"].T, weight, (3, 7, 2))
    yield of_function(
        group, "mT", lambda p, x: torch.matmul(x, p["w"].mT), weight, (3, 7, 2)
    )
    yield of_function(
        group, "mm", lambda p, x: torch.mm(x, p["w"]), weight, (3, 5), axis="kept"
    )
    yield of_function(
        group, "mm, matrix", lambda p, x: x.mm(p["w"]), weight, (3, 7, 5), module=False
    )
    yield of_function(
        group,
        "mm from the left",
        lambda p, x: torch.mm(p["w"], x),
        weight,
        (3, 2, 7),
        module=False,
    )
    yield of_function(
        group,
        "bmm, one matrix per head",
        lambda p, x: torch.bmm(x.transpose(0, 1), p["w"]).transpose(0, 1),
        {"w": (7, 5, 2)},
        (3, 7, 5),
        axis="added",
    )
    yield of_function(
        group,
        "matmul, one matrix per head",
        lambda p, x: x @ p["w"],
        {"w": (7, 5, 2)},
        (3, 7, 4, 5),
    )
    yield of_function(
        group,
        "addmm",
        lambda p, x: torch.addmm(p["b"], x, p["w"]),
        {"w": (5, 2), "b": (2,)},
        (3, 5),
        axis="added",
    )
    yield of_function(
        group,
        "addmm, alpha and beta",
        lambda p, x: torch.addmm(p["b"], x, p["w"], beta=0.7, alpha=1.3),
        {"w": (5, 2), "b": (7, 2)},
        (3, 7, 5),
        module=False,
    )
    for equation, shape, leaf in (
        ("btd,de->bte", (3, 7, 5), (5, 2)),
        ("btd,ed->bte", (3, 7, 5), (2, 5)),
        ("...d,de->...e", (3, 7, 5), (5, 2)),
        ("bhtd,hde->bhte", (3, 2, 7, 5), (2, 5, 4)),
        ("btd,dhe->bhte", (3, 7, 5), (5, 2, 4)),
        ("btd,de->be", (3, 7, 5), (5, 2)),
    ):
        yield of_function(
            group,
            f"einsum {equation}",
            lambda p, x, equation=equation: torch.einsum(equation, x, p["w"]),
            {"w": leaf},
            shape,
            axis="added",
        )
    yield of_function(
        group,
        "einsum, parameter first",
        lambda p, x: torch.einsum("de,btd->bte", p["w"], x),
        weight,
        (3, 7, 5),
        axis="kept",
    )
    yield of_function(
        group,
        "tensordot",
        lambda p, x: torch.tensordot(x, p["w"], 1),
        {"w": (5, 7)},
        (3, 2, 5),
        factored=False,
    )
    yield of_function(
        group,
        "batch and time merged",
        lambda p, x: (x.reshape(-1, 5) @ p["w"]).reshape(*x.shape[:-1], 2),
        weight,
        (3, 7, 5),
    )


def _broadcast() -> Iterator[Row]:
    group = "bias and scale"
    for name, function, shape in (
        ("x + b", lambda p, x: x + p["b"], (5,)),
        ("b - x", lambda p, x: p["b"] - x, (5,)),
        ("x - b", lambda p, x: x - p["b"], (5,)),
        ("x * b", lambda p, x: x * p["b"], (5,)),
        ("b * x, per channel", lambda p, x: p["b"] * x, (7, 1)),
        ("x * b, one number", lambda p, x: x * p["b"], ()),
        ("x + b, one number", lambda p, x: torch.add(x, p["b"], alpha=1.3), ()),
        ("x / b", lambda p, x: x / p["b"], (5,)),
        ("x * b, whole sample", lambda p, x: torch.mul(x, p["b"]), (7, 5)),
        ("x * b[:, None]", lambda p, x: x * p["b"][:, None], (7,)),
        ("x + b.view", lambda p, x: x + p["b"].view(1, 5), (5,)),
        ("x + b[:7], positions", lambda p, x: x + p["b"][: x.shape[-2]], (11, 5)),
        ("b repeated", lambda p, x: x * p["b"].expand_as(x), (5,)),
        ("method add", lambda p, x: x.add(p["b"]), (5,)),
    ):
        yield of_function(group, name, function, {"b": shape}, (3, 7, 5))
    yield of_function(
        group,
        "added and multiplied in place",
        _in_place,
        {"w": (5, 2), "b": (2,), "s": (2,)},
        (3, 7, 5),
    )
    yield of_function(
        group,
        "scale * x + bias",
        lambda p, x: torch.tanh(p["s"] * x + p["b"]) * p["s"],
        {"s": (5,), "b": (5,)},
        (3, 7, 5),
    )


def _in_place(p, x):
    y = x @ p["w"]
    y += p["b"]
    return y.mul_(p["s"]).tanh_()


def _functional() -> Iterator[Row]:
    group = "functional"
    yield of_function(
        group,
        "conv2d, weight by name",
        lambda p, x: F.conv2d(x, weight=p["w"], bias=p["b"], stride=2),
        {"w": (2, 4, 2, 3), "b": (2,)},
        (3, 4, 5, 7),
    )
    yield of_function(
        group,
        "embedding, then conv1d",
        lambda p, ids: F.conv1d(F.embedding(ids, p["e"]).mT, p["w"], padding="same"),
        {"e": (11, 5), "w": (2, 5, 3)},
        ids(11, 3, 7),
    )
    yield of_function(
        group,
        "layer_norm and rms_norm by name",
        lambda p, x: F.rms_norm(
            F.layer_norm(x, (5,), weight=p["s"], bias=p["b"], eps=0.1),
            normalized_shape=(5,),
            weight=p["r"],
        ),
        {"s": (5,), "b": (5,), "r": (5,)},
        (3, 7, 5),
    )
    yield of_function(
        group,
        "embedding by index",
        lambda p, ids: p["e"][ids],
        {"e": (11, 5)},
        ids(4, 3, 7),
    )
    yield of_function(
        group,
        "softmax of a parameter",
        lambda p, x: x @ torch.softmax(p["w"], -1),
        {"w": (5, 2)},
        (3, 7, 5),
        factored=False,
    )
    yield of_function(
        group,
        "one leaf used otherwise, the others not",
        lambda p, x: torch.tanh(x @ p["w"] + p["b"]) @ p["v"].exp(),
        {"w": (5, 4), "b": (4,), "v": (4, 2)},
        (3, 7, 5),
        factored=False,
    )
    yield of_function(
        group,
        "a parameter is not used",
        lambda p, x: x @ p["w"],
        {"w": (5, 2), "unused": (2, 3)},
        (3, 7, 5),
    )
    yield of_function(
        group,
        "weights of the samples",
        lambda p, x, weight: weight[..., None, None] * torch.tanh(x @ p["w"]),
        {"w": (5, 2)},
        (3, 7, 5),
        draw(3).abs(),
    )


ROWS = [*_matmul(), *_broadcast(), *_functional()]
