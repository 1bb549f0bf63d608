# SPDX-License-Identifier: Apache-2.0
"""What `explain` tells is what happens: routes, lines, numbers."""

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab import per_sample

X = torch.linspace(-1.5, 2.5, 35).reshape(7, 5)
WIDE = {"w": torch.linspace(0.2, 1.7, 15).reshape(3, 5)}


def rows_of(loss: Any, params: Any, *batch: Any, **options: Any) -> dict[str, Any]:
    """By path; of parameters with one row."""
    table = per_sample.explain(loss, **options)(params, *batch)
    return {row.path: row for row in table.rows}


def line_of(function: Any, code: str) -> str:
    """`file:line` of the line of a function that holds this code."""
    lines, start = inspect.getsourcelines(function)
    (number,) = [start + i for i, line in enumerate(lines) if code in line]
    return f"{inspect.getsourcefile(function)}:{number}"


def test_routes_and_lines() -> None:
    params = {
        "bias": torch.tensor([0.3, -0.7, 0.5]),
        "doubled": torch.linspace(0.3, 0.9, 9).reshape(3, 3),
        "scale": torch.tensor([1.5, 0.7, 0.3]),
        "tau": torch.tensor(0.3),
        "unused": torch.tensor([0.5, 2.5]),
        **WIDE,
    }

    def loss_fn(params: Any, x: Tensor) -> Tensor:
        z = F.linear(x, params["w"], params["bias"])
        z = z * params["scale"]
        z = z / params["tau"].exp()
        (params["unused"] * 3).detach()
        return F.linear(z, 2 * params["doubled"]).square().sum()

    rows = rows_of(loss_fn, params, X)
    assert {path: row.route for path, row in rows.items()} == {
        "['bias']": "direct",
        "['doubled']": "fallback: mul makes another tensor of it",
        "['scale']": "direct",
        "['tau']": "direct",
        "['unused']": "unused: gradient zero",
        "['w']": "factored, Gram",
    }
    assert rows["['w']"].places == (("linear", line_of(loss_fn, "z = F.linear"), 1),)
    assert rows["['bias']"].places == rows["['w']"].places
    assert rows["['scale']"].places == (("mul", line_of(loss_fn, '"scale"'), 1),)
    assert rows["['tau']"].places == (("exp", line_of(loss_fn, '"tau"'), 1),)
    assert rows["['doubled']"].places == (("mul", line_of(loss_fn, "doubled"), 1),)
    assert rows["['unused']"].places == ()


def test_uses_kept_as_one_pair_are_one_row() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        state = F.linear(x, params["w"])
        for _ in range(3):
            state = F.linear(state, params["v"]).tanh()
        last = F.linear(state, params["v"])
        return last.square().sum()

    params = {"v": torch.linspace(0.3, 0.9, 9).reshape(3, 3), **WIDE}
    row = rows_of(loss_fn, params, X)["['v']"]
    inside, after = line_of(loss_fn, ".tanh()"), line_of(loss_fn, "last = ")
    assert row.places == (("linear", inside, 3), ("linear", after, 1))
    # 7 samples at 4 positions, 3 numbers on each side, of 4 bytes.
    assert row.costs.kept == 7 * 4 * (3 + 3) * 4


def test_the_costs_of_a_matrix() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        return F.linear(x.reshape(7, 5), params["w"]).square().sum()

    params = {"w": torch.linspace(0.2, 1.7, 15, dtype=torch.float64).reshape(3, 5)}
    batch = torch.linspace(-1.5, 2.5, 70, dtype=torch.float64).reshape(2, 7, 5)
    row = rows_of(loss_fn, params, batch)["['w']"]
    assert row.route == "factored, materialised"  # 7 positions, a matrix of 3 by 5
    costs = row.costs
    assert costs.kept == 8 * 2 * 7 * (3 + 5)
    assert costs.gram is not None
    assert tuple(costs.gram) == (8 * 2 * 2 * 49, 2 * 2 * 49 * (3 + 5))
    assert tuple(costs.materialized) == (8 * 2 * 15, 2 * 2 * 15 * 7 + 2 * 2 * 15)
    assert tuple(costs.weighted_sum) == (8 * 15, 2 * 2 * 15 * 7)


def test_the_route_is_that_of_the_norm() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        return F.linear(x, params["w"]).square().sum()

    for positions, rows, columns in ((2, 31, 37), (31, 2, 3), (5, 11, 13)):
        params = {"w": torch.full((rows, columns), 0.5)}
        batch = torch.full((3, positions, columns), 1.5)
        route = rows_of(loss_fn, params, batch)["['w']"].route
        use = per_sample.factors(loss_fn)(params, batch)["w"].uses[0]
        way = "Gram" if use.prefers_gram() else "materialised"
        assert route == f"factored, {way}"


def test_a_table_and_a_convolution() -> None:
    def loss_fn(params: Any, index: Tensor, image: Tensor) -> Tensor:
        z = F.embedding(index, params["table"]).square().sum()
        return z + F.conv2d(image, params["kernel"], padding=1).square().sum()

    params = {
        "kernel": torch.linspace(0.2, 1.7, 315).reshape(7, 5, 3, 3),
        "table": torch.linspace(0.2, 1.7, 35).reshape(7, 5),
    }
    index = torch.tensor([[2, 5, 2], [3, 3, 6]])
    rows = rows_of(loss_fn, params, index, torch.linspace(0, 1, 60).reshape(2, 5, 2, 3))
    assert rows["['table']"].route == "factored, Gram"
    assert rows["['table']"].places[0][0] == "embedding"
    assert rows["['table']"].costs.weighted_sum.bytes == 4 * 35
    assert rows["['kernel']"].route.startswith("factored, ")
    assert rows["['kernel']"].costs.kept == 4 * 2 * (5 + 7) * 6
    assert rows["['kernel']"].costs.weighted_sum.bytes == 4 * 315


def test_a_module_names_its_own_line() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).tanh()

    layer, params, _ = fl.nn.from_module(Own())
    rows = rows_of(lambda p, x: layer.apply(p, x).square().sum(), params, X)
    assert rows["['inner']['weight']"].places[0][1] == line_of(Own.forward, "return")


def test_derivatives_within_the_loss_are_a_fallback() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        slope = fl.grad(lambda x: F.linear(x, params["w"]).exp().sum())(x)
        return slope.square().sum()

    (row,) = rows_of(loss_fn, WIDE, X).values()
    assert row.route == (
        "fallback: linear within a derivative or vmap that the loss takes itself"
    )


def test_what_is_fallback_has_gradients_and_only_that() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        z = F.linear(x, params["w"])
        return torch.linalg.solve(params["a"], z).square().sum()

    params = {"a": torch.tensor([[2.5, 0.5, 0.3], [0.7, 3.5, 0.2], [0.1, 0.6, 1.7]])}
    params |= WIDE
    rows = rows_of(loss_fn, params, X)
    factors = per_sample.factors(loss_fn)(params, X)
    assert [type(use) for use in factors["a"].uses] == [per_sample.Direct]
    assert rows["['a']"].route.startswith("fallback: ")
    assert rows["['a']"].places[0][0] == "linalg_solve"
    assert [type(use) for use in factors["w"].uses] == [per_sample.DensePair]
    assert rows["['w']"].route.startswith("factored")


def test_the_table_prints_aligned_and_as_html() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, 2 * params["v"]), params["w"]).square().sum()

    params = {"v": torch.linspace(0.2, 1.7, 25).reshape(5, 5), **WIDE}
    table = per_sample.explain(loss_fn)(params, X)
    head, first, second, note = str(table).split("\n")
    titles = ["parameter", "shape", "operation", "line", "route", "kept", "Gram"]
    assert head.split() == [*titles, "materialised", "weighted", "sum"]
    assert first.startswith("['v']      (5, 5)  mul        ")
    assert second.startswith("['w']      (3, 5)  linear     ")
    starts = {line.index(word) for line, word in ((first, "fallb"), (second, "factor"))}
    assert starts == {head.index("route")}
    assert note.startswith("Fallbacks are exact")
    page = table._repr_html_()
    assert page.count("<tr>") == 3
    assert "<td>fallback: mul makes another tensor of it</td>" in page


def test_options() -> None:
    def loss_fn(params: Any, x: Tensor, *, key: Tensor) -> Any:
        noise = fl.random.normal(key, (1, 5))
        return F.linear(x + noise, params["w"], params["b"]).square().sum(), x

    params = {"b": torch.tensor([0.3, -0.7, 0.5]), **WIDE}
    explain = per_sample.explain(loss_fn, wrt="w", has_aux=True, keep_batch_axis=True)
    table = explain(params, X, keys=fl.random.split(fl.random.key(3), 7))
    assert [row.path for row in table.rows] == ["['w']"]


@pytest.mark.parametrize("name", ["explain", "check"])
def test_not_within_transforms(name: str, monkeypatch) -> None:
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    function = getattr(per_sample, name)(lambda p, x: F.linear(x, p["w"]).sum())
    for transform in (fl.jit, fl.grad):
        with pytest.raises(
            RuntimeError, match=f"per_sample.{name}: .* Call it outside"
        ):
            transform(function)(WIDE, X)  # pyright: ignore[reportCallIssue]


def test_a_cast_parameter_of_unknown_use_is_a_fallback() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        wide = params["w"].double()
        known = F.linear(x.double(), wide).square().sum()
        return known + F.linear(x.double(), wide.exp()).sum()

    table = per_sample.explain(loss_fn)(WIDE, X)
    places = {row.route: row.places for row in table.rows}
    assert places == {
        "factored, Gram": (("linear", line_of(loss_fn, "known ="), 1),),
        "fallback: exp makes another tensor of it": (
            ("exp", line_of(loss_fn, "return known"), 1),
        ),
    }
    with pytest.raises(ValueError, match=r"params\['w'\]: exp makes another tensor"):
        per_sample.norms(loss_fn, method="factored")(WIDE, X)
