# SPDX-License-Identifier: Apache-2.0
"""Random projections of gradients: one linear map, whatever the loss does."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab import per_sample, random
from functorch_lab.per_sample import DensePair, Factor, _blocks, _kronecker
from functorch_lab.per_sample._frame import Frame
from per_sample_cases._oracle import one_by_one

B = 5
KEY = random.key(3)


def draw(*shape: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


PARAMS = {
    "bias": draw(7, seed=1),
    "many": 0.3 * draw(2, 3, 5, seed=2),
    "number": draw(seed=3),
    "steps": torch.tensor(2),
    "table": 0.3 * draw(13, 5, seed=4),
    "weight": 0.3 * draw(7, 5, seed=5),
}
WORDS = torch.randint(13, (B, 4), generator=torch.Generator().manual_seed(6))
INPUTS = draw(B, 4, 5, seed=7)


def layers(params, words, x):
    """A tied table, a layer with a bias, a number that no rule knows."""
    h = F.embedding(words, params["table"]) + x
    h = torch.tanh(F.linear(h, params["weight"], params["bias"]))
    h = F.linear(h, params["weight"].T) * torch.exp(params["number"])
    return F.cross_entropy(F.linear(h, params["table"]), words) * params["steps"]


def parts(params, words, x):
    """Leaves sliced, split, turned and indexed."""
    weight, many = params["weight"], params["many"]
    top = F.linear(x, weight[1:4]).square().sum()
    turned = torch.tanh(F.linear(x[:, 1:4], weight[:, 2:5])) @ weight
    heads = torch.einsum("td,hkd->htk", x, many).square().sum()
    one = torch.tanh(F.linear(x, many[1])).sum()
    flat = F.linear(x, many.reshape(6, 5)).square().sum() + many[0, 2].exp().sum()
    rows = F.embedding(words % 3, weight[4:]).square().sum()
    return top + turned.square().sum() + heads + one + flat + rows


def convolution(params, words, x):
    """A convolution over positions, in groups, and its weight by itself."""
    out = F.conv1d(x.T[:4], params["many"][:, :2, :3], groups=2)
    whole = F.conv1d(x[:3], params["many"], padding=1)
    return out.square().sum() + torch.tanh(whole).sum() + params["many"].exp().sum()


LOSSES = {"layers": layers, "parts": parts, "convolution": convolution}


def rows(loss_fn):
    """Each sample's gradient, flat, by a backward pass of its own."""
    grads = one_by_one(loss_fn, PARAMS, WORDS, INPUTS)
    return torch.cat([leaf.reshape(B, -1) for leaf in grads.values()], 1)


def matrix(dim, **options):
    """The projection as a matrix `(numbers, dim)`: of gradients that are a basis."""
    kept = {name: leaf for name, leaf in PARAMS.items() if leaf.is_floating_point()}
    basis = torch.eye(sum(leaf.numel() for leaf in kept.values())).double()
    batch = dict(
        zip(
            kept,
            [
                part.unflatten(1, leaf.shape) if leaf.ndim else part[:, 0]
                for leaf, part in zip(
                    kept.values(),
                    basis.split([leaf.numel() for leaf in kept.values()], 1),
                    strict=True,
                )
            ],
            strict=True,
        )
    )

    def loss_fn(params, x):
        return sum((params[name] * x[name]).sum() for name in x)

    return per_sample.project(loss_fn, KEY, dim, **options)(PARAMS, batch)


@pytest.mark.parametrize("numbers", [10, 2**24])
@pytest.mark.parametrize("dim", [1, 2, 7, 16, 29, 64, 512])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_projection_of_whole_gradients(name, dim, numbers, monkeypatch):
    expected = rows(LOSSES[name]) @ matrix(dim)
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    found = per_sample.project(LOSSES[name], KEY, dim)(PARAMS, WORDS, INPUTS)
    assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [{"method": "loop"}, {"method": "vmap"}])
def test_methods_agree(options):
    expected = rows(layers) @ matrix(16)
    found = per_sample.project(layers, KEY, 16, **options)(PARAMS, WORDS, INPUTS)
    assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_options():
    expected = rows(layers) @ matrix(16)

    def with_aux(params, words, x):
        return layers(params, words[0], x[0]), x

    project = per_sample.project(
        with_aux, KEY, 16, chunk_size=2, has_aux=True, keep_batch_axis=True
    )
    mask = torch.tensor([True, False, True, True, False])
    inputs = torch.where(mask.reshape(-1, 1, 1), INPUTS, torch.nan)
    found, aux = project(PARAMS, WORDS, inputs, mask=mask)
    assert_close(found, expected * mask[:, None], rtol=1e-11, atol=1e-11)
    assert_close(aux[:, 0], inputs, equal_nan=True)


def test_losses_with_keys():
    def noisy(params, x, key):
        return (params["weight"] * random.normal(key, (7, 5), x.dtype)).sum() * x.sum()

    keys = random.split(random.key(4), B)
    noise = torch.stack([random.normal(key, (7, 5), torch.float64) for key in keys])
    gradients = noise.flatten(1) * INPUTS.sum((1, 2))[:, None]
    found = per_sample.project(noisy, KEY, 8)(PARAMS, INPUTS, keys=keys)
    assert_close(found, gradients @ matrix(8)[-35:])


def test_a_leaf_is_projected_alike_whatever_else_is():
    found = [
        per_sample.project(layers, KEY, 16, wrt=wrt)(PARAMS, WORDS, INPUTS)
        for wrt in ("weight", "table", "bias", "number")
    ]
    expected = rows(layers) @ matrix(16)
    assert_close(sum(found), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dim", [7, 16, 29])
def test_entries(dim):
    signs = matrix(dim)
    assert_close(signs.abs(), torch.full_like(signs, dim**-0.5))
    columns = signs[1:].T / signs[:1].T  # which differ, and do so for each leaf
    assert len(torch.unique(columns, dim=1).T) > 30
    normal = matrix(dim, distribution="normal")
    assert normal.unique().numel() > 30 * dim


@pytest.mark.parametrize("shape", [(7, 5), (41,), (3, 2, 5), (2, 60)])
@pytest.mark.parametrize("dim", [16, 23])
@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
def test_inner_products_are_unbiased(distribution, dim, shape):
    gradients = draw(2, *shape, seed=8) + 0.5
    keys = random.split(random.key(5), 3000)
    made = _kronecker.DRAWS[distribution]
    factor = Factor((per_sample.Direct(gradients),))

    def products(key):
        sketch = _kronecker.projection(key, gradients[0], dim, made).of(factor)
        return sketch @ sketch.T

    found = fl.vmap(products)(keys)
    error = found.std(0) / len(keys) ** 0.5
    flat = gradients.flatten(1)
    off = (found.mean(0) - flat @ flat.T) / error
    assert_close(off, torch.zeros_like(off), rtol=0, atol=4)
    scale = flat.norm(dim=1)
    assert_close(
        error / scale / scale[:, None], torch.zeros(2, 2).double(), rtol=0, atol=0.03
    )


@pytest.mark.parametrize("positions", [1, 9])
def test_variance_with_normal_entries(positions):
    frame = Frame((7, 5), (7, 5), (0, 0), (7, 5), (), (0,), (1,))
    left, right = draw(1, 1, positions, 7, seed=9), draw(1, 1, positions, 5, seed=10)
    factor = Factor((DensePair(left, right, frame),))
    keys = random.split(random.key(6), 40_000)

    def square(key):
        leaf = torch.zeros(7, 5).double()
        made = _kronecker.projection(key, leaf, 16, _kronecker.normals)
        return made.of(factor).square().sum()

    found = fl.vmap(square)(keys) / factor.squared_norm()
    gradient = (left[0, 0].T @ right[0, 0]).double()
    spread = (gradient @ gradient.T).norm() ** 2 / gradient.norm() ** 4
    expected = 2 / 16 + 2 * spread * (1 / 4 + 1 / 4 + 1 / 16)
    assert_close(found.mean(), torch.tensor(1.0).double(), rtol=0, atol=0.02)
    assert_close(found.var(), expected, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("leaf", "dim", "expected"),
    [
        ((7, 5), 16, (7, 5, 4, 4)),
        ((7, 5), 17, (7, 5, 4, 5)),
        ((7, 5), 30, (7, 5, 6, 5)),
        ((2, 60), 100, (2, 60, 2, 50)),
        ((2, 60), 119, (2, 60, 2, 60)),
        ((2, 60), 120, (1, 120, 1, 120)),
        ((60, 2), 100, (60, 2, 50, 2)),
        ((3, 5, 7), 64, (3, 35, 3, 22)),
        ((41,), 16, (1, 41, 1, 16)),
        ((), 16, (1, 1, 1, 16)),
    ],
)
def test_sizes(leaf, dim, expected):
    assert _kronecker.sizes(leaf, dim) == expected


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projections_do_not_depend_on_the_dtype(dtype, distribution):
    params = fl.tree.map(
        lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, PARAMS
    )
    project = per_sample.project(layers, KEY, 16, distribution=distribution)
    found = project(params, WORDS, INPUTS.to(dtype))
    assert found.dtype == torch.float32
    grads = per_sample.grads(layers)(params, WORDS, INPUTS.to(dtype))
    leaves = [g for g in fl.tree.leaves(grads) if g.numel()]
    flat = torch.cat([g.double().reshape(B, -1) for g in leaves], 1)
    expected = flat @ matrix(16, distribution=distribution)
    scale = flat.norm(dim=1, keepdim=True)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    assert_close(
        found / scale, expected / scale, rtol=0, atol=tolerance, check_dtype=False
    )


def test_traces_in_one_graph(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")

    def sketch(key, weight, x):
        def loss_fn(weight, x):
            return torch.tanh(F.linear(x, weight)).sum()

        project = per_sample.project(
            loss_fn, key, 16, distribution="normal", chunk_size=3
        )
        return project(weight, x)

    args = (KEY, PARAMS["weight"], INPUTS)
    assert_close(fl.jit(sketch)(*args), sketch(*args))


def test_wrong_arguments():
    def wrong(error, message, *args, **options):
        with pytest.raises(error, match=rf"per_sample\.project: {message}"):
            per_sample.project(layers, *args, **options)

    wrong(TypeError, "key: expected one key, got int", 3, 16)
    wrong(TypeError, r"key: .* \(2,\) of float32", torch.tensor([0.5, 1.5]), 16)
    wrong(TypeError, r"key: .* \(3, 2\) of int32", random.split(KEY, 3), 16)
    wrong(TypeError, "dim: expected an integer, got float", KEY, 16.0)
    wrong(ValueError, "dim: expected at least 1, got 0", KEY, 0)
    wrong(ValueError, "distribution: .* got 'sparse'", KEY, 16, distribution="sparse")
    wrong(ValueError, "method: .* got 'fast'", KEY, 16, method="fast")
