"""scan and fori_loop against jax.lax, in float64."""

from typing import Any, NamedTuple

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


XS = torch.tensor(
    [[0.3, -1.7, 2.2], [1.4, 0.6, -0.9], [-0.2, 0.8, 1.9], [2.3, -0.5, 0.7]],
    dtype=torch.float64,
)
SCALES = torch.tensor([1.3, -0.4, 0.8, 0.6], dtype=torch.float64)
INIT = {
    "h": torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64),
    "n": torch.tensor(3),
}


class Pair(NamedTuple):
    left: Any
    right: Any


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


def as_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x.numpy()), tree)


def check(ours, theirs):
    """Compares a tree of ours with one of jax's: structure, shapes, dtypes, values."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        array = jnp.asarray(b)
        assert a.shape == array.shape
        expected = torch.tensor(array.tolist(), dtype=a.dtype).reshape(a.shape)
        assert_close(a, expected, rtol=1e-12, atol=1e-14)


def step_in(np):
    """One step of a small network, of trees, in the words of torch or of jax."""

    def step(carry, x):
        h = np.tanh(carry["h"] * x["scale"] + np.cos(x["x"]))
        y = Pair(h.sum() * x["scale"], {"n": carry["n"] * 2, "none": None})
        return {"h": h, "n": carry["n"] + 1}, y

    return step


@pytest.mark.parametrize("reverse", [False, True])
def test_trees_and_direction_equal_jax(reverse):
    xs = {"x": XS, "scale": SCALES}
    ours = fl.scan(step_in(torch), INIT, xs, reverse=reverse)
    theirs = jax.lax.scan(step_in(jnp), as_jax(INIT), as_jax(xs), reverse=reverse)
    check(ours, theirs)
    jitted = fl.jit(lambda c, x: fl.scan(step_in(torch), c, x, reverse=reverse))
    check(jitted(INIT, xs), theirs)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_equal_jax(reverse):
    def loss_in(np, scan):
        def loss(h, xs):
            init = {"h": h, "n": 3}
            carry, ys = scan(step_in(np), init, xs, reverse=reverse)
            return (carry["h"] ** 2).sum() + (ys.left**3).sum()

        return loss

    xs = {"x": XS, "scale": SCALES}
    args = INIT["h"], xs
    theirs = jax.grad(loss_in(jnp, jax.lax.scan), (0, 1))(*as_jax(args))
    gradient = fl.grad(loss_in(torch, fl.scan), (0, 1))
    check(gradient(*args), theirs)
    check(fl.jit(gradient)(*args), theirs)


def test_length_without_xs():
    ours = fl.scan(lambda c, x: (c * c - 0.3, c), SCALES, length=5)
    theirs = jax.lax.scan(lambda c, x: (c * c - 0.3, c), as_jax(SCALES), length=5)
    check(ours, theirs)


def test_no_steps_give_ys_of_no_length():
    empty = {"x": XS[:0], "scale": SCALES[:0]}
    ours = fl.scan(step_in(torch), INIT, empty)
    theirs = jax.lax.scan(step_in(jnp), as_jax(INIT), as_jax(empty))
    check(ours, theirs)
    assert ours[1].left.shape == (0,)
    grads = fl.grad(lambda h: fl.scan(lambda c, x: (c, c / x), h, SCALES[:0])[1].sum())
    assert_close(grads(SCALES[0]), torch.tensor(0.0, dtype=torch.float64))


def test_numbers_in_init_take_the_dtype_of_the_first_step():
    def f(carry, x):
        (mean, count, flag) = carry
        return (mean + (x - mean) / (count + 1), count + 1, flag), mean

    ours = fl.scan(f, (0.1, 0, True), SCALES)
    theirs = jax.lax.scan(f, (0.1, 0, True), as_jax(SCALES))
    check(ours, theirs)
    assert [leaf.dtype for leaf in ours[0]] == [torch.float64, torch.int64, torch.bool]
    # 0.1 is not rounded to float32 on the way: the first y is the number itself.
    assert ours[1][0].item() == 0.1


def test_numbers_among_the_results_become_tensors():
    carry, ys = fl.scan(lambda c, x: (2.5, 7), SCALES[0], length=2)
    assert_close(carry, torch.tensor(2.5, dtype=torch.float64))
    assert_close(ys, torch.tensor([7, 7]))


def test_inputs_are_not_changed():
    before = XS.clone()
    fl.scan(lambda c, x: (c + x, c), XS[0], XS)
    assert_close(XS, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda: fl.scan(any_(XS), 0.0, XS),
            TypeError,
            "f: expected a function, got a",
        ),
        (lambda: fl.scan(lambda c, x: c, 0.0, XS), TypeError, r"pair \(carry, y\)"),
        (
            lambda: fl.scan(any_(lambda c, x: (c, c, c)), 0.0, XS),
            TypeError,
            "got a tuple of 3. Return",
        ),
        (lambda: fl.scan(lambda c, x: (c, c), 0.0), ValueError, "length: expected an"),
        (
            lambda: fl.scan(lambda c, x: (c, c), 0.0, length=-2),
            ValueError,
            "length: expected an int of 0 or more, or None, got -2",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, c), 0.0, XS, length=3),
            ValueError,
            r"leading size 3 of length, got a tensor \(4, 3\)",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, c), 0.0, {"a": XS, "b": XS[1:]}),
            ValueError,
            r"leading size 4 of \['a'\], got a tensor \(3, 3\) of float64 at \['b'\]",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, c), 0.0, {"a": SCALES[0]}),
            ValueError,
            r"with a leading axis, got a tensor \(\) of float64 at \['a'\]",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, c), 0.0, {"a": "text"}),
            TypeError,
            "with a leading axis, got str 'text' at",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, c), {"a": "text"}, XS),
            TypeError,
            r"init: expected tensors or numbers, got str 'text' at \['a'\]",
        ),
        (
            lambda: fl.scan(lambda c, x: ({"h": c["h"][:2]}, c), {"h": XS[0]}, XS),
            ValueError,
            r"carry: expected a tensor \(3,\) of float64 at \['h'\], as it came in, "
            r"got a tensor \(2,\) of float64",
        ),
        (
            lambda: fl.scan(lambda c, x: (c.float(), c), XS[0], XS),
            ValueError,
            r"expected a tensor \(3,\) of float64 at the root, .* of float32",
        ),
        (
            lambda: fl.scan(lambda c, x: ((c, c), c), XS[0], XS),
            ValueError,
            "carry: expected the structure .* Return a carry of the same",
        ),
        (
            lambda: fl.scan(lambda c, x: (None, c), XS[0], XS),
            ValueError,
            "as it came in, got NoneType None",
        ),
        (
            lambda: fl.scan(lambda c, x: (1, c), SCALES[0], XS),
            ValueError,
            r"of float64 at the root, as it came in, got a tensor \(\) of int64",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, "text"), XS[0], XS),
            TypeError,
            "y: expected tensors, got str 'text' at the root",
        ),
        (
            lambda: fl.scan(lambda c, x: (c + 1, XS[: int(c)]), 1, XS),
            ValueError,
            r"y: expected a tensor \(1, 3\) .* as in the first step, got a tensor \(2,",
        ),
        (
            lambda: fl.scan(lambda c, x: (c + 1, (c,) * int(c)), 1, XS),
            ValueError,
            "y: expected the structure .* of the first step",
        ),
        (
            lambda: fl.scan(lambda c, x: (c, c), 0.0, XS, unroll=0),
            ValueError,
            "unroll: expected at least 1, or a bool, got 0",
        ),
    ],
)
def test_wrong_use_is_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call()


def test_a_wrong_carry_is_named_under_jit():
    with pytest.raises(ValueError, match=r"carry: expected a tensor \(3,\) .* at \['h"):
        fl.jit(lambda h: fl.scan(lambda c, x: ({"h": x[:2]}, c), {"h": h}, XS))(XS[0])


def body_in(np):
    return lambda i, value: np.sin(value * i) + value / (i * i + 1)


def test_fori_loop_equals_jax():
    for lower, upper in [(2, 7), (-3, 2), (5, 5), (5, 3)]:
        theirs = jax.lax.fori_loop(lower, upper, body_in(jnp), as_jax(SCALES))
        check(fl.fori_loop(lower, upper, body_in(torch), SCALES), theirs)
        bounds = torch.tensor(lower), torch.tensor(upper)
        check(fl.fori_loop(*bounds, body_in(torch), SCALES), theirs)


def test_fori_loop_gradient_equals_jax():
    ours = fl.grad(lambda x: fl.fori_loop(2, 6, body_in(torch), x).prod())
    theirs = jax.grad(lambda x: jax.lax.fori_loop(2, 6, body_in(jnp), x).prod())
    check(ours(SCALES), theirs(as_jax(SCALES)))
    check(fl.jit(ours)(SCALES), theirs(as_jax(SCALES)))


def test_the_index_selects_also_under_jit_and_vmap():
    def f(x):
        return fl.fori_loop(1, 4, lambda i, total: total * 0.7 + x[i] * i, 0.0)

    def expected(x):
        total = 0.0
        for i in range(1, 4):
            total = total * 0.7 + x[i] * i
        return torch.as_tensor(total)

    assert_close(f(SCALES), expected(SCALES), rtol=1e-12, atol=0)
    assert_close(fl.jit(f)(SCALES), expected(SCALES), rtol=1e-12, atol=0)
    rows = torch.stack([expected(row) for row in XS.T])
    assert_close(fl.jit(fl.vmap(f))(XS.T), rows, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda: fl.fori_loop(2, 5, any_(3), 0),
            TypeError,
            "body: expected a function",
        ),
        (
            lambda: fl.fori_loop(any_(2.0), 5, max, 0),
            TypeError,
            "lower: .* got float 2",
        ),
        (lambda: fl.fori_loop(2, any_(True), max, 0), TypeError, "upper: .* bool True"),
        (
            lambda: fl.fori_loop(2, SCALES, max, 0),
            TypeError,
            r"upper: .* tensor \(4,\)",
        ),
        (
            lambda: fl.vmap(lambda n: fl.fori_loop(2, n, lambda i, c: c + i, 0))(
                torch.tensor([3, 5])
            ),
            ValueError,
            r"upper: .* whose value is known, got a tensor \(\) of int64 under jit",
        ),
        (
            lambda: fl.jit(lambda n: fl.fori_loop(n, 9, lambda i, c: c + i, 0))(
                torch.tensor(3)
            ),
            ValueError,
            "lower: .* whose value is known",
        ),
        (
            lambda: fl.fori_loop(2, 5, lambda i, c: c[:2], XS[0]),
            ValueError,
            r"fori_loop: <lambda>: carry: expected a tensor \(3,\)",
        ),
    ],
)
def test_wrong_use_of_fori_loop_is_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call()
