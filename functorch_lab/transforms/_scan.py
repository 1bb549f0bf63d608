# SPDX-License-Identifier: Apache-2.0
"""A loop that carries a state over a sequence and collects what each step gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms import _operator
from functorch_lab.transforms._carry import NUMBERS, Carry, path_of, require_function
from functorch_lab.transforms._flat import flatten, kind_of, name_of, unflatten


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """Calls `carry, y = f(carry, x)` for each `x`, and stacks the `y`.

    It is a Python loop, right under every transform and in each other. Under `jit`, the
    graph holds one step and a loop over it (torch's scan operator), whatever the
    length, as long as no other transform is around the loop and no gradient is taken
    through it: a training loop compiles in the time of one step. Elsewhere the graph
    holds each step, and compiling takes time in proportion to the length. To keep only
    the carries for a backward pass, scan over `checkpoint(f)`.

    Args:
        f: one step, a pure function of the carry and of one element of `xs`.
        init: the first carry: a tree of tensors. Numbers become 0-d tensors of the
            dtype that the first step gives them.
        xs: a tree of tensors with a leading axis, over which the loop runs; None calls
            `f(carry, None)`, `length` times.
        length: the number of steps, where it does not follow from `xs`.
        reverse: whether the loop runs from the last element to the first. Each `y`
            stands where its `x` stood.
        unroll: how many steps one iteration of the compiled loop takes: more compile
            longer and run faster where a step is small. True unrolls the loop.

    Returns:
        `(carry, ys)`, the last carry and a tree like `y` whose leaves have a leading
        axis of the loop's length. With no steps, `f` is called once, on zeros in place
        of `x`, for the shapes of the `ys` alone.

    Raises:
        TypeError: `f` is no function or returns no pair; `init`, `xs` or a `y` holds
            what is no tensor.
        ValueError: the length is not given, negative, or differs between `xs` and
            `length`; the carry changes its structure, a shape, dtype or device; the
            `y` of two steps differ in structure, shape or dtype; `unroll` is below 1.

    Example:
        >>> import torch, functorch_lab as fl
        >>> f = lambda total, x: (total + x, total * x)
        >>> fl.scan(f, torch.tensor(10.0), torch.tensor([1.0, 2.0, 3.0]))
        (tensor(16.), tensor([10., 22., 39.]))

    Source: the semantics of `jax.lax.scan`.
    """
    require_function("scan", "f", f)
    if isinstance(unroll, int) and not isinstance(unroll, bool) and unroll < 1:
        raise ValueError(
            f"scan: unroll: expected at least 1, or a bool, got {unroll}. Leave it out."
        )
    found, spec = flatten(xs)
    count = _length(found, xs, length)
    carry = Carry("scan", f, init)
    chunk = count if unroll is True else int(unroll) or 1
    if count >= 2 * chunk:
        loop = Loop(f, init, xs, chunk)
        if _operator.look(name_of(f), loop.first):
            return loop.run(count, reverse=reverse)
    ys = _Stack(f)
    # One unbind, whose derivative is one stack; indexing would make, in the backward
    # pass, a gradient of the size of all of xs for each step.
    columns = [x.unbind(0) if x is not None else None for x in found]
    steps = range(count)
    for t in reversed(steps) if reverse else steps:
        x = unflatten(spec, [None if c is None else c[t] for c in columns])
        ys.append(carry.advance(lambda c, x=x: _pair(f, f(c, x))))
    if count == 0:
        blank = [None if x is None else x.new_zeros(x.shape[1:]) for x in found]
        result, y = _pair(f, f(carry.tree, unflatten(spec, blank)))
        carry.checked(result)
        ys.append(y)
        return carry.tree, ys.stacked(stop=0)
    return carry.tree, ys.stacked(reverse=reverse)


class _Stack:
    """The results of the steps, leaf by leaf."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.where = f"scan: {name_of(fn)}: y"
        self.columns: list[list[Tensor | None]] = []
        self.spec: Any = None

    def append(self, y: Any) -> None:
        found, spec = flatten(y)
        if self.spec is None:
            self.spec = spec
            self.columns = [[] for _ in found]
        remedy = "Return a y of the same structure, shapes and dtypes in each step."
        if spec != self.spec:
            raise ValueError(
                f"{self.where}: expected the structure {self.spec} of the first step, "
                f"got {spec}. {remedy}"
            )
        for index, (column, leaf) in enumerate(zip(self.columns, found, strict=True)):
            if leaf is not None and not isinstance(leaf, (Tensor, *NUMBERS)):
                raise TypeError(
                    f"{self.where}: expected tensors, got {kind_of(leaf)} at "
                    f"{path_of(y, index)}. Return tensors only."
                )
            value = torch.tensor(leaf) if isinstance(leaf, NUMBERS) else leaf
            if column and not _alike(column[0], value):
                raise ValueError(
                    f"{self.where}: expected {kind_of(column[0])} at "
                    f"{path_of(y, index)}, as in the first step, got {kind_of(value)}. "
                    f"{remedy}"
                )
            column.append(value)

    def stacked(self, *, reverse: bool = False, stop: int | None = None) -> Any:
        return unflatten(self.spec, self.leaves(reverse=reverse, stop=stop))

    def leaves(
        self, *, reverse: bool = False, stop: int | None = None
    ) -> list[Tensor | None]:
        leaves: list[Tensor | None] = []
        for column in self.columns:
            tensors = [value for value in column if value is not None]
            if not tensors:
                leaves.append(None)
                continue
            stack = torch.stack(tensors[::-1] if reverse else tensors)
            # Of no steps nothing is left, not even a way for a gradient.
            leaves.append(stack if stop is None else stack.detach()[:stop])
        return leaves


class Loop:
    """The loop on torch's operator, `chunk` steps in each of its iterations."""

    def __init__(self, f: Callable[..., Any], init: Any, xs: Any, chunk: int) -> None:
        self.f, self.chunk = f, chunk
        self.carry, self.ys = Carry("scan", f, init), _Stack(f)
        self.found, self.spec = flatten(xs)

    def first(self) -> list[Any]:
        """The results of the first step, which tell the types of all."""
        self._advance(self.carry, self.ys, [_row(x, 0) for x in self.found])
        return [*self.carry.leaves, *(column[0] for column in self.ys.columns)]

    def run(self, count: int, *, reverse: bool = False) -> tuple[Any, Any]:
        """The last carry and the stacked results, in the structures of the first."""
        start = self.carry.previous
        found = [x.flip(0) if reverse and x is not None else x for x in self.found]
        whole = count // self.chunk * self.chunk
        values, columns = _operator.scan(
            lambda values, rows: self._chunk(start, values, rows),
            # The operator wants a carry, an x and a y, which a step may do without.
            present(start) or [torch.zeros(())],
            [self._cut(x[:whole]) for x in present(found) or [torch.zeros(count)]],
        )
        carry = self._carry(filled(start, values))
        firsts = [column[0] for column in self.ys.columns]
        columns = columns if present(firsts) else []
        if self.chunk > 1:
            columns = [column.flatten(0, 1) for column in columns]
        rest = _Stack(self.f)
        for t in range(whole, count):
            self._advance(carry, rest, [_row(x, t) for x in found])
        if whole < count:
            tails = present(rest.leaves())
            columns = [torch.cat(p) for p in zip(columns, tails, strict=True)]
        if reverse:
            columns = [column.flip(0) for column in columns]
        ys = unflatten(self.ys.spec, filled(firsts, columns))
        return carry.tree, ys

    def _carry(self, leaves: list[Any]) -> Carry:
        return Carry("scan", self.f, unflatten(self.carry.spec, leaves))

    def _chunk(
        self, start: list[Any], values: list[Tensor], rows: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        carry, ys = self._carry(filled(start, values)), _Stack(self.f)
        x = filled(self.found, rows)
        for t in range(self.chunk):
            step = x if self.chunk == 1 else [_row(leaf, t) for leaf in x]
            self._advance(carry, ys, step)
        single = self.chunk == 1
        results = [column[0] for column in ys.columns] if single else ys.leaves()
        return present(carry.leaves) or values, present(results) or [torch.zeros(())]

    def _advance(self, carry: Carry, ys: _Stack, row: list[Any]) -> None:
        x = unflatten(self.spec, row)
        ys.append(carry.advance(lambda c: _pair(self.f, self.f(c, x))))

    def _cut(self, x: Tensor) -> Tensor:
        return x if self.chunk == 1 else x.unflatten(0, (-1, self.chunk))


def _row(x: Tensor | None, t: int) -> Tensor | None:
    return None if x is None else x[t]


def present(found: list[Any]) -> list[Tensor]:
    return [x for x in found if x is not None]


def filled(like: list[Any], values: list[Tensor]) -> list[Any]:
    """The values, with None where `like` has it."""
    rest = iter(values)
    return [None if x is None else next(rest) for x in like]


def _alike(first: Tensor | None, value: Tensor | None) -> bool:
    if first is None or value is None:
        return first is value
    return (first.shape, first.dtype) == (value.shape, value.dtype)


def _pair(fn: Callable[..., Any], result: Any) -> tuple[Any, Any]:
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], result[1]
    raise TypeError(
        f"scan: {name_of(fn)}: expected a pair (carry, y) as result, got "
        f"{_in_words(result)}. Return (carry, None) where there is no y."
    )


def _in_words(result: Any) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return kind_of(result)


def _length(found: list[Any], xs: Any, length: int | None) -> int:
    if length is not None and (not isinstance(length, int) or length < 0):
        raise ValueError(
            f"scan: length: expected an int of 0 or more, or None, got {length!r}. "
            "Leave it out where xs are given."
        )
    count, source = length, "length"
    for index, leaf in enumerate(found):
        if leaf is None:
            continue
        path = path_of(xs, index)
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            raise (ValueError if isinstance(leaf, Tensor) else TypeError)(
                f"scan: xs: expected tensors with a leading axis, got {kind_of(leaf)} "
                f"at {path}. Close f over what is the same in each step."
            )
        if count is not None and leaf.shape[0] != count:
            raise ValueError(
                f"scan: xs: expected the leading size {count} of {source}, got "
                f"{kind_of(leaf)} at {path}. Give all xs one leading size, and leave "
                "length out."
            )
        count, source = leaf.shape[0], path
    if count is None:
        raise ValueError(
            "scan: length: expected an int where xs is None or empty, got None. "
            "Pass length=..., the number of steps."
        )
    return count
