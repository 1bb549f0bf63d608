# SPDX-License-Identifier: Apache-2.0
"""Products with a parameter, in all their forms, against one backward pass each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import functorch_lab as fl
from functorch_lab.transforms import _compile
from per_sample_cases._compared import (
    compare,
    curved,
    distance,
    one_by_one,
    parameters,
    routes,
    samples,
)

X, X3 = (3, 5), (2, 3, 5)
C = parameters(c=(3, 5))["c"]
DENSE, DIRECT = "DensePair", "Direct"
Case = tuple[str, Callable[..., Any], dict[str, Any], tuple[tuple[int, ...], ...]]

LINEAR: list[Case] = [
    (
        "a bias",
        lambda p, x: F.linear(x, p["w"], p["b"]),
        {"w": (7, 5), "b": (7,)},
        (X,),
    ),
    (
        "keywords",
        lambda p, x: F.linear(weight=p["w"], bias=p["b"], input=x),
        {"w": (7, 5), "b": (7,)},
        (X3,),
    ),
    ("no position", lambda p, x: F.linear(x, p["w"]), {"w": (7, 5)}, ((5,),)),
    ("a vector", lambda p, x: F.linear(x, p["w"]), {"w": (5,)}, (X,)),
    ("as input", lambda p, x: F.linear(p["w"], x), {"w": (2, 7, 5)}, (X,)),
    (
        "an equal sample",
        lambda p, x: F.linear(C, p["w"]) * x[0, 0],
        {"w": (7, 5)},
        (X,),
    ),
]
PRODUCTS: list[Case] = [
    ("x @ w", lambda p, x: x @ p["w"], {"w": (5, 7)}, (X3,)),
    ("w @ x", lambda p, x: p["w"] @ x, {"w": (7, 3)}, (X,)),
    ("w @ x of three axes", lambda p, x: p["w"] @ x, {"w": (7, 3)}, (X3,)),
    ("groups", lambda p, x: p["w"] @ x, {"w": (2, 7, 3)}, (X3,)),
    ("w is broadcast", lambda p, x: p["w"] @ x, {"w": (1, 7, 3)}, (X3,)),
    ("x is broadcast", lambda p, x: p["w"] @ x, {"w": (2, 7, 3)}, (X,)),
    ("one x is broadcast", lambda p, x: x @ p["w"], {"w": (2, 5, 7)}, ((1, 3, 5),)),
    ("both are broadcast", lambda p, x: x @ p["w"], {"w": (2, 1, 5, 7)}, (X3,)),
    ("x @ vector", lambda p, x: x @ p["w"], {"w": (5,)}, (X3,)),
    ("vector @ x", lambda p, x: p["w"] @ x, {"w": (3,)}, (X3,)),
    ("vector @ vector", lambda p, x: p["w"] @ x, {"w": (5,)}, ((5,),)),
    ("x @ w of a vector", lambda p, x: x @ p["w"], {"w": (2, 5, 7)}, ((5,),)),
    ("matmul", lambda p, x: torch.matmul(input=x, other=p["w"]), {"w": (5, 7)}, (X,)),
    ("reflected", lambda p, x: p["w"].__rmatmul__(x), {"w": (5, 7)}, (X,)),
    ("mm", lambda p, x: torch.mm(x, mat2=p["w"]), {"w": (5, 7)}, (X,)),
    ("mm, method", lambda p, x: p["w"].mm(x), {"w": (7, 3)}, (X,)),
    ("mv", lambda p, x: torch.mv(p["w"], x), {"w": (7, 5)}, ((5,),)),
    ("mv, vector", lambda p, x: x.mv(vec=p["w"]), {"w": (5,)}, (X,)),
    ("bmm", lambda p, x: torch.bmm(x, p["w"]), {"w": (2, 5, 7)}, (X3,)),
]
SUMS: list[Case] = [
    (
        "addmm",
        lambda p, x: torch.addmm(p["b"], x, p["w"], beta=0.5, alpha=1.5),
        {"w": (5, 7), "b": (7,)},
        (X,),
    ),
    (
        "addmm, left",
        lambda p, x: p["b"].addmm(p["w"], mat2=x, alpha=1.5),
        {"w": (2, 3), "b": (2, 1)},
        (X,),
    ),
    (
        "addmv",
        lambda p, x: torch.addmv(p["b"], p["w"], x, beta=0.5),
        {"w": (7, 5), "b": (7,)},
        ((5,),),
    ),
    (
        "baddbmm",
        lambda p, x: torch.baddbmm(p["b"], x, p["w"], beta=0.5, alpha=1.5),
        {"w": (2, 5, 7), "b": (1, 3, 7)},
        (X3,),
    ),
    (
        "addbmm",
        lambda p, x: torch.addbmm(p["b"], batch1=x, batch2=p["w"], alpha=1.5),
        {"w": (2, 5, 7), "b": (3, 7)},
        (X3,),
    ),
    (
        "bilinear",
        lambda p, x, y: F.bilinear(x, y, p["w"], p["b"]),
        {"w": (7, 5, 2), "b": (7,)},
        ((3, 5), (3, 2)),
    ),
]
ELSE: list[Case] = [
    (
        "bias alone",
        lambda p, x: F.linear(x, x.new_ones(7, 5), p["b"]),
        {"b": (7,)},
        (X,),
    ),
    (
        "a part of a bias",
        lambda p, x: F.linear(x, x.new_ones(7, 5), p["b"][2:9]),
        {"b": (11,)},
        (X,),
    ),
    (
        "two parameters",
        lambda p, x: p["w"] @ p["b"] * x,
        {"w": (3, 2), "b": (2, 5)},
        (X,),
    ),
    (
        "a diagonal",
        lambda p, x: torch.einsum("tii,io->to", x, p["w"]),
        {"w": (5, 7)},
        ((3, 5, 5),),
    ),
    (
        "three",
        lambda p, x: torch.einsum("ti,io,t->o", x, p["w"], x[:, 0]),
        {"w": (5, 7)},
        (X,),
    ),
]


def ids(case: Case) -> str:
    return case[0]


@pytest.mark.parametrize("case", [*LINEAR, *PRODUCTS, *SUMS], ids=ids)
def test_a_product_has_factors(case: Case) -> None:
    _, forward, shapes, data = case
    kinds: dict[str, Any] = {name: DIRECT if name == "b" else DENSE for name in shapes}
    compare(forward, parameters(**shapes), *samples(*data), **kinds)


@pytest.mark.parametrize("case", ELSE, ids=ids)
def test_what_has_no_factors_is_exact(case: Case) -> None:
    _, forward, shapes, data = case
    kinds: dict[str, Any] = dict.fromkeys(shapes, DIRECT)
    compare(forward, parameters(**shapes), *samples(*data), **kinds)


EINSUMS = [
    ("ti,oi->to", X, (7, 5)),
    ("ti, io", X, (5, 7)),  # the output is left out
    ("thi,hio->tho", (3, 2, 5), (2, 5, 7)),  # groups
    ("...i,io->...o", X3, (5, 7)),
    ("...i,...io", (3, 2, 5), (2, 5, 7)),  # groups by an ellipsis
    ("...i,...i->...", X, (2, 1, 5)),  # broadcast
    ("ti,hio->tho", X, (2, 5, 7)),  # rows of two letters
    ("thi,hio->to", (3, 2, 5), (2, 5, 7)),  # columns of two letters
    ("tji,oi->to", (3, 2, 5), (7, 5)),  # j is summed in x alone
    ("ti,iok->to", X, (5, 7, 2)),  # k is summed in w alone
    ("ti,oi->o", X, (7, 5)),
    ("ti,ti->", X, X),
    ("ti,ti->it", X, X),
    ("ti,ok->tiok", X, (7, 2)),
]


@pytest.mark.parametrize("left", [False, True], ids=["w right", "w left"])
@pytest.mark.parametrize(("equation", "x", "w"), EINSUMS, ids=[e[0] for e in EINSUMS])
def test_einsum(
    equation: str, x: tuple[int, ...], w: tuple[int, ...], left: bool
) -> None:
    inputs, arrow, output = equation.partition("->")
    swapped = ",".join(reversed(inputs.split(","))) + arrow + output

    def forward(params: Any, sample: torch.Tensor) -> torch.Tensor:
        if left:
            return torch.einsum(swapped, [params["w"], sample])
        return torch.einsum(equation, sample, params["w"])

    compare(forward, parameters(w=w), *samples(x), w=DENSE)


def test_an_empty_product() -> None:
    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return curved(x[:, :0] @ params["w"][:0]) + curved(x @ params["w"])

    params, (x,) = parameters(w=(5, 7)), samples(X)
    expected = one_by_one(loss, params, x)["w"]
    assert distance(fl.per_sample.grads(loss)(params, x)["w"], expected) < 1e-12


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("dtype", lambda p, x: x.float() @ p["w"]),
        ("axes", lambda p, x: torch.mm(x[0], p["w"])),
    ],
    ids=["dtype", "axes"],
)
def test_what_torch_refuses_is_refused(name: str, forward: Any) -> None:
    loss = fl.per_sample.norms(lambda p, x: curved(forward(p, x)))
    with pytest.raises(RuntimeError, match=r"dtype|mm\(\)|must be|expected"):
        loss(parameters(w=(5, 7)), *samples(X))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, params["w"], params["b"]).sin() @ params["w"]
        return y.float().square().sum()

    params = {k: p.to(dtype) for k, p in parameters(w=(7, 5), b=(7,)).items()}
    x = samples(X)[0].to(dtype)
    wide = {k: p.double() for k, p in params.items()}
    exact = one_by_one(loss, wide, x.double())
    found = fl.per_sample.factors(loss)(params, x)
    assert routes(found) == {"w": [DENSE, DENSE], "b": [DIRECT]}
    for name, expected in exact.items():
        assert found[name].materialize().dtype == torch.float32
        assert (
            distance(found[name].materialize(), expected) < 4 * torch.finfo(dtype).eps
        )
    _, mean = fl.per_sample.value_and_grad(loss)(params, x)
    assert mean["w"].dtype == dtype


def test_autocast_keeps_the_route() -> None:
    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = F.linear(x, params["w"], params["b"])
            y = y + torch.addmm(params["b"], x, params["w"].T)
            z = torch.einsum("to,hoi->thi", y.sin(), params["v"]) @ params["w"].T
            u = F.bilinear(x, x, params["u"])
            assert (y.dtype, z.dtype, u.dtype) == half
        return y.float().square().sum() + z.float().square().sum() + u.sum()

    shapes = {"w": (7, 5), "b": (7,), "v": (2, 7, 5), "u": (2, 5, 5)}
    params = {k: p.float() for k, p in parameters(**shapes).items()}
    x = samples(X)[0].float()
    half = (torch.bfloat16, torch.bfloat16, torch.float32)
    loop = one_by_one(loss, params, x)
    found = fl.per_sample.factors(loss)(params, x)
    kinds = routes(found)
    assert kinds == {"w": [DENSE], "b": [DIRECT], "v": [DENSE], "u": [DENSE]}
    for name, expected in loop.items():
        assert distance(found[name].materialize(), expected) < 0.03, name


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "BACKEND", "eager")

    def forward(params: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.addmm(params["b"], x, params["w"], alpha=1.5)
        h = torch.einsum("to,...oi->t...i", h.sin(), params["v"])
        return F.bilinear(h[:, 0], x, params["u"])

    shapes = {"w": (5, 7), "b": (7,), "v": (2, 7, 5), "u": (2, 5, 5)}
    kinds: dict[str, Any] = {"w": DENSE, "b": DIRECT, "v": DENSE, "u": DENSE}
    compare(forward, parameters(**shapes), *samples(X), jit=True, **kinds)


def test_compiled_code_serves_new_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def backend(graph: Any, inputs: Any) -> Any:
        traces.append(graph)
        return graph

    monkeypatch.setattr(_compile, "BACKEND", backend)

    def loss(params: Any, x: torch.Tensor) -> torch.Tensor:
        return curved(F.linear(F.linear(x, params["frozen"]), params["w"]))

    norms = fl.jit(fl.per_sample.norms(loss, wrt="w"))
    for scale in (1, 2, 3):
        params = parameters(frozen=(7, 5), w=(2, 7))
        params = {k: p * scale for k, p in params.items()}
        norms(params, *samples(X))
    assert len(traces) == 1
