# SPDX-License-Identifier: Apache-2.0
"""Inner products between gradients against one backward pass per sample."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab import per_sample, random
from functorch_lab.per_sample import _blocks
from per_sample_cases._oracle import one_by_one

B, OTHERS = 5, 3


def draw(*shape: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def words(samples: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(11, (samples, 7), generator=generator)


def mlp(params, x, y, key=None):
    """A hidden layer, a scale that no rule knows, noise on demand."""
    if key is not None:
        x = x + random.normal(key, x.shape, x.dtype)
    h = torch.tanh(F.linear(x, params["in"]["weight"], params["in"]["bias"]))
    out = F.linear(h, params["out"]) * torch.exp(params["scale"])
    return (out - y).square().sum()


def tied(params, ids):
    """A table that is an embedding and the head, over seven positions."""
    h = torch.tanh(F.linear(F.embedding(ids[:-1], params["table"]), params["hidden"]))
    return F.cross_entropy(F.linear(h, params["table"]), ids[1:])


def long(params, x):
    """More positions than the weight has entries; one layer twice."""
    h = torch.tanh(F.linear(x, params["weight"]))
    return F.linear(h, params["weight"]).square().sum()


def convolution(params, x):
    """One kernel in two geometries, in groups."""
    h = torch.tanh(F.conv1d(x, params["kernel"], padding=1, groups=2))
    return F.conv1d(h, params["kernel"], stride=2, groups=2).square().sum()


def batches(dtype=torch.float64):
    weights = {
        "in": {
            "weight": draw(7, 3, seed=1, dtype=dtype),
            "bias": draw(7, seed=2, dtype=dtype),
        },
        "out": draw(2, 7, seed=3, dtype=dtype),
        "scale": 0.3 * draw(2, seed=4, dtype=dtype),
    }
    table = {
        "table": draw(11, 5, seed=5, dtype=dtype),
        "hidden": draw(5, 5, seed=6, dtype=dtype),
    }
    square = {"weight": 0.4 * draw(3, 3, seed=7, dtype=dtype)}
    kernel = {"kernel": 0.4 * draw(4, 2, 3, seed=19, dtype=dtype)}
    return {
        "convolution": (
            convolution,
            kernel,
            (draw(B, 4, 7, seed=20, dtype=dtype),),
            (draw(OTHERS, 4, 7, seed=21, dtype=dtype),),
        ),
        "mlp": (
            mlp,
            weights,
            (draw(B, 3, seed=8, dtype=dtype), draw(B, 2, seed=9, dtype=dtype)),
            (draw(OTHERS, 3, seed=10, dtype=dtype), draw(OTHERS, 2, seed=11)),
        ),
        "tied": (tied, table, (words(B, 12),), (words(OTHERS, 13),)),
        "long": (
            long,
            square,
            (draw(B, 29, 3, seed=14, dtype=dtype),),
            (draw(OTHERS, 29, 3, seed=15, dtype=dtype),),
        ),
    }


CASES = batches()


def rows(loss_fn, params, batch, **keys):
    """Each sample's gradient, flat, in the order of the leaves of `fl.tree`."""
    grads = one_by_one(loss_fn, params, *batch, **keys)
    return torch.cat([grads[path].flatten(1) for path in sorted(grads)], 1)


def close(got, first, second, tolerance=1e-12):
    """Relative to the norms of the two gradients."""
    scale = first.norm(dim=1).unsqueeze(1) * second.norm(dim=1)
    assert_close(got / scale, first @ second.T / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("numbers", [50, 2**24])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_gram(name, chunk_size, numbers, monkeypatch):
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    loss_fn, params, batch, other = CASES[name]
    own, others = rows(loss_fn, params, batch), rows(loss_fn, params, other)
    gram = per_sample.gram(loss_fn, chunk_size=chunk_size)
    matrix = gram(params, *batch)
    close(matrix, own, own)
    assert_close(matrix, matrix.mT, rtol=0, atol=0)
    squares = per_sample.norms(loss_fn)(params, *batch).square()
    assert_close(matrix.diagonal(), squares, rtol=1e-12, atol=0)
    close(gram(params, *batch, other=other), own, others)


@pytest.mark.parametrize("method", ["auto", "factored", "vmap", "loop"])
def test_methods_agree(method):
    loss_fn, params, batch, other = CASES["mlp"]
    own, others = rows(loss_fn, params, batch), rows(loss_fn, params, other)
    gram = per_sample.gram(loss_fn, method=method)
    close(gram(params, *batch), own, own)
    close(gram(params, *batch, other=other), own, others)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_cosine_similarity(chunk_size):
    loss_fn, params, batch, other = CASES["mlp"]
    own, others = rows(loss_fn, params, batch), rows(loss_fn, params, other)
    own, others = F.normalize(own), F.normalize(others)
    cosines = per_sample.cosine_similarity(loss_fn, chunk_size=chunk_size)
    matrix = cosines(params, *batch)
    assert_close(matrix, own @ own.T, rtol=0, atol=1e-12)
    assert_close(matrix.diagonal(), torch.ones(B).double(), rtol=0, atol=0)
    assert_close(matrix, matrix.mT, rtol=0, atol=0)
    found = cosines(params, *batch, other=other)
    assert_close(found, own @ others.T, rtol=0, atol=1e-12)


def test_cosines_of_a_zero_gradient_are_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    cosines = per_sample.cosine_similarity(lambda w, x: (w * x).sum())
    expected = torch.tensor([[1.0, 0.0, -0.8], [0.0, 0.0, 0.0], [-0.8, 0.0, 1.0]])
    w = torch.tensor([2.0, 3.0])
    assert_close(cosines(w, x), expected)
    assert_close(cosines(w, x, other=(x[1:],)), expected[:, 1:])


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_cosines_of_small_and_large_gradients(scale):
    x = scale * torch.tensor([[3.0, 4.0], [4.0, 3.0]])
    cosines = per_sample.cosine_similarity(lambda w, x: (w * x).sum())
    expected = torch.tensor([[1.0, 0.96], [0.96, 1.0]])
    assert_close(cosines(torch.tensor([2.0, 3.0]), x), expected)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_masked_samples_have_zero_products(chunk_size):
    loss_fn, params, batch, other = CASES["mlp"]
    mask = torch.tensor([True, False, True, True, False])
    other_mask = torch.tensor([False, True, True])
    bad = (torch.where(mask[:, None], batch[0], torch.nan), batch[1])
    own = rows(loss_fn, params, batch) * mask[:, None]
    others = rows(loss_fn, params, other) * other_mask[:, None]
    gram = per_sample.gram(loss_fn, chunk_size=chunk_size)
    found = gram(params, *bad, mask=mask)
    assert_close(found, own @ own.T, rtol=1e-12, atol=1e-9)
    found = gram(params, *bad, mask=mask, other=other, other_mask=other_mask)
    assert_close(found, own @ others.T, rtol=1e-12, atol=1e-9)
    v = fl.tree.map(torch.ones_like, params)
    products = per_sample.inner_products(loss_fn, chunk_size=chunk_size)
    found = products(params, *bad, mask=mask, tree=v)
    assert_close(found, own.sum(1), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_keys_of_both_batches(chunk_size):
    loss_fn, params, batch, other = CASES["mlp"]
    keys, other_keys = (random.split(random.key(i), n) for i, n in ((3, B), (5, 3)))
    own = rows(loss_fn, params, batch, keys=keys)
    others = rows(loss_fn, params, other, keys=other_keys)
    gram = per_sample.gram(loss_fn, chunk_size=chunk_size)
    close(gram(params, *batch, keys=keys), own, own)
    found = gram(params, *batch, keys=keys, other=other, other_keys=other_keys)
    close(found, own, others)


def test_auxiliary_output_is_that_of_the_batch():
    def with_aux(params, x, y):
        return mlp(params, x, y), {"x": x}

    _, params, batch, other = CASES["mlp"]
    for chunk_size in (None, 2):
        options = {"has_aux": True, "chunk_size": chunk_size}
        for made in (per_sample.gram, per_sample.cosine_similarity):
            f = made(with_aux, **options)
            expected = made(mlp)(params, *batch)
            found, aux = f(params, *batch)
            assert_close((found, aux["x"]), (expected, batch[0]))
            found, aux = f(params, *batch, other=other)
            expected = made(mlp)(params, *batch, other=other)
            assert_close((found, aux["x"]), (expected, batch[0]))
        found, aux = per_sample.inner_products(with_aux, **options)(
            params, *batch, tree=params
        )
        expected = per_sample.inner_products(mlp)(params, *batch, tree=params)
        assert_close((found, aux["x"]), (expected, batch[0]))


def test_samples_with_a_batch_axis():
    def batched(params, x, y):
        out = torch.stack([mlp(params, *pair) for pair in zip(x, y, strict=True)])
        return out.sum()

    _, params, batch, other = CASES["mlp"]
    own, others = rows(mlp, params, batch), rows(mlp, params, other)
    gram = per_sample.gram(batched, keep_batch_axis=True)
    close(gram(params, *batch, other=other), own, others)
    products = per_sample.inner_products(batched, keep_batch_axis=True)
    v = torch.cat([leaf.flatten() for leaf in fl.tree.leaves(params)])
    assert_close(products(params, *batch, tree=params), own @ v)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("name", CASES)
def test_inner_products(name, chunk_size):
    loss_fn, params, batch, _ = CASES[name]
    v = fl.tree.map(lambda leaf: draw(*leaf.shape, seed=17), params)
    flat = torch.cat([leaf.flatten() for leaf in fl.tree.leaves(v)])
    own = rows(loss_fn, params, batch)
    found = per_sample.inner_products(loss_fn, chunk_size=chunk_size)(
        params, *batch, tree=v
    )
    scale = own.norm(dim=1) * flat.norm()
    assert_close(found / scale, own @ flat / scale, rtol=0, atol=1e-12)


def test_leaves_that_count():
    _, params, batch, _ = CASES["mlp"]
    params = {**params, "steps": torch.tensor(3)}

    def loss_fn(params, x, y):
        return mlp(params, x, y) * params["steps"]

    def expected(v):
        return per_sample.inner_products(loss_fn)(params, *batch, tree=v)

    hole = fl.tree.map(lambda _: (), params)
    first = {**hole, "in": {"weight": params["in"]["weight"], "bias": ()}}
    second = {**hole, "out": params["out"], "steps": params["steps"]}
    whole = {**params, "steps": ()}
    by_wrt = per_sample.inner_products(loss_fn, wrt="in.weight")
    assert_close(by_wrt(params, *batch, tree=whole), expected(first))
    rest = {**whole, "in": {**params["in"], "weight": ()}, "out": ()}
    parts = [expected(tree) for tree in (first, second, rest)]
    assert_close(sum(parts), expected(whole))
    gram = per_sample.gram(loss_fn, wrt="in.weight")(params, *batch)
    grads = per_sample.grads(loss_fn, wrt="in.weight")(params, *batch)
    flat = grads["in"]["weight"].flatten(1)
    close(gram, flat, flat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_and_single_precision(name, dtype):
    loss_fn, params, batch, _ = batches(dtype)[name]
    matrix = per_sample.gram(loss_fn)(params, *batch)
    assert matrix.dtype == torch.float32
    grads = per_sample.grads(loss_fn)(params, *batch)
    flat = torch.cat([g.double().flatten(1) for g in fl.tree.leaves(grads)], 1)
    close(matrix.double(), flat, flat, 1e-6 if dtype == torch.float32 else 1e-2)
    products = per_sample.inner_products(loss_fn)(params, *batch, tree=params)
    assert products.dtype == torch.float32


def equal_when_traced(f, *args):
    assert_close(fl.jit(f)(*args), f(*args))


def linear(w, x):
    return torch.tanh(F.linear(x, w)).sum()


SMALL = (CASES["mlp"][1]["out"], draw(3, 7, seed=18))


def test_gram_traces_in_one_graph(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    loss_fn, params, batch, _ = CASES["tied"]
    equal_when_traced(per_sample.gram(loss_fn), params, *batch)


def test_compiles():
    def both(w, x):
        products = per_sample.inner_products(linear)
        return per_sample.gram(linear)(w, x), products(w, x, tree=w)

    equal_when_traced(both, *SMALL)


def test_derivative_of_a_gram_matrix():
    loss_fn, params, batch, _ = CASES["mlp"]

    def alignment(params, method):
        gram = per_sample.gram(loss_fn, method=method)
        return gram(params, *batch).sum()

    found = fl.grad(lambda params: alignment(params, "auto"))(params)
    assert_close(found, fl.grad(lambda params: alignment(params, "vmap"))(params))


def wrong(made, message, error: type[Exception] = ValueError, **given):
    loss_fn, params, batch, _ = CASES["mlp"]
    with pytest.raises(error, match=message):
        made(loss_fn)(params, *batch, **given)


@pytest.mark.parametrize("made", [per_sample.gram, per_sample.cosine_similarity])
def test_wrong_second_batches(made):
    x, y = CASES["mlp"][3]
    name = rf"per_sample\.{made.__name__}: "
    keys = random.split(random.key(0), B)
    wrong(made, name + "other: expected a tuple .* float64", TypeError, other=x)
    wrong(made, name + "other: expected 2 elements .* got 1", other=(x,))
    wrong(made, name + "other_mask: expected None .* bool", other_mask=x > 0)
    wrong(made, name + "other_keys: expected None .* int32", other_keys=keys)
    wrong(made, name + "other_keys: expected keys", other=(x, y), keys=keys)
    wrong(made, name + "keys: expected keys", other=(x, y), other_keys=keys[:3])
    wrong(made, name + r"other: batch: .* 3 at .*\[0\] and 2", other=(x, y[:2]))


def test_wrong_trees():
    made, params = per_sample.inner_products, CASES["mlp"][1]
    name = r"per_sample\.inner_products: tree: "
    turned = {**params, "out": params["out"].T}
    wrong(made, name + r".* \(2, 7\), got \(7, 2\) at \['out'\]", tree=turned)
    whole = {**params, "scale": torch.tensor([1, 2])}
    wrong(made, name + r".* int64.* at \['scale'\]", TypeError, tree=whole)
    number = {**params, "scale": 2.0}
    wrong(made, name + r".* got .*float.* at \['scale'\]", TypeError, tree=number)
    fewer = {"in": params["in"], "out": params["out"]}
    wrong(made, r"inner_products: tree and params differ .*scale", tree=fewer)
    hole = fl.tree.map(lambda _: (), params)
    wrong(made, name + r".* holes at \['in'\]\['bias'\], ", tree=hole)
