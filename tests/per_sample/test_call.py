# SPDX-License-Identifier: Apache-2.0
"""The calling convention, inside other transforms and out, against torch.autograd."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab import per_sample, tree
from per_sample_cases import Case, oracle
from per_sample_cases._oracle import norms as norms_of
from per_sample_cases._oracle import one_by_one
from per_sample_cases._row import draw

METHODS: list[Any] = ["auto", "vmap", "loop"]


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")


PARAMS = {
    "b": draw(3, seed=1),
    "scale": draw(3, seed=2),
    "w": draw(3, 5, seed=3),
}
X, Y = draw(7, 2, 5, seed=4), draw(7, 3, seed=5)
WEIGHTS = draw(7, seed=6)


def plain(params: Any, x: Tensor, y: Tensor) -> Tensor:
    z = F.linear(x, params["w"], params["b"]).tanh() * params["scale"]
    return (z - y).square().sum() + F.linear(x[0], params["w"]).exp().sum()


def with_gradient(params: Any, x: Tensor, y: Tensor) -> Tensor:
    """A loss with a derivative in it, by fl.grad."""

    def inner(x: Tensor) -> Tensor:
        return (F.linear(x, params["w"], params["b"]).tanh() * params["scale"]).sum()

    return fl.grad(inner)(x).square().sum() + plain(params, x, y)


def with_tangent(params: Any, x: Tensor, y: Tensor) -> Tensor:
    """A loss with a directional derivative in it."""

    def inner(x: Tensor) -> Tensor:
        return F.linear(x, params["w"], params["b"]).tanh() * params["scale"]

    return fl.jvp(inner, (x,), (2 * x,))[1].square().sum() + plain(params, x, y)


def with_vmap(params: Any, x: Tensor, y: Tensor) -> Tensor:
    """A loss that maps over an axis of its own."""
    z = fl.vmap(lambda row: F.linear(row, params["w"], params["b"]).tanh())(x)
    return (z * params["scale"] - y).square().sum() + plain(params, x, y)


def by_autograd(params: Any, x: Tensor, y: Tensor) -> Tensor:
    """`with_gradient` by torch.autograd alone."""
    x = x.clone().requires_grad_()
    value = (F.linear(x, params["w"], params["b"]).tanh() * params["scale"]).sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    return slope.square().sum() + plain(params, x, y)


def tangent_by_hand(params: Any, x: Tensor, y: Tensor) -> Tensor:
    z = F.linear(x, params["w"], params["b"]).tanh()
    slope = (1 - z.square()) * F.linear(2 * x, params["w"]) * params["scale"]
    return slope.square().sum() + plain(params, x, y)


def mapped_by_hand(params: Any, x: Tensor, y: Tensor) -> Tensor:
    z = F.linear(x, params["w"], params["b"]).tanh() * params["scale"]
    return (z - y).square().sum() + plain(params, x, y)


def variables(params: Any) -> Any:
    return tree.map(lambda leaf: leaf.detach().clone().requires_grad_(), params)


def close(got: Any, expected: Any) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


LOSSES = {
    "plain": (plain, plain),
    "grad within": (with_gradient, by_autograd),
    "jvp within": (with_tangent, tangent_by_hand),
    "vmap within": (with_vmap, mapped_by_hand),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_norms(name: str, method: Any) -> None:
    loss, reference = LOSSES[name]
    expected = one_by_one(reference, PARAMS, X, Y)
    close(per_sample.grads(loss, method=method)(PARAMS, X, Y), expected)
    close(per_sample.norms(loss, method=method)(PARAMS, X, Y), norms_of(expected))


def test_norms_of_a_loss_with_a_derivative_in_jit() -> None:
    expected = one_by_one(by_autograd, PARAMS, X, Y)
    norms = fl.jit(per_sample.norms(with_gradient))
    close(norms(PARAMS, X, Y), norms_of(expected))


@pytest.mark.parametrize(
    ("method", "jits"),
    [("auto", False), ("auto", True), ("vmap", False), ("loop", False)],
)
def test_gradient_of_norms(method: Any, jits: bool) -> None:
    def penalty(params: Any, x: Tensor) -> Tensor:
        norms = per_sample.norms(plain, method=method)(params, x, Y)
        return (norms * WEIGHTS).sum()

    leaves, x = variables(PARAMS), X.clone().requires_grad_()
    norms = norms_of(oracle(Case(leaves, plain, (x, Y)), graph=True))
    expected = torch.autograd.grad((norms * WEIGHTS).sum(), [*leaves.values(), x])
    function = fl.grad(penalty, argnums=(0, 1))
    grads, slope = (fl.jit(function) if jits else function)(PARAMS, X)
    close([*grads.values(), slope], list(expected))


@pytest.mark.parametrize("jits", [False, True], ids=["eager", "jit"])
def test_an_ensemble(jits: bool) -> None:
    members = [tree.map(lambda leaf, f=f: f * leaf, PARAMS) for f in (0.5, -1.5)]
    norms = fl.vmap(per_sample.norms(plain), in_dims=(0, None, None))
    got = (fl.jit(norms) if jits else norms)(tree.stack(members), X, Y)
    expected = [norms_of(one_by_one(plain, m, X, Y)) for m in members]
    close(got, torch.stack(expected))


def test_gradient_of_an_ensemble_of_norms() -> None:
    members = [tree.map(lambda leaf, f=f: f * leaf, PARAMS) for f in (0.5, -1.5)]
    total = fl.grad(lambda params: per_sample.norms(plain)(params, X, Y).sum())
    got = fl.vmap(total)(tree.stack(members))
    expected = []
    for member in members:
        leaves = variables(member)
        norms = norms_of(oracle(Case(leaves, plain, (X, Y)), graph=True))
        grads = torch.autograd.grad(norms.sum(), list(leaves.values()))
        expected.append(dict(zip(leaves, grads, strict=True)))
    close(got, tree.stack(expected))


def test_inputs_keep_their_values_and_no_graph_leaks() -> None:
    params = variables(PARAMS)
    before = tree.map(torch.clone, (params, X, Y))
    grads = per_sample.grads(plain)(params, X, Y)
    assert not any(leaf.requires_grad for leaf in grads.values())
    assert all(leaf.grad is None for leaf in params.values())
    close((params, X, Y), before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 11])
def test_chunks(method: Any, size: int) -> None:
    def with_aux(params: Any, x: Tensor, y: Tensor) -> Any:
        return plain(params, x, y), {"x": x, "sum": x.sum()}

    mask = torch.tensor([True, False, True, True, False, False, True])
    norms, aux = per_sample.norms(
        with_aux, method=method, chunk_size=size, has_aux=True
    )(PARAMS, X, Y, mask=mask)
    expected = norms_of(one_by_one(plain, PARAMS, X, Y))
    close(norms, torch.where(mask, expected, 0.0))
    close(aux, {"x": X, "sum": X.sum((1, 2))})


def test_a_masked_sample_may_be_anything() -> None:
    mask = torch.tensor([True, False, True, True, True, True, True])
    spoiled = torch.where(mask[:, None, None], X, torch.nan)
    expected = norms_of(one_by_one(plain, PARAMS, X, Y))
    for method in METHODS:
        norms = per_sample.norms(plain, method=method)(PARAMS, spoiled, Y, mask=mask)
        close(norms, torch.where(mask, expected, 0.0))


def test_the_batch_axis_is_kept() -> None:
    def mean_loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == (1, 2, 5)
        z = torch.einsum("btd,od->bto", x, params["w"]) + params["b"]
        return (z * params["scale"] - y[:, None]).square().sum((1, 2)).mean()

    def single(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return mean_loss(params, x[None], y[None])

    expected = one_by_one(single, PARAMS, X, Y)
    for method in METHODS:
        grads = per_sample.grads(mean_loss, method=method, keep_batch_axis=True)
        close(grads(PARAMS, X, Y), expected)


@pytest.mark.parametrize("method", METHODS)
def test_each_sample_draws_with_its_own_key(method: Any) -> None:
    def noisy(params: Any, x: Tensor, y: Tensor, *, key: Tensor) -> Tensor:
        return plain(params, x + fl.random.normal(key, (2, 5)).double(), y)

    keys = fl.random.split(fl.random.key(5), 7)
    noise = torch.stack([fl.random.normal(key, (2, 5)).double() for key in keys])
    expected = norms_of(one_by_one(plain, PARAMS, X + noise, Y))
    close(per_sample.norms(noisy, method=method)(PARAMS, X, Y, keys=keys), expected)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_differentiated_has_a_hole(method: Any) -> None:
    params = {**PARAMS, "steps": torch.tensor([3, 5])}
    everything = per_sample.grads(plain, method=method)(params, X, Y)
    assert everything["steps"] == ()
    only = per_sample.grads(plain, method=method, wrt="w")(params, X, Y)
    assert (only["b"], only["scale"], only["steps"]) == ((), (), ())
    close(only["w"], one_by_one(plain, PARAMS, X, Y)["w"])
    longest = per_sample.grads(
        plain, method=method, wrt=lambda path, leaf: leaf.ndim == 1 and "s" in path
    )
    with pytest.raises(TypeError, match=r"int64 at \['steps'\]"):
        longest(params, X, Y)


@pytest.mark.parametrize("method", METHODS)
def test_an_unused_parameter_has_no_gradient(method: Any) -> None:
    params = {**PARAMS, "unused": draw(2, 3, seed=7)}
    grads = per_sample.grads(plain, method=method)(params, X, Y)
    close(grads["unused"], torch.zeros(7, 2, 3, dtype=torch.float64))
    expected = norms_of(one_by_one(plain, PARAMS, X, Y))
    close(per_sample.norms(plain, method=method)(params, X, Y), expected)


def test_a_loss_that_vmap_cannot_take_runs_in_a_loop() -> None:
    def branching(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return plain(params, x, y) * (3 if x.sum().item() > 0 else -5)

    expected = one_by_one(branching, PARAMS, X, Y)
    close(per_sample.grads(branching, method="loop")(PARAMS, X, Y), expected)


@pytest.mark.parametrize("jits", [False, True], ids=["eager", "jit"])
def test_factored_only_names_leaf_and_line(jits: bool) -> None:
    def solving(params: Any, x: Tensor, y: Tensor) -> Tensor:
        inverse = torch.linalg.inv(params["w"] @ params["w"].mT)
        return (F.linear(x, params["w"]) @ inverse).square().sum()

    function = per_sample.norms(solving, method="factored")
    with pytest.raises(
        ValueError,
        match=r"norms: solving: .*test_call\.py:\d+: .* params\['w'\]: "
        "matmul makes another tensor of it.* method='auto'",
    ):
        (fl.jit(function) if jits else function)(PARAMS, X, Y)
    norms = per_sample.norms(plain, method="factored")
    expected = norms_of(one_by_one(plain, PARAMS, X, Y))
    close((fl.jit(norms) if jits else norms)(PARAMS, X, Y), expected)
