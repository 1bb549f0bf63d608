"""Gradients against closed forms, jax and torch.autograd, in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from functorch_lab.transforms import (
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    stop_gradient,
    value_and_grad,
    vjp,
    vmap,
)


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


X = torch.tensor([[0.3, -1.7, 2.2], [1.4, 0.6, -0.9]], dtype=torch.float64)
Y = torch.tensor([0.7, -1.2], dtype=torch.float64)
PARAMS = {
    "w": torch.tensor([1.3, -0.4, 0.8], dtype=torch.float64),
    "b": torch.tensor(0.35, dtype=torch.float64),
}


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


def loss(params, x, y):
    return ((torch.tanh(x @ params["w"]) + params["b"] - y) ** 2).mean()


def jax_loss(params, x, y):
    return ((jnp.tanh(x @ params["w"]) + params["b"] - y) ** 2).mean()


def as_jax(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.numpy()), tree)


def check(ours, theirs):
    """Compares a tree of ours with one of jax's, leaf by leaf in jax's order."""
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert_close(
            a, torch.tensor(jnp.asarray(b).tolist(), dtype=a.dtype), rtol=1e-12, atol=0
        )


def test_value_and_grad_equals_jax():
    value, grads = value_and_grad(loss)(PARAMS, X, Y)
    expected = jax.value_and_grad(jax_loss)(as_jax(PARAMS), as_jax(X), as_jax(Y))
    check((value, grads), expected)


def test_argnums_choose_and_order_arguments():
    grads = grad(loss, argnums=(2, 0))(PARAMS, X, Y)
    expected = jax.grad(jax_loss, argnums=(2, 0))(as_jax(PARAMS), as_jax(X), as_jax(Y))
    assert isinstance(grads, tuple)
    check(grads, expected)
    check(grad(loss, argnums=-1)(PARAMS, X, Y), expected[0])


def with_aux(w, x):
    return (w * x).sum(), {"x": x * w, "name": "n", "hole": ()}


def test_aux_passes_through():
    (value, aux), grads = value_and_grad(with_aux, has_aux=True)(PARAMS["w"], X[0])
    assert_close(value, (PARAMS["w"] * X[0]).sum())
    assert_close(aux["x"], X[0] * PARAMS["w"])
    assert (aux["name"], aux["hole"]) == ("n", ())
    assert_close(grads, X[0])


def test_aux_of_an_inner_gradient_keeps_what_is_no_tensor():
    def f(w, x):
        return (w * x).sum(), {"none": None, "x": x * 2}

    def inner(x):
        grads, aux = grad(f, has_aux=True)(X[1], x)
        assert aux["none"] is None
        return grads, aux["x"]

    assert_close(vmap(inner)(X), (X, X * 2))


def test_aux_of_an_inner_gradient_is_differentiated():
    def outer(w):
        grads, aux = grad(with_aux, has_aux=True)(w, X[0])
        assert (aux["name"], aux["hole"]) == ("n", ())
        return (aux["x"] * grads).sum()

    assert_close(grad(outer)(PARAMS["w"]), X[0] ** 2, rtol=1e-12, atol=0)


def test_third_derivative_by_nesting():
    f = functools.reduce(lambda g, _: grad(g), range(3), lambda x: x**5)
    x = torch.tensor(1.7, dtype=torch.float64)
    assert_close(f(x), 60 * x**2, rtol=1e-12, atol=0)


def test_a_closed_over_outer_variable_is_differentiated():
    inner = torch.tensor(3.0, dtype=torch.float64)
    outer = grad(lambda a: grad(lambda b: (a * b) ** 2)(inner))
    a = torch.tensor(1.3, dtype=torch.float64)
    assert_close(outer(a), 4 * a * inner, rtol=1e-12, atol=0)


def test_integer_and_empty_parts_get_holes():
    params = {"w": PARAMS["w"], "n": torch.tensor([2, 3]), "frozen": (), "list": []}
    grads = grad(lambda p: (p["w"] ** 2).sum() * p["n"].sum())(params)
    assert grads["n"] == ()
    assert grads["frozen"] == ()
    assert grads["list"] == []
    assert_close(grads["w"], 10 * PARAMS["w"], rtol=1e-12, atol=0)


def test_unused_parameters_have_zero_gradients():
    grads = grad(lambda p: p["b"] * 2)(PARAMS)
    assert_close(grads["w"], torch.zeros(3, dtype=torch.float64))
    assert_close(grad(lambda p: torch.tensor(2.5))(PARAMS)["w"], grads["w"])


def test_no_graph_leaks():
    w = torch.nn.Parameter(PARAMS["w"].clone())
    fixed = torch.nn.Parameter(X[0].clone())

    def f(w):
        return (w**2 * fixed).sum(), w * fixed

    (value, aux), grads = value_and_grad(f, has_aux=True)(w)
    assert not value.requires_grad
    assert not aux.requires_grad
    assert not grads.requires_grad
    assert w.grad is None
    assert fixed.grad is None
    tangent = jvp(torch.sin, (w,), (X[0],))[1]
    assert not tangent.requires_grad
    assert not jacrev(torch.sin)(w).requires_grad


def test_gradients_do_not_depend_on_grad_mode():
    expected = as_jax(grad(loss)(PARAMS, X, Y))
    with torch.no_grad():
        check(grad(loss)(PARAMS, X, Y), expected)
    with torch.inference_mode():
        x, params = X * 1, {k: v * 1 for k, v in PARAMS.items()}
        check(grad(loss)(PARAMS, X, Y), expected)
        check(grad(loss)(params, x, Y), expected)
        assert_close(grad(grad(lambda x: x**3))(2.0), torch.tensor(12.0))
    check(grad(loss)(PARAMS, x, Y), expected)
    check(grad(loss)(params, x, Y), expected)


def test_a_python_float_is_a_scalar():
    assert_close(grad(lambda x: x**3)(2.0), torch.tensor(12.0))


def test_custom_backward_is_kept_by_the_outermost_engine():
    class Sevenfold(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
            return 7 * g

    assert_close(grad(lambda x: Sevenfold.apply(x).sum())(X), torch.full_like(X, 7))


def test_stop_gradient_in_every_direction():
    x = torch.tensor(1.9, dtype=torch.float64)

    def f(x):
        return x * stop_gradient({"a": x, "b": 3})["a"]

    assert_close(grad(f)(x), x)
    assert_close(jvp(f, (x,), (torch.ones_like(x),))[1], x)
    assert_close(vmap(grad(f))(x[None])[0], x)


def test_jvp_and_vjp_equal_jax():
    primals, tangents = (PARAMS, X), (grad(loss)(PARAMS, X, Y), X.flip(0))

    def f(params, x):
        return {"a": torch.sin(x @ params["w"]), "b": x * params["b"]}

    def jax_f(params, x):
        return {"a": jnp.sin(x @ params["w"]), "b": x * params["b"]}

    check(jvp(f, primals, tangents), jax.jvp(jax_f, as_jax(primals), as_jax(tangents)))
    value, pullback = vjp(f, *primals)
    expected, jax_pullback = jax.vjp(jax_f, *as_jax(primals))
    check(value, expected)
    check(pullback(value), jax_pullback(expected))


def test_jvp_and_vjp_with_aux_and_integers():
    n = torch.tensor([2, 5])

    def f(x, n):
        return x * n.sum(), n + 1

    value, tangent, aux = jvp(f, (Y, n), (Y, ()), has_aux=True)
    assert_close((value, tangent, aux), (Y * 7, Y * 7, n + 1))
    value, pullback, aux = vjp(f, Y, n, has_aux=True)
    assert_close((value, aux), (Y * 7, n + 1))
    gradient, hole = pullback(Y)
    assert hole == ()
    assert_close(gradient, Y * 7)


@pytest.mark.parametrize("ours", [jacrev, jacfwd])
def test_jacobians_equal_jax(ours):
    def f(params, x):
        return {"a": torch.sin(x @ params["w"]), "b": params["b"] ** 2}

    def jax_f(params, x):
        return {"a": jnp.sin(x @ params["w"]), "b": params["b"] ** 2}

    expected = jax.jacrev(jax_f, argnums=(0, 1))(as_jax(PARAMS), as_jax(X))
    check(ours(f, argnums=(0, 1))(PARAMS, X), expected)


def test_jacrev_in_chunks_and_with_aux():
    f = lambda x: (torch.sin(x) * x.sum(), x.sum())  # noqa: E731
    whole, aux = jacrev(f, has_aux=True)(X[0])
    assert_close(jacrev(f, has_aux=True, chunk_size=1)(X[0])[0], whole)
    assert_close(jacfwd(f, has_aux=True)(X[0]), (whole, aux))


def test_hessian_and_hvp_equal_jax():
    expected = jax.hessian(jax_loss)(as_jax(PARAMS), as_jax(X), as_jax(Y))
    check(hessian(loss)(PARAMS, X, Y), expected)
    direction = {"w": X[1], "b": torch.tensor(-0.6, dtype=torch.float64)}
    product = hvp(loss, (PARAMS, X, Y), (direction,))
    f = jax.grad(lambda p: jax_loss(p, as_jax(X), as_jax(Y)))
    check(product, jax.jvp(f, (as_jax(PARAMS),), (as_jax(direction),))[1])


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda: grad(any_(3)), TypeError, r"grad: fn: expected a function, got int 3"),
        (lambda: grad(loss, argnums=any_(1.5)), TypeError, r"argnums: expected an int"),
        (
            lambda: grad(loss, argnums=(0, -3))(PARAMS, X, Y),
            ValueError,
            "each argument",
        ),
        (lambda: grad(loss, argnums=3)(PARAMS, X, Y), ValueError, "among 3 positional"),
        (lambda: grad(lambda x: x)(X), ValueError, r"0-d tensor .* got shape \(2, 3\)"),
        (lambda: grad(lambda x: (x.sum(), x))(X), TypeError, "Pass has_aux=True"),
        (lambda: grad(lambda x: 1.0)(X), TypeError, "0-d tensor as result, got float"),
        (lambda: grad(lambda x: (x > 0).sum())(X), TypeError, "real floating-point"),
        (
            lambda: grad(lambda x: x.sum(), has_aux=True)(X),
            TypeError,
            r"expected a pair \(value, aux\)",
        ),
        (
            lambda: grad(lambda x: x.sum())(torch.tensor([2, 3])),
            TypeError,
            r"argument 0: expected a floating-point tensor .* int64",
        ),
        (
            lambda: grad(lambda p: p["x"].sum())({"x": X, "name": "n"}),
            TypeError,
            r"argument 0\['name'\]: expected a tensor, got str 'n'",
        ),
        (
            lambda: jvp(torch.sin, any_(X), any_(X)),
            TypeError,
            r"jvp: primals: expected a tuple",
        ),
        (
            lambda: jvp(torch.sin, (X,), (X, X)),
            ValueError,
            "tangents: expected a tuple",
        ),
        (
            lambda: jvp(torch.sin, (X,), (Y,)),
            ValueError,
            r"expected shape \(2, 3\) at \[0\], got a tensor \(2,\)",
        ),
        (lambda: vjp(torch.sin, X)[1](Y), ValueError, "vjp: cotangent: expected shape"),
        (lambda: vjp(torch.sin, X)[1]((X,)), ValueError, "expected the structure"),
        (lambda: jacrev(lambda x: x > 0)(X), TypeError, "floating-point tensors"),
        (lambda: hvp(loss, (PARAMS, X, Y), (X, X)), ValueError, "one direction"),
    ],
)
def test_wrong_use_is_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call()


def test_the_engines_agree():
    """`vmap` of one sample takes the nested engine."""

    def f(w: Tensor) -> Tensor:
        return torch.sin(w * X).prod() + (w**3).sum()

    assert_close(
        vmap(grad(f))(PARAMS["w"][None])[0], grad(f)(PARAMS["w"]), rtol=1e-12, atol=0
    )
