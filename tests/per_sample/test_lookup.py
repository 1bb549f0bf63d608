# SPDX-License-Identifier: Apache-2.0
"""Tables of parameters: embeddings, bags and indexing, against one backward each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab.per_sample import (
    DensePair,
    Direct,
    IndexPair,
    factors,
    grads,
    norms,
    value_and_grad,
)
from per_sample_cases._compared import curved
from per_sample_cases._oracle import one_by_one
from per_sample_cases._row import draw

BATCH, ROWS, COLUMNS, LENGTH = 3, 7, 5, 11


def ids(*shape: int, high: int = ROWS, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, shape, generator=generator)


def check(
    loss_fn: Callable[..., Tensor], params: Any, *batch: Tensor, **routes: Any
) -> None:
    """The gradients and norms are the loop's, each leaf by the routes expected."""
    expected = one_by_one(loss_fn, params, *batch)
    found = factors(loss_fn)(params, *batch)
    square = torch.zeros(batch[0].shape[0], dtype=torch.float64)
    for name, factor in found.items():
        assert [type(use) for use in factor.uses] == routes.get(name, [IndexPair]), name
        torch.testing.assert_close(
            factor.materialize(), expected[name], rtol=1e-11, atol=1e-11
        )
        square += expected[name].flatten(1).square().sum(1)
    (values, got), _ = value_and_grad(loss_fn)(params, *batch)
    torch.testing.assert_close(got, square.sqrt(), rtol=1e-11, atol=0.0)
    samples = zip(*batch, strict=True)
    losses = torch.stack([loss_fn(params, *sample) for sample in samples])
    torch.testing.assert_close(values, losses, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 2},
        {"padding_idx": -3},
        {"scale_grad_by_freq": True},
        {"scale_grad_by_freq": True, "padding_idx": 2},
        {"sparse": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_embedding(options: dict[str, Any], dtype: torch.dtype) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(F.embedding(index, params["table"], **options))

    def dense(params: Any, index: Tensor) -> Tensor:
        given = {k: v for k, v in options.items() if k != "sparse"}
        return curved(F.embedding(index, params["table"], **given))

    params = {"table": draw(ROWS, COLUMNS)}
    index = ids(BATCH, LENGTH).to(dtype)
    got = factors(loss)(params, index)["table"].materialize()
    torch.testing.assert_close(got, one_by_one(dense, params, index)["table"])
    check(dense, params, index)


LOOKUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "keywords": lambda w, i: F.embedding(weight=w, input=i, padding_idx=1),
    "torch.embedding": torch.embedding,
    "torch.embedding, no padding": lambda w, i: torch.embedding(w, i, -1),
    "torch.embedding, options": lambda w, i: torch.embedding(w, i, 2, True, False),
    "two axes of index": lambda w, i: F.embedding(i[:10].reshape(2, 5), w),
    "one integer": lambda w, i: F.embedding(i[3], w),
    "getitem": lambda w, i: w[i],
    "getitem, two axes": lambda w, i: w[i[:10].reshape(2, 5)],
    "getitem, one integer": lambda w, i: w[i[3]],
    "getitem, int32": lambda w, i: w[i.int()],
    "getitem, negative": lambda w, i: w[i - ROWS],
    "getitem, tuple": lambda w, i: w[i, :],
    "getitem, columns": lambda w, i: w[:, i[:4].clamp(max=4)],
    "getitem, columns of two axes": lambda w, i: w[:, i[:6].clamp(max=4).view(2, 3)],
    "getitem, dots": lambda w, i: w[..., i[:4].clamp(max=4)],
    "getitem, dots behind": lambda w, i: w[i, ...],
    "index_select": lambda w, i: torch.index_select(w, 0, i),
    "index_select, method": lambda w, i: w.index_select(dim=-1, index=i.clamp(max=4)),
    "positions": lambda w, i: w[torch.arange(6)] * i[:6, None],
    "twice": lambda w, i: w[i] * F.embedding(i.flip(0), w),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups(name: str) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(LOOKUPS[name](params["table"], index))

    check(loss, {"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH))


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 2, 3)], ids=str)
def test_tables_of_numbers_and_of_matrices(shape: tuple[int, ...]) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(params["table"][index])

    check(loss, {"table": draw(*shape)}, ids(BATCH, LENGTH))


OTHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "table from a table": lambda w, i: F.embedding(
        i, w.exp(), padding_idx=-2, scale_grad_by_freq=True
    ),
    "two indices": lambda w, i: w[i, i.clamp(max=4)],
    "index and slice": lambda w, i: w[i, 1:3],
    "index and new axis": lambda w, i: w[i, None],
    "list": lambda w, i: w[[2, 3, 2]] * i.sum(),
    "mask of all samples": lambda w, i: w[torch.arange(ROWS) % 2 == 0] * i.sum(),
    "gather": lambda w, i: w.gather(0, i[:5, None].expand(5, COLUMNS)),
    "take_along_dim": lambda w, i: torch.take_along_dim(w, i[:, None], 0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_indexing_is_exact(name: str) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(OTHERS[name](params["table"], index))

    params, index = {"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH)
    expected = one_by_one(loss, params, index)["table"]
    got = factors(loss)(params, index)["table"].materialize()
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", ["vmap", "loop"])
def test_other_methods(method: Any) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        words = F.embedding(index, params["table"], padding_idx=3)
        return curved(words) + curved(F.embedding_bag(index[None], params["table"]))

    params, index = {"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH)
    expected = one_by_one(loss, params, index)["table"]
    got = grads(loss, method=method)(params, index)["table"]
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_within_a_vmap_of_the_loss() -> None:
    def word(table: Tensor, i: Tensor) -> Tensor:
        one = F.embedding(i, table, padding_idx=3)
        return one * F.embedding_bag(torch.stack([i, i // 2])[None], table)[0]

    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(torch.vmap(word, (None, 0))(params["table"], index))

    def looped(params: Any, index: Tensor) -> Tensor:
        return curved(torch.stack([word(params["table"], i) for i in index]))

    params, index = {"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH)
    got = grads(loss)(params, index)["table"]
    expected = one_by_one(looped, params, index)["table"]
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_a_table_that_is_the_head_too() -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        x = F.embedding(index, params["table"], padding_idx=3)
        return curved(F.linear(torch.tanh(x), params["table"]))

    both = [DensePair, IndexPair]
    check(loss, {"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH), table=both)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return F.embedding(index, params["table"]).float().square().sum()

    table = draw(ROWS, COLUMNS).to(dtype)
    index = torch.full((BATCH, 300), 4)
    got = factors(loss)({"table": table}, index)["table"].materialize()[:, 4]
    assert got.dtype == torch.float32
    expected = (2 * table[4].float()).to(dtype).float() * 300
    torch.testing.assert_close(got, expected.expand(BATCH, -1))


BAGS: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"mode": "sum"},
    "max": {"mode": "max"},
    "mean, padding": {"padding_idx": 2},
    "sum, padding": {"mode": "sum", "padding_idx": -5},
    "max, padding": {"mode": "max", "padding_idx": 2},
}
OFFSETS = torch.tensor([[0, 2, 2, 7], [0, 0, 5, 11], [0, 3, 8, 9]])


@pytest.mark.parametrize("name", BAGS)
def test_bags_of_one_size(name: str) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(F.embedding_bag(index, params["table"], **BAGS[name]))

    index = ids(BATCH, 2, 5)
    index[0, 0] = 2  # a bag of padding alone
    check(loss, {"table": draw(ROWS, COLUMNS)}, index)


@pytest.mark.parametrize("end", [False, True], ids=["open", "end given"])
@pytest.mark.parametrize("name", BAGS)
def test_bags_by_offsets(name: str, end: bool) -> None:
    def loss(params: Any, index: Tensor, offsets: Tensor) -> Tensor:
        table, options = params["table"], BAGS[name]
        return curved(
            F.embedding_bag(index, table, offsets, include_last_offset=end, **options)
        )

    offsets = OFFSETS.clone()
    if end:
        offsets[:, -1] = LENGTH
    check(loss, {"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH), offsets)


def test_weights_of_a_bag_are_parameters_too() -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        weights = params["weights"] * index
        return curved(
            F.embedding_bag(
                index, params["table"], mode="sum", per_sample_weights=weights
            )
        )

    params = {"table": draw(ROWS, COLUMNS), "weights": draw(5, seed=6)}
    check(loss, params, ids(BATCH, 2, 5), weights=[Direct])


def test_bags_of_a_table_that_is_no_parameter() -> None:
    table = draw(ROWS, COLUMNS)

    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(params["scale"] * F.embedding_bag(index, table, mode="max"))

    check(loss, {"scale": draw(COLUMNS)}, ids(BATCH, 2, 5), scale=[Direct])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "median"}, "expected mode sum, mean or max, got 'median'"),
        ({"offsets": torch.tensor([0])}, r"\(n,\) with offsets, got \(2, 5\)"),
        ({"per_sample_weights": draw(2, 5)}, "mode 'sum', got .* 'mean'"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq: expected False, got True"),
        ({"max_norm": 2.0}, "F.embedding_bag: max_norm: expected None, got 2.0"),
    ],
    ids=["mode", "offsets", "weights", "frequency", "max_norm"],
)
def test_bags_that_torch_refuses(options: dict[str, Any], message: str) -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(F.embedding_bag(index, params["table"], **options))

    with pytest.raises(ValueError, match=message):
        norms(loss)({"table": draw(ROWS, COLUMNS)}, ids(BATCH, 2, 5))


def test_a_lookup_that_writes_is_refused() -> None:
    def loss(params: Any, index: Tensor) -> Tensor:
        return curved(F.embedding(index, params["table"], max_norm=2.0))

    with pytest.raises(
        ValueError, match=r"F\.embedding: max_norm: expected None, got 2"
    ):
        norms(loss)({"table": draw(ROWS, COLUMNS)}, ids(BATCH, LENGTH))


def test_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    calls: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "getitem": lambda w, i, o: w[i],
        "embedding": lambda w, i, o: F.embedding(i, w, 2, scale_grad_by_freq=True),
        "bag": lambda w, i, o: F.embedding_bag(i[None], w, mode="max", padding_idx=3),
        "offsets": lambda w, i, o: F.embedding_bag(i, w, o, padding_idx=-1),
    }

    def loss(params: Any, index: Tensor, offsets: Tensor) -> Tensor:
        found = [curved(calls[name](params[name], index, offsets)) for name in calls]
        return torch.stack(found).sum()

    params = {name: draw(ROWS, COLUMNS, seed=i) for i, name in enumerate(calls)}
    index = ids(BATCH, LENGTH)
    found = fl.jit(factors(loss))(params, index, OFFSETS)
    for name, expected in one_by_one(loss, params, index, OFFSETS).items():
        assert [type(use) for use in found[name].uses] == [IndexPair], name
        torch.testing.assert_close(
            found[name].materialize(), expected, rtol=1e-11, atol=1e-11
        )
