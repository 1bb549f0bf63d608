# SPDX-License-Identifier: Apache-2.0
"""Norms, biases, scales and other vectors of parameters, against one backward each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import functorch_lab as fl
from functorch_lab.per_sample import Direct, factors
from per_sample_cases._compared import curved
from per_sample_cases._oracle import one_by_one
from per_sample_cases._row import draw, filled

BATCH = 3


def check(
    loss_fn: Callable[..., Tensor],
    params: Any,
    batch: Tensor,
    transform: Callable[..., Any] = lambda f: f,
) -> None:
    """Gradients of each sample are the oracle's, and lie there as they are."""
    expected = one_by_one(loss_fn, params, batch)
    found = transform(factors(loss_fn))(params, batch)
    for name, factor in found.items():
        (use,) = factor.uses
        assert isinstance(use, Direct), name
        torch.testing.assert_close(use.value, expected[name], rtol=1e-11, atol=1e-11)


SHARED = draw(1, 4, 5, seed=3)
MEAN, VAR = draw(4, seed=8), draw(4, seed=9).exp()
Call = Callable[[Any, Tensor], Tensor]
# Name: the operation, the shapes of w and b, and the shape of a sample.
Row = tuple[Call, tuple[int, ...], tuple[int, ...], tuple[int, ...]]
OPERATIONS: dict[str, Row] = {
    "layer_norm": (
        lambda p, x: F.layer_norm(x, (5,), p["w"], p["b"]),
        (5,),
        (5,),
        (7, 5),
    ),
    "layer_norm, no bias": (
        lambda p, x: F.layer_norm(x, (5,), p["w"]) + p["b"],
        (5,),
        (7, 5),
        (7, 5),
    ),
    "layer_norm, bias alone": (
        lambda p, x: F.layer_norm(x, (5,), bias=p["b"]) * p["w"],
        (5,),
        (5,),
        (7, 5),
    ),
    "layer_norm, two axes": (
        lambda p, x: F.layer_norm(x, (7, 5), p["w"], p["b"], eps=0.1),
        (7, 5),
        (7, 5),
        (7, 5),
    ),
    "layer_norm, method": (
        lambda p, x: torch.layer_norm(x, (5,), p["w"], p["b"]),
        (5,),
        (5,),
        (5,),
    ),
    "rms_norm": (lambda p, x: F.rms_norm(x, (5,), p["w"]) + p["b"], (5,), (5,), (7, 5)),
    "rms_norm, eps, two axes": (
        lambda p, x: F.rms_norm(x, (7, 5), p["w"], eps=0.1) + p["b"],
        (7, 5),
        (5,),
        (7, 5),
    ),
    "group_norm": (
        lambda p, x: F.group_norm(x[None], 2, p["w"], p["b"], 0.1),
        (4,),
        (4,),
        (4, 5, 2),
    ),
    "group_norm, one group": (
        lambda p, x: F.group_norm(x[None], 1, p["w"], p["b"]),
        (4,),
        (4,),
        (4, 5),
    ),
    "group_norm, no bias": (
        lambda p, x: F.group_norm(x[None], 4, weight=p["w"]) + p["b"],
        (4,),
        (5,),
        (4, 5),
    ),
    "group_norm, of a part": (
        lambda p, x: torch.group_norm(x[None, :4], 2, p["w"], p["b"], 0.1, True),
        (4,),
        (4,),
        (7, 5),
    ),
    "group_norm, of what samples share": (
        lambda p, x: F.group_norm(SHARED, 2, p["w"], p["b"]) * x,
        (4,),
        (4,),
        (4, 5),
    ),
    "instance_norm": (
        lambda p, x: F.instance_norm(x[None], weight=p["w"], bias=p["b"]),
        (4,),
        (4,),
        (4, 5, 2),
    ),
    "instance_norm, running": (
        lambda p, x: F.instance_norm(x[None], MEAN, VAR, p["w"], p["b"], False),
        (4,),
        (4,),
        (4, 5),
    ),
    "batch_norm": (
        lambda p, x: F.batch_norm(x[None], MEAN, VAR, p["w"], p["b"], eps=0.1),
        (4,),
        (4,),
        (4, 5, 2),
    ),
    "batch_norm, no bias": (
        lambda p, x: F.batch_norm(x[None], MEAN, VAR, p["w"]) + p["b"],
        (4,),
        (5,),
        (4, 5),
    ),
    "batch_norm, of a vector": (
        lambda p, x: F.batch_norm(x[None], MEAN, VAR, p["w"], p["b"]),
        (4,),
        (4,),
        (4,),
    ),
    "prelu, one": (lambda p, x: F.prelu(x[None], p["w"]) + p["b"], (1,), (5,), (4, 5)),
    "prelu, channels": (
        lambda p, x: torch.prelu(x[None], p["w"]) + p["b"],
        (4,),
        (5,),
        (4, 5),
    ),
    "prelu, method": (lambda p, x: x[None].prelu(p["w"]) + p["b"], (4,), (4,), (4,)),
    "add, mul": (lambda p, x: x * p["w"] + p["b"], (5,), (4, 1), (4, 5)),
    "in reverse": (lambda p, x: p["b"] - p["w"] * x, (), (5,), (4, 5)),
    "sub, div": (
        lambda p, x: torch.div(torch.sub(x, p["b"], alpha=2), p["w"]),
        (1, 5),
        (4, 5),
        (4, 5),
    ),
    "divided": (lambda p, x: p["w"] / (x.exp() + p["b"].exp()), (4, 1), (5,), (4, 5)),
    "addcmul": (
        lambda p, x: torch.addcmul(p["b"], x, p["w"], value=0.7),
        (5,),
        (4, 1),
        (4, 5),
    ),
    "addcdiv": (
        lambda p, x: torch.addcdiv(p["b"], x, p["w"].exp()),
        (5,),
        (4, 1),
        (4, 5),
    ),
    "lerp": (lambda p, x: torch.lerp(p["b"], x, p["w"]), (5,), (4, 5), (4, 5)),
    "where": (
        lambda p, x: torch.where(x > 0, p["w"] * x, p["b"]),
        (5,),
        (4, 1),
        (4, 5),
    ),
    "expanded": (
        lambda p, x: torch.cat([p["w"].expand(2, 5), x]) * p["b"].view(5),
        (5,),
        (5, 1),
        (4, 5),
    ),
    "functions of both": (
        lambda p, x: F.softplus(p["w"]) * x**2 + p["b"].tanh(),
        (5,),
        (5,),
        (4, 5),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    call, w, b, sample = OPERATIONS[name]
    params = {"w": draw(*w), "b": draw(*b, seed=6)}

    def loss(params: Any, x: Tensor) -> Tensor:
        return curved(call(params, x))

    check(loss, params, draw(BATCH, *sample, seed=7))


TRACED = ["layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"]
TRACED += ["prelu, channels", "addcmul"]


def test_operations_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    rows = {name: OPERATIONS[name] for name in TRACED}
    params = {f"{n} w": draw(*w) for n, (_, w, _, _) in rows.items()}
    params |= {f"{n} b": draw(*b, seed=6) for n, (_, _, b, _) in rows.items()}
    total = draw(BATCH, 40, seed=7)

    def loss(params: Any, x: Tensor) -> Tensor:
        losses = []
        for name, (call, _, _, shape) in rows.items():
            given = {"w": params[f"{name} w"], "b": params[f"{name} b"]}
            size = torch.Size(shape).numel()
            losses.append(curved(call(given, x[:size].view(shape))))
        return torch.stack(losses).sum()

    check(loss, params, total, transform=fl.jit)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LayerNorm": (lambda: nn.LayerNorm([5, 2]), (7, 5, 2)),
    "LayerNorm, no bias": (lambda: nn.LayerNorm(5, bias=False), (1, 7, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(5), (1, 7, 5)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (1, 4, 5)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), (1, 4, 5)),
    "InstanceNorm2d": (
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        (1, 4, 5, 2),
    ),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (1, 4, 5)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4, eps=0.1), (1, 4, 5, 2)),
    "PReLU": (nn.PReLU, (1, 4, 5)),
    "PReLU, channels": (lambda: nn.PReLU(4), (1, 4, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    make, sample = MODULES[name]
    module = filled(make(), torch.float64).eval()
    layer, params, state = fl.nn.from_module(module)

    def loss(params: Any, x: Tensor) -> Tensor:
        if state == ():
            return curved(layer.apply(params, x))
        return curved(layer.apply(params, state, x)[0])

    check(loss, params, draw(BATCH, *sample, seed=7))


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "layer_norm": (lambda: fl.nn.layer_norm((5, 2)), (7, 5, 2)),
    "layer_norm, no bias": (lambda: fl.nn.layer_norm(5, bias=False), (7, 5)),
    "rms_norm": (lambda: fl.nn.rms_norm(5), (7, 5)),
    "group_norm": (lambda: fl.nn.group_norm(2, 4, spatial_dims=1), (4, 5)),
    "instance_norm": (
        lambda: fl.nn.instance_norm(4, spatial_dims=2, affine=True),
        (4, 5, 2),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, sample = LAYERS[name]
    layer = make()
    shapes = layer.init(fl.random.key(0))
    params = {n: draw(*p.shape, seed=i) for i, (n, p) in enumerate(shapes.items())}

    def loss(params: Any, x: Tensor) -> Tensor:
        return curved(layer.apply(params, x))

    check(loss, params, draw(BATCH, *sample, seed=7))


def test_batch_norm_layer_in_evaluation() -> None:
    layer = fl.nn.batch_norm(4, spatial_dims=1)
    state = {**layer.init(fl.random.key(0))[1]}
    state |= {"running_mean": MEAN, "running_var": VAR}
    params = {"weight": draw(4), "bias": draw(4, seed=6)}

    def loss(params: Any, x: Tensor) -> Tensor:
        return curved(layer.apply(params, state, x)[0])

    check(loss, params, draw(BATCH, 1, 4, 5, seed=7))
