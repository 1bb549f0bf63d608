"""while_loop against jax.lax.while_loop, in float64."""

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


STARTS = torch.tensor([0.3, 7.5, 2.2, 41.0, 1.4], dtype=torch.float64)
RATE = torch.tensor(1.7, dtype=torch.float64)


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


def as_jax(x):
    return jnp.asarray(x.numpy())


def check(ours, theirs):
    theirs = torch.tensor(jnp.asarray(theirs).tolist(), dtype=ours.dtype)
    assert_close(ours, theirs.reshape(ours.shape), rtol=1e-12, atol=0)


def grown_in(loop, np, **options):
    """Grows a number past a limit; from 1 to 0 growth steps, by sample."""

    def grown(x, rate):
        value = loop(
            lambda v: v["x"] < 20.0,
            lambda v: {"x": v["x"] * rate + np.sin(v["x"]), "steps": v["steps"] + 1},
            {"x": x, "steps": 0},
            **options,
        )
        return value["x"] * rate, value["steps"]

    return grown


def theirs_of(x):
    return grown_in(jax.lax.while_loop, jnp)(as_jax(x), as_jax(RATE))


OURS = grown_in(fl.while_loop, torch, max_steps=13)


@pytest.mark.parametrize("loop", [OURS, grown_in(fl.while_loop, torch)])
def test_each_start_equals_jax(loop):
    for x in STARTS:
        for ours, theirs in zip(loop(x, RATE), theirs_of(x), strict=True):
            check(ours, theirs)


@pytest.mark.parametrize("loop", [OURS, grown_in(fl.while_loop, torch)])
def test_each_sample_stops_by_itself_under_vmap(loop):
    value, steps = fl.vmap(loop, in_dims=(0, None))(STARTS, RATE)
    grown = jax.vmap(grown_in(jax.lax.while_loop, jnp), in_axes=(0, None))
    theirs = grown(as_jax(STARTS), as_jax(RATE))
    check(value, theirs[0])
    check(steps, theirs[1])
    assert steps.tolist() == [7, 2, 5, 0, 5]


def test_under_jit_it_equals_jax():
    jitted = fl.jit(OURS)
    for x in STARTS:
        for ours, theirs in zip(jitted(x, RATE), theirs_of(x), strict=True):
            check(ours, theirs)
    value, steps = fl.jit(fl.vmap(OURS, in_dims=(0, None)))(STARTS, RATE)
    rows = [theirs_of(x) for x in STARTS]
    check(value, [row[0] for row in rows])
    check(steps, [row[1] for row in rows])


def unrolled(x, rate, steps):
    """The loop in jax with its count of steps known, which jax differentiates."""
    for _ in range(steps):
        x = x * rate + jnp.sin(x)
    return x * rate


GRADIENT = fl.grad(OURS, (0, 1), has_aux=True)


def eager(f):
    return f


@pytest.mark.parametrize("jit", [eager, fl.jit])
def test_gradients_equal_jax(jit):
    per_sample = jit(fl.vmap(GRADIENT, in_dims=(0, None)))
    (dx, drate), counts = per_sample(STARTS, RATE)
    gradient = jit(GRADIENT)
    for i, x in enumerate(STARTS):
        count = int(counts[i])
        theirs = jax.grad(unrolled, (0, 1))(as_jax(x), as_jax(RATE), count)
        ours, aux = gradient(x, RATE)
        assert aux == count
        check(ours[0], theirs[0])
        check(ours[1], theirs[1])
        check(dx[i], theirs[0])
        check(drate[i], theirs[1])


@pytest.mark.parametrize("jit", [eager, fl.jit])
def test_jvp_equals_jax(jit):
    def first(x):
        return OURS(x, RATE)[0]

    def theirs(x):
        return grown_in(jax.lax.while_loop, jnp)(x, as_jax(RATE))[0]

    ours = jit(fl.vmap(lambda x: fl.jvp(first, (x,), (x * 0.3,))))(STARTS)
    for i, x in enumerate(STARTS):
        value, tangent = jax.jvp(theirs, (as_jax(x),), (as_jax(x) * 0.3,))
        check(ours[0][i], value)
        check(ours[1][i], tangent)


@pytest.mark.parametrize("jit", [eager, fl.jit])
def test_a_stopped_sample_meets_no_infinite_slope(jit):
    """At the value where a sample stops, the body's slope is infinite."""

    def root(x, scale):
        return fl.while_loop(
            lambda v: v > 0, lambda v: torch.sqrt(v) * scale - 2.0, x, max_steps=3
        )

    scale = torch.tensor(2.0, dtype=torch.float64)
    x = torch.tensor([9.0, 1.0, -4.0], dtype=torch.float64)  # 9, 4, 2, ...; 1, 0; -4
    gradient = jit(fl.vmap(fl.grad(root, (0,)), in_dims=(0, None)))
    (dx,) = gradient(x, scale)
    # d/dv (2 sqrt(v) - 2) = 1 / sqrt(v), at 9, 4 and 2, and at 1.
    expected = [1 / (3 * 2 * 2**0.5), 1.0, 1.0]
    assert_close(dx, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_max_steps_ends_the_loop_everywhere():
    def loop(x):
        return fl.while_loop(lambda v: v < 100.0, lambda v: v + x, x, max_steps=3)

    for f in (fl.vmap(loop), fl.jit(fl.vmap(loop))):
        assert_close(f(STARTS), torch.stack([loop(x) for x in STARTS]))
    assert_close(loop(STARTS[1]), STARTS[1] * 4)
    zero = fl.while_loop(lambda v: v < 9.0, lambda v: v + 2, RATE, max_steps=0)
    assert_close(zero, RATE)


def test_a_batch_of_nothing_gives_nothing():
    loop = lambda x: fl.while_loop(lambda v: v < 9.0, lambda v: v + 2, x)  # noqa: E731
    assert fl.vmap(loop)(STARTS[:0]).shape == (0,)


def test_python_conditions_and_numbers():
    assert_close(fl.while_loop(lambda n: n < 9, lambda n: n * 3, 2), torch.tensor(18))
    assert_close(
        fl.while_loop(lambda n: True, lambda n: n * 3, 0.3, max_steps=2),
        torch.tensor(0.3 * 9),
    )


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda: fl.while_loop(any_(True), torch.sin, RATE),
            TypeError,
            "cond: expected a function, got bool True",
        ),
        (
            lambda: fl.while_loop(torch.isnan, any_(RATE), RATE),
            TypeError,
            "body: expected a function, got a tensor",
        ),
        (
            lambda: fl.while_loop(lambda v: v, torch.sin, RATE),
            TypeError,
            "expected a bool, got a tensor .* Return a comparison",
        ),
        (
            lambda: fl.while_loop(lambda v: v < 3, torch.sin, STARTS),
            ValueError,
            r"expected a 0-d bool, got a tensor \(5,\) of bool. Reduce it",
        ),
        (
            lambda: fl.while_loop(lambda v: v < 3, torch.sin, RATE, max_steps=-2),
            ValueError,
            "max_steps: expected an int of 0 or more, or None, got -2",
        ),
        (
            lambda: fl.jit(
                fl.vmap(lambda v: fl.while_loop(lambda v: v < 3, torch.sin, v))
            )(STARTS),
            ValueError,
            "max_steps: expected a bound where the condition has no value, as in a de",
        ),
        (
            lambda: fl.while_loop(lambda v: v < 3, lambda v: v.float(), RATE),
            ValueError,
            r"while_loop: <lambda>: carry: expected a tensor \(\) of float64",
        ),
        (
            lambda: fl.vmap(
                lambda v: fl.while_loop(lambda v: v < 3, lambda v: STARTS * v, v)
            )(STARTS),
            ValueError,
            r"expected a tensor \(\) of float64 at the root, .* a tensor \(5,\)",
        ),
        (
            lambda: fl.while_loop(lambda v: True, torch.sin, "text", max_steps=2),
            TypeError,
            "while_loop: init: expected tensors or numbers, got str 'text'",
        ),
    ],
)
def test_wrong_use_is_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call()
