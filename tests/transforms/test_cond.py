"""cond against jax.lax.cond, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def traced_only(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")


X = torch.tensor([0.3, -1.7, 2.2, -0.4], dtype=torch.float64)
W = torch.tensor(1.3, dtype=torch.float64)


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


def eager(f):
    return f


def check(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        expected = torch.tensor(jnp.asarray(b).tolist(), dtype=a.dtype)
        assert_close(a, expected, rtol=1e-12, atol=0)


def as_jax(x):
    return jnp.asarray(x.numpy())


def chosen_in(np, cond):
    """The root of a positive number, where it is one; each branch uses all of w."""

    def chosen(x, w):
        result = cond(
            x > 0.1,
            lambda x, p: {"y": np.sqrt(x) * p["w"], "k": p["k"] * 2},
            lambda x, p: {"y": x**3 / p["w"], "k": p["k"] - 3},
            x,
            {"w": w, "k": np.asarray(7)},
        )
        return result["y"], result

    return chosen


OURS, THEIRS = chosen_in(torch, fl.cond), chosen_in(jnp, jax.lax.cond)


@pytest.mark.parametrize("jit", [eager, fl.jit])
def test_values_and_gradients_equal_jax(jit):
    ours = jit(fl.value_and_grad(OURS, (0, 1), has_aux=True))
    theirs = jax.value_and_grad(THEIRS, (0, 1), has_aux=True)
    for x in X:
        check(ours(x, W), theirs(as_jax(x), as_jax(W)))


@pytest.mark.parametrize("jit", [eager, fl.jit])
def test_each_sample_chooses_under_vmap(jit):
    gradients = jit(fl.vmap(fl.grad(OURS, (0, 1), has_aux=True), in_dims=(0, None)))
    ours = gradients(X, W)
    for i, x in enumerate(X):
        row = fl.tree.map(lambda leaf, i=i: leaf[i], ours)
        check(row, jax.grad(THEIRS, (0, 1), has_aux=True)(as_jax(x), as_jax(W)))


@pytest.mark.parametrize("jit", [eager, fl.jit])
@pytest.mark.parametrize(
    "root",
    [
        lambda x: fl.cond(x > 0, torch.sqrt, lambda x: x * x, x),
        lambda x: fl.cond(x <= 0, lambda x: x * x, torch.sqrt, x),
    ],
)
def test_higher_and_forward_derivatives_see_no_infinite_slope(root, jit):
    """The root's derivatives at the samples that don't take it are infinite or NaN."""
    x = torch.tensor([4.0, -3.0, 0.0], dtype=torch.float64)

    def expect(got, values):
        assert_close(got, torch.tensor(values, dtype=torch.float64), rtol=1e-12, atol=0)

    expect(jit(fl.vmap(fl.grad(root)))(x), [0.25, -6.0, 0.0])
    tangent = jit(fl.vmap(lambda x: fl.jvp(root, (x,), (x * 0 + 2,))[1]))(x)
    expect(tangent, [0.5, -12.0, 0.0])
    # Not vmap of hessian: torch 2.13 compiles that of no function.
    for one, second in zip(x, [-1 / 32, 2.0, 2.0], strict=True):
        expect(jit(fl.hessian(root))(one), second)
    expect(jit(fl.vmap(fl.grad(fl.grad(root))))(x), [-1 / 32, 2.0, 2.0])


def test_only_the_chosen_branch_runs_where_the_value_is_known():
    def never(x):
        raise AssertionError

    for pred in (torch.tensor(True), True, 2, torch.tensor(-0.5)):
        assert_close(fl.cond(pred, torch.sin, never, X), X.sin())
    for pred in (torch.tensor(False), False, 0.0, torch.tensor(0)):
        assert_close(fl.cond(pred, never, torch.sin, X), X.sin())
    assert_close(fl.grad(lambda x: fl.cond(x > 0, torch.sin, never, x))(W), W.cos())


def test_none_is_an_empty_result():
    for f in (eager, fl.jit):
        got = f(lambda p: fl.cond(p, lambda: (None, W), lambda: (None, W)))(W > 0)
        check(got, (None, W))


def test_numbers_and_no_operands():
    for pred in (torch.tensor(True), torch.tensor(False)):
        expected = torch.tensor(2.5 if pred else 0.5)
        assert_close(fl.cond(pred, lambda: 2.5, lambda: 0.5), expected)
        jitted = fl.jit(lambda p: fl.cond(p, lambda: 2.5, lambda: 0.5))
        assert_close(jitted(pred), expected)


def both(true_fn, false_fn):
    return fl.jit(lambda x: fl.cond(x[0] > 0, true_fn, false_fn, x))(X)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda: fl.cond(X, torch.sin, torch.cos, X), ValueError, r"pred: .* \(4,\) o"),
        (lambda: fl.cond(any_("yes"), torch.sin, torch.cos, X), TypeError, "str 'yes'"),
        (
            lambda: fl.cond(True, any_(X), torch.cos, X),
            TypeError,
            "true_fn: expected a",
        ),
        (lambda: fl.cond(True, torch.cos, any_(X), X), TypeError, "false_fn: expected"),
        (
            lambda: fl.cond(True, lambda x: {"a": "text"}, torch.cos, X),
            TypeError,
            r"cond: true_fn: <lambda>: .* got str 'text' at \['a'\]",
        ),
        (
            lambda: both(lambda x: (x, x), lambda x: x),
            ValueError,
            "expected results of one structure, got .* and",
        ),
        (
            lambda: both(lambda x: {"a": x}, lambda x: {"a": x[:1]}),
            ValueError,
            r"got a tensor \(4,\) of float64 and a tensor \(1,\) of float64 at \['a'\]",
        ),
        (
            lambda: both(lambda x: x, lambda x: x.float()),
            ValueError,
            "of float64 and a tensor .* of float32 at the root. Return the same",
        ),
        (
            lambda: both(lambda x: None, lambda x: x),
            ValueError,
            "got NoneType None and a tensor",
        ),
    ],
)
def test_wrong_use_is_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call()
