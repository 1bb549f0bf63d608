# SPDX-License-Identifier: Apache-2.0
"""What composes with what: each pair of transforms, run here and in jax.

`python tests/compose.py` runs every pair and writes docs/reference/compose.md.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch

import functorch_lab as fl
from functorch_lab.transforms import _compile

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "compose.md"
Function = Callable[[Any, Any], Any]  # of a 0-d w and an x of shape (3,), 0-d
W = torch.tensor(0.7, dtype=torch.float64)
X = torch.tensor([0.3, -1.7, 2.2], dtype=torch.float64)
XS = torch.stack([X, X.flip(0) * 0.6, X * -0.4, X * 1.3])


def jax_while(cond: Any, body: Any, init: Any, max_steps: int) -> Any:
    """A bounded loop, which jax differentiates in both modes."""

    def step(value: Any, _: Any) -> Any:
        return jax.lax.cond(cond(value), body, lambda v: v, value), None

    return jax.lax.scan(step, init, length=max_steps)[0]


def jax_surrogate(fn: Any, surrogate: Any) -> Any:
    """The values of one function and the derivatives of another."""
    wrapped = jax.custom_jvp(fn)
    wrapped.defjvp(lambda p, t: (wrapped(*p), jax.jvp(surrogate, p, t)[1]))
    return wrapped


OURS = types.SimpleNamespace(
    np=torch,
    **{name: getattr(fl, name) for name in ("grad", "jvp", "vjp", "hessian", "vmap")},
    **{name: getattr(fl, name) for name in ("scan", "fori_loop", "cond")},
    **{name: getattr(fl, name) for name in ("jit", "checkpoint", "surrogate_gradient")},
    while_loop=lambda c, b, v: fl.while_loop(c, b, v, max_steps=5),
)
THEIRS = types.SimpleNamespace(
    np=jnp,
    **{name: getattr(jax, name) for name in ("grad", "jvp", "vjp", "hessian")},
    **{name: getattr(jax, name) for name in ("jit", "checkpoint")},
    **{name: getattr(jax.lax, name) for name in ("scan", "fori_loop", "cond")},
    vmap=lambda f, in_dims: jax.vmap(f, in_axes=in_dims),
    while_loop=lambda c, b, v: jax_while(c, b, v, max_steps=5),
    surrogate_gradient=jax_surrogate,
)


def base(lib: Any) -> Function:
    return lambda w, x: lib.np.sin(w * x).sum() * lib.np.exp(w * x[0]) + w**3


def step(lib: Any, w: Any, x: Any) -> Callable[[Any], Any]:
    """One step of a loop over a number."""
    return lambda c: lib.np.tanh(c * w + x.sum()) + c * 1.1


INSIDE: dict[str, Callable[[Any], Function]] = {
    "grad": lambda lib: lib.grad(base(lib)),
    "jvp": lambda lib: (
        lambda w, x: lib.jvp(lambda w: base(lib)(w, x), (w,), (w * 2,))[1]
    ),
    "vjp": lambda lib: lambda w, x: lib.vjp(base(lib), w, x)[1](w)[0],
    "hessian": lambda lib: lib.hessian(base(lib)),
    "vmap": lambda lib: (
        lambda w, x: lib.vmap(lambda w, e: lib.np.cos(w * e), (None, 0))(w, x).sum()
    ),
    "jit": lambda lib: lib.jit(base(lib)),
    "scan": lambda lib: (
        lambda w, x: lib.scan(lambda c, e: (step(lib, w, x)(c) * e, None), w, x)[0]
    ),
    "fori_loop": lambda lib: (
        lambda w, x: lib.fori_loop(0, 3, lambda i, c: step(lib, w, x)(c) * x[i], w)
    ),
    "while_loop": lambda lib: (
        lambda w, x: lib.while_loop(lambda c: c < 2.5, step(lib, w, x), w * w)
    ),
    "cond": lambda lib: (
        lambda w, x: lib.cond(
            x[0] > 0, base(lib), lambda w, x: lib.np.cos(w) * x[1], w, x
        )
    ),
    "checkpoint": lambda lib: lib.checkpoint(base(lib)),
    "surrogate_gradient": lambda lib: lib.surrogate_gradient(
        lambda w, x: lib.np.round(w * x).sum() + w, base(lib)
    ),
}

# Each takes the library and f, and is called with W, X and XS.
OUTSIDE: dict[str, Callable[[Any, Function], Any]] = {
    "grad": lambda lib, f: lambda w, x, xs: lib.grad(f, (0, 1))(w, x),
    "jvp": lambda lib, f: lambda w, x, xs: lib.jvp(f, (w, x), (w * 3, x * w)),
    "vjp": lambda lib, f: lambda w, x, xs: lib.vjp(f, w, x)[1](w),
    "hessian": lambda lib, f: lambda w, x, xs: lib.hessian(f)(w, x),
    "vmap": lambda lib, f: lambda w, x, xs: lib.vmap(f, (None, 0))(w, xs),
    "vmap(grad)": lambda lib, f: (
        lambda w, x, xs: lib.vmap(lib.grad(f, (0, 1)), (None, 0))(w, xs)
    ),
    "grad(vmap)": lambda lib, f: (
        lambda w, x, xs: lib.grad(lambda w: lib.vmap(f, (None, 0))(w, xs).sum())(w)
    ),
    "scan": lambda lib, f: (
        lambda w, x, xs: lib.scan(lambda c, x: (c * 0.3 + f(w, x), f(c, x)), w, xs)
    ),
    "while_loop": lambda lib, f: (
        lambda w, x, xs: lib.while_loop(
            lambda c: c[1] < 3, lambda c: (f(w, x) + c[0] * 0.3, c[1] + 1), (w, 0)
        )
    ),
    "cond": lambda lib, f: (
        lambda w, x, xs: lib.cond(w > 0, f, lambda w, x: w * 2, w, x)
    ),
    "grad(checkpoint)": lambda lib, f: (
        lambda w, x, xs: lib.grad(lib.checkpoint(f), (0, 1))(w, x)
    ),
}
# jit stands outermost, around another.
JITTED = ("grad", "jvp", "vmap", "vmap(grad)", "scan", "while_loop")
OUTSIDE |= {"jit": lambda lib, f: lib.jit(lambda w, x, xs: f(w, x))}
OUTSIDE |= {
    f"jit({name})": lambda lib, f, within=OUTSIDE[name]: lib.jit(within(lib, f))
    for name in JITTED
}


def expected(inside: str, outside: str) -> list[torch.Tensor]:
    """The leaves of jax's result."""
    with jax.enable_x64(True):
        function = OUTSIDE[outside](THEIRS, INSIDE[inside](THEIRS))
        args = [jnp.asarray(leaf.numpy()) for leaf in (W, X, XS)]
        # Compiled as a whole, jax is fast enough for all pairs.
        leaves = jax.tree.leaves(jax.jit(function)(*args))
        arrays = [jnp.asarray(leaf).tolist() for leaf in leaves]
        return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def outcome(inside: str, outside: str) -> str:
    """`yes`, `no: ` and what it raises, or an AssertionError where it is wrong."""
    theirs = expected(inside, outside)
    function = OUTSIDE[outside](OURS, INSIDE[inside](OURS))
    try:
        result = function(W, X, XS)
    except Exception as error:
        return f"no: {type(error).__name__}: {_reason(error)}"
    ours = [leaf.double() for leaf in jax.tree.leaves(result)]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-12, atol=1e-13)
    return "yes"


def _reason(error: Exception) -> str:
    """The first sentence of an error, up to what may differ the next time."""
    text = str(error).strip().splitlines()[0].split("cannot be compiled: ")[-1]
    return re.split(r"\. |`|\(| at 0x|, but found", text)[0]


def row(inside: str, outcomes: dict[str, str], notes: list[str]) -> str:
    """One line of the table; what is refused is added to the notes."""
    cells = []
    for outside in OUTSIDE:
        result = outcomes[outside]
        if result != "yes" and result not in notes:
            notes.append(result)
        mark = "yes" if result == "yes" else f"no ({notes.index(result) + 1})"
        cells.append(mark)
    return "| `" + inside + "` | " + " | ".join(cells) + " |"


def page(table: dict[str, dict[str, str]]) -> str:
    """The page of the docs."""
    notes: list[str] = []
    rows = [row(inside, outcomes, notes) for inside, outcomes in table.items()]
    head = "| inside | " + " | ".join(f"`{name}`" for name in OUTSIDE) + " |"
    rule = "|---" * (len(OUTSIDE) + 1) + "|"
    listed = [
        f"{number}. `{note.removeprefix('no: ')}`"
        for number, note in enumerate(notes, 1)
    ]
    return "\n".join([INTRODUCTION, head, rule, *rows, "", *listed]).rstrip() + "\n"


INTRODUCTION = """\
# What composes with what

Each row is a transform of a function, or a function that contains a loop; each column
is a transform around it. `yes`: the pair is computed here and in JAX, and the results
are equal to float64 rounding. `no`: it raises the error below the table. No pair is
silently wrong. `python tests/compose.py` runs all pairs and writes this page; the tests
run them too.

`jit` stands outermost; inside another transform it is the plain call. `jit(scan)` and
`jit(while_loop)` are loops in the graph, on torch's operators.
"""


def main() -> None:
    """Writes the page."""
    _compile.BACKEND = "eager"
    table = {i: {o: outcome(i, o) for o in OUTSIDE} for i in INSIDE}
    PAGE.write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main()
