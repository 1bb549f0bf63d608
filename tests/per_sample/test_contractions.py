# SPDX-License-Identifier: Apache-2.0
"""Every contraction of factors, with each option, against the gradients themselves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree

import functorch_lab as fl
from functorch_lab import per_sample
from per_sample_cases import by_path
from per_sample_losses import (
    COUNT,
    MASK,
    WEIGHTS,
    batch,
    flat,
    gradients,
    loss_fn,
    mlp_loss_fn,
    mlp_params,
    noisy_loss_fn,
    padded,
    params,
    rows,
    with_aux,
)

Named = dict[str, Tensor]


class Row(NamedTuple):
    """A function, its results by name, and what they should be.

    Results whose names begin with "each" have an axis of samples. `expected` gets the
    gradients by path, the losses and the weights of the samples that count.
    """

    make: Callable[..., Any]
    named: Callable[[Any], Named]
    expected: Callable[[Named, Tensor, Tensor], Named]
    wraps: Callable[[Any, Any], Any] = lambda result, aux: (result, aux)


def each(grads: Any) -> Named:
    return {f"each {path}": leaf for path, leaf in by_path(grads).items()}


def norms(grads: Named) -> Tensor:
    return flat(grads).norm(dim=1)


def clipped(grads: Named, values: Tensor, weights: Tensor) -> Named:
    lengths = norms(grads)
    scales = (8.0 / lengths).clamp(max=1)
    return {
        **weighted(grads, scales),
        "each value": values,
        "each norm": lengths,
        "fraction": (lengths > 8.0).double().mean(),
        "non-finite": torch.tensor(0),
    }


def weighted(grads: Named, weights: Tensor) -> Named:
    return {p: torch.tensordot(weights, leaf, 1) for p, leaf in grads.items()}


ROWS = {
    "factors": Row(
        per_sample.factors,
        lambda got: each(
            _pytree.tree_map(
                lambda factor: factor.materialize(),
                got,
                is_leaf=lambda node: isinstance(node, per_sample.Factor),
            )
        ),
        lambda grads, values, weights: each(grads),
    ),
    "grads": Row(per_sample.grads, each, lambda grads, values, weights: each(grads)),
    "values_and_grads": Row(
        per_sample.values_and_grads,
        lambda got: {"each value": got[0], **each(got[1])},
        lambda grads, values, weights: {"each value": values, **each(grads)},
        lambda result, aux: ((result[0], aux), result[1]),
    ),
    "value_and_grad": Row(
        per_sample.value_and_grad,
        lambda got: {
            "each value": got[0][0],
            "each norm": got[0][1],
            **by_path(got[1]),
        },
        lambda grads, values, weights: {
            "each value": values,
            "each norm": norms(grads),
            **{path: leaf.mean(0) for path, leaf in grads.items()},
        },
        lambda result, aux: ((*result[0], aux), result[1]),
    ),
    "norms": Row(
        per_sample.norms,
        lambda got: {"each": got},
        lambda grads, values, weights: {"each": norms(grads)},
    ),
    "norms per leaf": Row(
        lambda loss, **options: per_sample.norms(loss, per="leaf", **options),
        each,
        lambda grads, values, weights: each(
            {path: norms({path: leaf}) for path, leaf in grads.items()}
        ),
    ),
    "squared_norms per group": Row(
        lambda loss, **options: per_sample.squared_norms(
            loss, per={"maps": "*deep.??*", "all": "*"}, **options
        ),
        each,
        lambda grads, values, weights: each(
            {
                "maps": norms({p: g for p, g in grads.items() if "deep" in p}) ** 2,
                "all": norms(grads) ** 2,
            }
        ),
    ),
    "weighted_sum": Row(
        per_sample.weighted_sum,
        by_path,
        lambda grads, values, weights: weighted(grads, weights),
    ),
    "clipped_sum": Row(
        lambda loss, **options: per_sample.clipped_sum(loss, max_norm=8.0, **options),
        lambda got: {
            **by_path(got.sum),
            "each value": got.values,
            "each norm": got.norms,
            "fraction": got.clip_fraction,
            "non-finite": got.non_finite,
        },
        clipped,
    ),
    "second_moment": Row(
        per_sample.second_moment,
        by_path,
        lambda grads, values, weights: {
            path: leaf.square().mean(0) for path, leaf in grads.items()
        },
    ),
    "variance": Row(
        per_sample.variance,
        by_path,
        lambda grads, values, weights: {
            path: leaf.var(0) for path, leaf in grads.items()
        },
    ),
}
rows_of_table = pytest.mark.parametrize("name", ROWS)
IN_CHUNKS = [name for name in ROWS if name != "factors"]
WAYS: dict[str, dict[str, Any]] = {
    "factored": {},
    "vmap": {"method": "vmap"},
    "loop": {"method": "loop"},
    "chunks": {"chunk_size": 3},
}


def call(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    if name == "weighted_sum":
        kwargs["weights"] = WEIGHTS.to(args[0]["words"].dtype)
    return function(*args, **kwargs)


def losses(function: Any, tree: Any, inputs: Any, keys: Any = None) -> Tensor:
    named = [{} if keys is None else {"key": keys[i]} for i in range(len(inputs[0]))]
    return torch.stack(
        [
            function(tree, *[leaf[i] for leaf in inputs], **named[i])
            for i in range(len(inputs[0]))
        ]
    )


def spread(expected: Named, mask: Tensor) -> Named:
    """Zeros for the masked samples."""

    def full(leaf: Tensor) -> Tensor:
        return leaf.new_zeros(COUNT, *leaf.shape[1:]).index_put((mask,), leaf)

    return {k: full(v) if k.startswith("each") else v for k, v in expected.items()}


def check(got: Named, expected: Named, tolerance: float = 1e-12) -> None:
    assert got.keys() == expected.keys()
    for path, wanted in expected.items():
        scale = wanted.abs().max().item()
        dtype = got[path].dtype if wanted.is_floating_point() else wanted.dtype
        assert_close(
            got[path].to(torch.float64) if wanted.is_floating_point() else got[path],
            wanted if wanted.is_floating_point() else wanted.to(dtype),
            rtol=0,
            atol=tolerance * scale,
            msg=lambda text, path=path: f"{path}: {text}",
        )


@pytest.mark.parametrize(
    ("name", "way"),
    [(n, way) for n in ROWS for way in WAYS if n in IN_CHUNKS or way != "chunks"],
)
def test_contractions_equal_those_of_the_gradients(name, way):
    row, tree, inputs = ROWS[name], params(), batch()
    got = call(name, row.make(loss_fn, **WAYS[way]), tree, *inputs)
    grads = gradients(loss_fn, tree, inputs)
    values = losses(loss_fn, tree, inputs)
    check(row.named(got), row.expected(grads, values, WEIGHTS.double()))


@pytest.mark.parametrize(
    ("name", "chunk_size"), [*((n, None) for n in ROWS), *((n, 2) for n in IN_CHUNKS)]
)
def test_padding_of_any_kind_does_not_count(name, chunk_size):
    options = {} if chunk_size is None else {"chunk_size": chunk_size}
    row, tree = ROWS[name], params()
    got = call(name, row.make(loss_fn, **options), tree, *padded(batch()), mask=MASK)
    real = rows(MASK, batch())
    grads, values = gradients(loss_fn, tree, real), losses(loss_fn, tree, real)
    expected = row.expected(grads, values, WEIGHTS.double()[MASK])
    check(row.named(got), spread(expected, MASK))


@rows_of_table
def test_frozen_leaves_are_holes(name):
    row, tree, inputs = ROWS[name], params(), batch()
    tree["steps"] = torch.tensor(3)
    got = call(name, row.make(loss_fn, wrt="deep.*"), tree, *inputs)
    del tree["steps"]
    grads = gradients(loss_fn, tree, inputs)
    grads = {path: leaf for path, leaf in grads.items() if path.startswith("deep")}
    values = losses(loss_fn, tree, inputs)
    check(row.named(got), row.expected(grads, values, WEIGHTS.double()))


@rows_of_table
def test_keys_and_aux_and_batch_axis(name):
    row, tree, inputs = ROWS[name], params(), batch()
    keys = fl.random.split(fl.random.key(3), COUNT)
    function = row.make(with_aux(noisy_loss_fn), has_aux=True, keep_batch_axis=True)
    got = call(name, function, tree, *inputs, keys=keys)
    values = losses(noisy_loss_fn, tree, [leaf[:, None] for leaf in inputs], keys)
    wrapped = row.wraps("result " * 3, "aux")
    aux = got[1] if wrapped[1] == "aux" else got[0][-1]
    assert_close(aux["twice"], 2 * values)
    assert aux["sizes"][0].tolist() == [3] * COUNT
    assert aux["sizes"][1] is None
    bare = per_sample_result(row, got)
    grads = gradients(noisy_loss_fn, tree, inputs, keys=keys, keep_batch_axis=True)
    check(row.named(bare), row.expected(grads, values, WEIGHTS.double()))


def per_sample_result(row: Row, got: Any) -> Any:
    """The result without its aux."""
    if row.make is per_sample.value_and_grad:
        return got[0][:-1], got[1]
    if row.make is per_sample.values_and_grads:
        return got[0][0], got[1]
    return got[0]


@pytest.mark.parametrize("name", IN_CHUNKS)
def test_aux_of_chunks_is_joined(name):
    row, tree, inputs = ROWS[name], params(), batch()
    function = row.make(with_aux(loss_fn), has_aux=True, chunk_size=3)
    got = call(name, function, tree, *inputs)
    aux = got[0][-1] if "value" in name else got[1]
    assert_close(aux["twice"], 2 * losses(loss_fn, tree, inputs))
    assert aux["sizes"][0].tolist() == [3] * COUNT
    assert aux["sizes"][1] is None


@rows_of_table
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_are_accumulated_in_float32(name, dtype):
    row, tree, inputs = ROWS[name], params(), batch()
    tree = _pytree.tree_map(lambda leaf: leaf.to(dtype), tree)
    inputs = (inputs[0], inputs[1].to(dtype), inputs[2])
    got = row.named(call(name, row.make(loss_fn), tree, *inputs))
    wide = _pytree.tree_map(torch.Tensor.double, tree)
    exact = (inputs[0], inputs[1].double(), inputs[2])
    grads, values = gradients(loss_fn, wide, exact), losses(loss_fn, wide, exact)
    weights = WEIGHTS.to(dtype).double()
    expected = row.expected(grads, values, weights)
    if dtype == torch.float32:
        check(got, expected, 1e-5)
    else:
        grad_like = name in ("grads", "values_and_grads", "value_and_grad")
        for path, leaf in got.items():
            if not expected[path].is_floating_point():
                continue
            kept = dtype if path == "each value" else torch.float32
            if grad_like and path not in ("each value", "each norm"):
                kept = dtype
            assert leaf.dtype == kept, path
            difference = (leaf.double() - expected[path]).norm()
            assert difference <= 0.1 * expected[path].norm(), path


def test_traced_equals_eager(monkeypatch):
    # Not all rows, each of which takes seconds: other files trace the other functions.
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    tree, inputs = mlp_params(), padded(batch()[1:2])

    def loss_fn(params: Any, x: Tensor) -> Tensor:
        return F.linear(x, params["up"], params["bias"]).square().sum()

    functions = [
        per_sample.norms(loss_fn, per={"all": "*", "up": "u*"}, wrt="up"),
        per_sample.variance(loss_fn, chunk_size=4, wrt="up"),
    ]

    def whole(tree: Any, *inputs: Any, mask: Tensor, weights: Tensor) -> Any:
        total = per_sample.weighted_sum(loss_fn, wrt="up")
        return [
            *[function(tree, *inputs, mask=mask) for function in functions],
            total(tree, *inputs, mask=mask, weights=weights),
        ]

    more = {"mask": MASK, "weights": WEIGHTS}
    got, eager = fl.jit(whole)(tree, *inputs, **more), whole(tree, *inputs, **more)
    assert fl.tree.structure(got) == fl.tree.structure(eager)
    assert_close(fl.tree.leaves(got), fl.tree.leaves(eager))


# The groups of the row that is left out are of the other params.
@pytest.mark.parametrize("name", [n for n in ROWS if "per group" not in n])
def test_one_position_and_one_sample_each(name):
    row, tree = ROWS[name], mlp_params()
    x = batch()[1][:, 0]
    function = row.make(mlp_loss_fn)
    more = {"weights": WEIGHTS.double()} if name == "weighted_sum" else {}
    got = function(tree, x, **more)
    grads, values = gradients(mlp_loss_fn, tree, (x,)), losses(mlp_loss_fn, tree, (x,))
    check(row.named(got), row.expected(grads, values, WEIGHTS.double()))
