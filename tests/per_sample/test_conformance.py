# SPDX-License-Identifier: Apache-2.0
"""Each row of the conformance suite against one backward pass for each sample."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile
from per_sample_cases import ROWS, Case, Row, by_path, errors, gram, norms, oracle

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
BY_ID = {row.id: row for row in ROWS}
EXACT = [
    pytest.param(row, dtype, id=f"{row.id}, {str(dtype).removeprefix('torch.')}")
    for row in ROWS
    if row.refused is None
    for dtype in row.dtypes
]
REFUSED = [row for row in ROWS if row.refused is not None]
# What the files about operations don't trace, of leaves with rules and without.
TRACED = [
    "conv_transpose1d: stride 2, padding 1, output_padding 1",
    "functional: one leaf used otherwise, the others not",
    "parametrizations: weight_norm",
]
# A small matrix is not reported as a fallback, but these have factors of any size. The
# rule of convolutions forms gradients that are smaller than what it would keep.
ALWAYS = {
    *("linear", "bilinear", "matmul", "mm", "mv", "bmm", "addmm", "einsum"),
    *("embedding", "embedding_bag"),
}

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}:UserWarning")
    for message in (
        "Using padding='same' with even kernel lengths",
        "There is a performance drop",  # vmap's, of what falls back to it
    )
]


@cache
def expected(row: Row) -> dict[str, Tensor]:
    """In float64, of the numbers that float32 holds exactly."""
    return oracle(row.make(row.dtypes[0]))


def call(make: Callable[..., Any], case: Case, **options: Any) -> Any:
    function = make(case.loss_fn, keep_batch_axis=case.keep_batch_axis, **options)
    return with_keys(function, case)(case.params, *case.batch)


def with_keys(function: Callable[..., Any], case: Case) -> Callable[..., Any]:
    if case.keys is None:
        return function
    return lambda *inputs: function(*inputs, keys=case.keys)


def assert_right(
    row: Row, dtype: torch.dtype, grads: Any = None, lengths: Tensor | None = None
) -> None:
    limit, wanted = row.tolerance or TOLERANCE[dtype], expected(row)
    if grads is not None:
        assert {leaf.dtype for leaf in fl.tree.leaves(grads)} == {dtype}
        found = errors(by_path(grads), wanted)
        # Not `max(...) <= limit`, which lets through what is not a number.
        assert all(error <= limit for error in found.values()), found
    if lengths is not None:
        exact = norms(wanted)
        assert_close(lengths.to(exact.dtype), exact, rtol=limit, atol=0.0)


@pytest.mark.parametrize(("row", "dtype"), EXACT)
def test_norms_and_gradients(row: Row, dtype: torch.dtype) -> None:
    case = row.make(dtype)
    grads = call(fl.per_sample.grads, case)
    assert fl.tree.structure(grads) == fl.tree.structure(case.params)
    assert_right(row, dtype, grads, call(fl.per_sample.norms, case))


@pytest.mark.parametrize(("row", "dtype"), EXACT)
def test_gram(row: Row, dtype: torch.dtype) -> None:
    products = call(fl.per_sample.gram, row.make(dtype))
    lengths = norms(expected(row))
    difference = products.to(lengths.dtype) - gram(expected(row))
    relative = difference / (lengths[:, None] * lengths)
    limit = row.tolerance or TOLERANCE[dtype]
    assert_close(relative, torch.zeros_like(relative), rtol=0.0, atol=limit)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.refused is None], ids=lambda row: row.id
)
def test_no_gradient_is_formed_where_a_rule_applies(row: Row) -> None:
    table = call(fl.per_sample.explain, row.make(row.dtypes[-1]))
    routes = {}
    for found in table.rows:
        operations = {operation for operation, _, _ in found.places}
        matrix = len(found.shape) > 1 and not re.search(r"b(ias)?'\]$", found.path)
        if matrix and operations & ALWAYS:
            routes[found.path] = found.route
    fallbacks = [found for found in table.rows if found.route.startswith("fallback")]
    if row.factored:
        assert all(route.startswith("factored") for route in routes.values()), routes
    assert bool(fallbacks) != row.factored, fallbacks


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.id)
def test_what_is_refused_says_what_to_do(row: Row) -> None:
    assert row.refused is not None
    with pytest.raises(ValueError, match=row.refused):
        call(fl.per_sample.norms, row.make(torch.float64))


@pytest.mark.parametrize("name", TRACED)
def test_rows_under_jit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    row = BY_ID[name]
    case = row.make(torch.float64)
    function = fl.per_sample.norms(case.loss_fn, keep_batch_axis=case.keep_batch_axis)
    lengths = fl.jit(with_keys(function, case))(case.params, *case.batch)
    assert_right(row, torch.float64, lengths=lengths)


def test_a_tied_model_compiled() -> None:
    row = BY_ID["reuse: tied embedding and head, F.linear"]
    case = row.make(torch.float32)
    exact = norms(expected(row))
    bound = exact.median().item()

    function = fl.jit(fl.per_sample.clipped_sum(case.loss_fn, max_norm=bound))
    clipped = function(case.params, *case.batch)
    assert_right(row, torch.float32, lengths=clipped.norms)
    scales = (bound / exact).clamp(max=1)
    for path, leaf in by_path(clipped.sum).items():
        wanted = torch.tensordot(scales, expected(row)[path], 1)
        assert (leaf.double() - wanted).norm() <= 1e-5 * wanted.norm(), path


def test_the_oracle_is_the_formula_of_a_linear_layer() -> None:
    row = BY_ID["linear: 1-d sample"]
    case = row.make(torch.float64)
    assert case.module is not None
    (x,) = case.batch
    weights = torch.linspace(0.3, 1.7, 7, dtype=x.dtype)
    delta = 2 * weights * case.module(x).detach()
    formula = {"weight": delta[:, :, None] * x[:, None, :], "bias": delta}
    assert all(error < 1e-14 for error in errors(oracle(case), formula).values())


@pytest.mark.parametrize("row", ROWS[:: len(ROWS) // 11], ids=lambda row: row.id)
def test_the_oracle_rejects_a_wrong_answer(row: Row) -> None:
    right = expected(row)
    path = max(right, key=lambda path: right[path].norm().item())
    scale = right[path].abs().max(dim=0).values
    wrong = {
        "another sample": right[path].roll(1, 0),
        "a mean": right[path] / len(right[path]),
        "a last digit": right[path] + 3e-10 * scale.norm() / scale.numel() ** 0.5,
        "no number": right[path].masked_fill(
            right[path] == right[path].max(), torch.nan
        ),
    }
    for what, leaf in wrong.items():
        assert not errors({**right, path: leaf}, right)[path] <= 1e-10, what
    assert max(errors(right, right).values()) == 0
    assert_close(gram(right).diagonal().sqrt(), norms(right))
    with pytest.raises(KeyError, match=path):
        errors({}, {path: right[path]})


def test_every_row_has_a_name_of_its_own_and_no_special_numbers() -> None:
    assert len(BY_ID) == len(ROWS)
    for row in ROWS:
        if row.group == "Hugging Face":
            continue
        for path, leaf in by_path(row.make(row.dtypes[-1]).params).items():
            assert not ((leaf == 0) | (leaf == 1)).any(), (row.id, path)
