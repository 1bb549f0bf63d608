"""surrogate_gradient against jax.custom_jvp, in float64."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile

X = torch.tensor([0.3, -1.7, 2.6], dtype=torch.float64)


def in_jax(fn, surrogate):
    wrapped = jax.custom_jvp(fn)
    wrapped.defjvp(lambda p, t: (wrapped(*p), jax.jvp(surrogate, p, t)[1]))
    return wrapped


PAIRS: dict[str, Any] = {
    "straight through": lambda np: (lambda x: np.round(x) + 0, lambda x: x * 1.0),
    "spike": lambda np: (lambda x: (x > 0) * 1.0 + 0 * x, lambda x: np.tanh(3 * x)),
    "reversed": lambda np: (lambda x: x * 1.0, lambda x: -x),
    "leaky": lambda np: (
        lambda x: np.clip(x, 0, 1),
        lambda x: np.where(x > 0, x**3, 0.1 * x),
    ),
}
USES: dict[str, Any] = {
    "value": lambda lib, f: f,
    "grad": lambda lib, f: lib.grad(lambda x: (f(x) * x**2).sum()),
    "jvp": lambda lib, f: lambda x: lib.jvp(f, (x,), (x * 3,)),
    "vmap(grad)": lambda lib, f: lib.vmap(lib.grad(lambda x: f(x) * x)),
    "hessian": lambda lib, f: lib.hessian(lambda x: (f(x) * x**2).sum()),
    "grad(grad)": lambda lib, f: lib.vmap(lib.grad(lib.grad(lambda x: f(x) * x))),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("pair", PAIRS)
def test_derivatives_equal_jax(pair, use):
    ours = USES[use](fl, fl.surrogate_gradient(*PAIRS[pair](torch)))(X)
    with jax.enable_x64(True):
        theirs = USES[use](jax, in_jax(*PAIRS[pair](jnp)))(jnp.asarray(X.numpy()))
        expected = [
            torch.tensor(leaf.tolist(), dtype=torch.float64)
            for leaf in jax.tree.leaves(theirs)
        ]
    for a, b in zip(jax.tree.leaves(ours), expected, strict=True):
        assert_close(a, b.to(a.dtype), rtol=1e-12, atol=1e-14)


def test_under_jit_it_is_the_same(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    for use in ("jvp", "vmap(grad)"):
        f: Callable[..., Any] = USES[use](
            fl, fl.surrogate_gradient(*PAIRS["spike"](torch))
        )
        assert_close(fl.jit(f)(X), f(X), rtol=1e-12, atol=0)


def test_values_are_exact_whatever_the_surrogate_is():
    values = torch.tensor([-0.0, 0.0, 1e-300, math.inf, -math.inf, math.nan, 1e308])
    for other in (0.0, 1e30, math.inf, -math.inf, math.nan):
        f = fl.surrogate_gradient(lambda x: x, lambda x, other=other: x * 0 + other)
        assert_close(f(values), values, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.signbit(f(values)), torch.signbit(values))


def test_the_function_itself_meets_no_derivative():
    def fn(x):
        assert not x.requires_grad
        return x.round()

    f = fl.surrogate_gradient(fn, lambda x: x * 3)
    assert_close(fl.grad(lambda x: f(x).sum())(X), torch.full_like(X, 3.0))


def test_trees_integers_and_closures():
    scale = torch.tensor(5.0, dtype=torch.float64)

    def fn(tree, *, n):
        return {"y": tree["x"].round() * scale, "n": n * 2, "none": None}

    def surrogate(tree, *, n):
        return {"y": tree["x"] * scale, "n": n, "none": None}

    f = fl.surrogate_gradient(fn, surrogate)
    result = f({"x": X}, n=torch.tensor(3))
    assert result["n"] == 6
    assert result["none"] is None
    assert_close(result["y"], X.round() * 5)
    grads = fl.grad(lambda tree: f(tree, n=torch.tensor(3))["y"].sum())({"x": X})
    assert_close(grads["x"], torch.full_like(X, 5.0))

    # Of what fn closes over no derivative comes, of what surrogate does, its own.
    def loss(w):
        return fl.surrogate_gradient(lambda x: x * w, lambda x: x * w * 7)(X).sum()

    value, slope = fl.value_and_grad(loss)(scale)
    assert_close(value, X.sum() * 5)
    assert_close(slope, X.sum() * 7)


def any_(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("fn", "surrogate", "kind", "match"),
    [
        (any_(3), torch.sin, TypeError, "fn: expected a function, got int 3"),
        (torch.sin, any_(X), TypeError, r"surrogate: expected a function, got a"),
        (torch.sin, lambda x: (x,), ValueError, "results of one structure, got"),
        (torch.sin, lambda x: x[:2], ValueError, r"\(3,\) .* got a|and a tensor \(2,"),
        (torch.sign, lambda x: x.float(), ValueError, "of float32 from surrogate at"),
        (lambda x: 2.5, lambda x: x, TypeError, "expected tensors .* got float 2.5"),
    ],
)
def test_wrong_use_is_named(fn, surrogate, kind, match):
    with pytest.raises(kind, match="surrogate_gradient: .*" + match):
        any_(fl.surrogate_gradient(fn, surrogate))(X)
