# SPDX-License-Identifier: Apache-2.0
"""A loop that carries a state over a sequence and collects what each step gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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

    It is a Python loop: right under every transform, in each other, and under `jit` a
    graph that holds each step, so that compiling takes time in proportion to the
    length. To keep only the carries for a backward pass, scan over `checkpoint(f)`.

    Args:
        f: one step, a pure function of the carry and of one element of `xs`.
        init: the first carry: a tree of tensors. Numbers become 0-d tensors of the
            dtype that the first step gives them.
        xs: a tree of tensors with a leading axis, over which the loop runs; None calls
            `f(carry, None)`, `length` times.
        length: the number of steps, where it does not follow from `xs`.
        reverse: whether the loop runs from the last element to the first. Each `y`
            stands where its `x` stood.
        unroll: accepted as in JAX, and without effect: all steps are unrolled.

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
        leaves: list[Tensor | None] = []
        for column in self.columns:
            tensors = [value for value in column if value is not None]
            if not tensors:
                leaves.append(None)
                continue
            stack = torch.stack(tensors[::-1] if reverse else tensors)
            # Of no steps nothing is left, not even a way for a gradient.
            leaves.append(stack if stop is None else stack.detach()[:stop])
        return unflatten(self.spec, leaves)


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
