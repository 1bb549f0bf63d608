# SPDX-License-Identifier: Apache-2.0
"""Loops that keep their last value only: a count of steps, or until a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms import _operator
from functorch_lab.transforms._carry import Carry, require_function
from functorch_lab.transforms._flat import (
    flatten,
    kind_of,
    map_tensors,
    name_of,
    unflatten,
)
from functorch_lab.transforms._scan import Loop, filled, present
from functorch_lab.transforms._values import chosen, known_value, known_values


def fori_loop(
    lower: int | Tensor,
    upper: int | Tensor,
    body: Callable[[Tensor, Any], Any],
    init: Any,
) -> Any:
    """`for i in range(lower, upper): value = body(i, value)`.

    As `scan`, a Python loop: right under every transform, and one step in the graph or
    all of them under `jit`. All of them where `body` needs the value of the index, as
    in `x[i]`; `scan` over `x` does not.

    Args:
        lower: the first index.
        upper: the end, which is not reached. Both are ints, or 0-d integer tensors
            whose value is known: not mapped by `vmap`, no arguments under `jit`.
        body: one step, a pure function of the index, a 0-d int64 tensor, and the value.
        init: the first value: a tree of tensors or numbers, as in `scan`.

    Returns:
        The last value; `init` where there are no steps.

    Raises:
        TypeError: `body` is no function; a bound is no integer; `init` holds what is
            no tensor or number.
        ValueError: a bound has no known value; the value changes its structure, a
            shape, dtype or device.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.fori_loop(2, 5, lambda i, value: value * i, torch.tensor(10))
        tensor(240)

    Source: the semantics of `jax.lax.fori_loop`.
    """
    require_function("fori_loop", "body", body)
    start, stop = _bound("lower", lower), _bound("upper", upper)
    if stop - start > 1:
        steps = torch.arange(start, stop)
        loop = Loop(lambda value, i: (body(i, value), None), init, steps, 1)
        if _operator.look(name_of(body), loop.first):
            return loop.run(stop - start)[0]
    carry = Carry("fori_loop", body, init)
    for number in range(start, stop):
        # A tensor made from a constant keeps its value while jit traces, so that x[i]
        # stays possible there.
        i = torch.tensor(number)
        carry.advance(lambda value, i=i: (body(i, value), None))
    return carry.tree


def while_loop(
    cond: Callable[[Any], Tensor | bool],
    body: Callable[[Any], Any],
    init: Any,
    *,
    max_steps: int | None = None,
) -> Any:
    """`while cond(value): value = body(value)`, at most `max_steps` times.

    Where the condition has one known value (eagerly, and there also under `grad` and
    `jvp`) it is a Python loop, and differentiable. Under `vmap`, each sample stops by
    itself: the body is computed for all of them until the last has stopped, and a
    sample that has stopped keeps its value and its derivative. Under `jit` it is a loop
    in the graph, as long as no other transform is around it and no gradient is taken
    through it; elsewhere nothing is known while the loop is traced, so that `max_steps`
    steps are computed, as for samples. After it has stopped, a sample calls the body on
    `init`, not on its last value, where a body such as `1 / (value - limit)` may divide
    by zero.

    Args:
        cond: a pure function of the value; a 0-d bool.
        body: one step, a pure function of the value.
        init: the first value: a tree of tensors or numbers, as in `scan`.
        max_steps: a bound for the number of steps, which `jit` of another transform of
            the loop requires. A loop that has not ended by then stops there, in eager
            mode too.

    Returns:
        The last value.

    Raises:
        TypeError: `cond` or `body` is no function; the condition is no bool; `init`
            holds what is no tensor or number.
        ValueError: the condition is not 0-d; the value changes its structure, a shape,
            dtype or device; `max_steps` is negative, or missing under `jit`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> collatz = lambda n: torch.where(n % 2 == 0, n // 2, 3 * n + 1)
        >>> start = {"n": torch.tensor(6), "steps": 0}
        >>> step = lambda v: {"n": collatz(v["n"]), "steps": v["steps"] + 1}
        >>> fl.while_loop(lambda v: v["n"] != 1, step, start)
        {'n': tensor(1), 'steps': tensor(8)}

    Source: the semantics of `jax.lax.while_loop`.
    """
    require_function("while_loop", "cond", cond)
    require_function("while_loop", "body", body)
    if max_steps is not None and (not isinstance(max_steps, int) or max_steps < 0):
        raise ValueError(
            f"while_loop: max_steps: expected an int of 0 or more, or None, got "
            f"{max_steps!r}. Leave it out where the loop is not compiled."
        )
    if max_steps != 0:
        loop = _While(cond, body, init, max_steps)
        if _operator.look(name_of(body), loop.first):
            return loop.run()
    carry = Carry("while_loop", body, init)
    first = map_tensors(Tensor.detach, carry.leaves)
    step = 0
    while max_steps is None or step < max_steps:
        going = _condition(cond, carry.tree)
        values = known_values(going)
        if values is not None and not values.any():
            break
        if values is None and max_steps is None:
            raise ValueError(
                f"while_loop: {name_of(body)}: max_steps: expected a bound where the "
                "condition has no value, as in a derivative or vmap under jit, got "
                "None. Pass max_steps=..., or run the loop eagerly."
            )
        if values is not None and values.all():
            carry.advance(lambda value: (body(value), None))
        else:
            _advance_some(carry, body, going, first)
        step += 1
    return carry.tree


class _While:
    """The loop on torch's operator."""

    def __init__(self, cond: Any, body: Any, init: Any, max_steps: int | None) -> None:
        self.cond, self.body, self.max_steps = cond, body, max_steps
        self.carry = Carry("while_loop", body, init)

    def first(self) -> list[Any]:
        """The results of the first step, which tell the types of all."""
        self._advance(self.carry)
        return [*self.carry.leaves, _condition(self.cond, self.carry.tree)]

    def run(self) -> Any:
        start, spec = self.carry.previous, self.carry.spec
        zero = torch.zeros((), dtype=torch.int64)

        def going(values: list[Tensor]) -> Tensor:
            more = _condition(self.cond, unflatten(spec, filled(start, values[1:])))
            limit = self.max_steps
            return more if limit is None else more & (values[0] < limit)

        def step(values: list[Tensor]) -> list[Tensor]:
            tree = unflatten(spec, filled(start, values[1:]))
            carry = Carry("while_loop", self.body, tree)
            self._advance(carry)
            return [values[0] + 1, *present(carry.leaves)]

        values = _operator.while_loop(going, step, [zero, *present(start)])
        return unflatten(spec, filled(start, values[1:]))

    def _advance(self, carry: Carry) -> None:
        carry.advance(lambda value: (self.body(value), None))


def _advance_some(
    carry: Carry, body: Callable[[Any], Any], going: Tensor, first: list[Any]
) -> None:
    """One step of the samples that are going; the others keep their values."""

    def step(value: Any) -> tuple[Any, None]:
        # The detached input keeps the derivative of a stopped sample out of the body,
        # where zero times infinity would make it NaN.
        found, spec = flatten(value)
        safe = [
            a.to(b.dtype) if isinstance(b, Tensor) else a
            for a, b in zip(first, found, strict=True)
        ]
        return body(unflatten(spec, chosen(going, found, safe))), None

    carry.advance(step)
    carry.leaves = chosen(going, carry.leaves, carry.previous)


def _condition(cond: Callable[[Any], Any], value: Any) -> Tensor:
    result = cond(value)
    if isinstance(result, bool):
        result = torch.tensor(result)
    if not isinstance(result, Tensor) or result.dtype != torch.bool:
        raise TypeError(
            f"while_loop: {name_of(cond)}: expected a bool, got {kind_of(result)}. "
            "Return a comparison, such as value < limit."
        )
    if result.ndim:
        raise ValueError(
            f"while_loop: {name_of(cond)}: expected a 0-d bool, got {kind_of(result)}. "
            "Reduce it with .any() or .all(), or map the loop with vmap."
        )
    return result


def _bound(name: str, bound: Any) -> int:
    if isinstance(bound, Tensor) and not bound.ndim and _is_integer(bound.dtype):
        value = known_value(bound)
        if value is None:
            raise ValueError(
                f"fori_loop: {name}: expected an int, or a tensor whose value is known,"
                f" got {kind_of(bound)} under jit or vmap. Pass an int, or use "
                "while_loop with max_steps."
            )
        return int(value.real)
    if isinstance(bound, bool) or not isinstance(bound, int):
        raise TypeError(
            f"fori_loop: {name}: expected an int or a 0-d integer tensor, got "
            f"{kind_of(bound)}. Pass an int."
        )
    return bound


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
