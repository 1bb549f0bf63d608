# SPDX-License-Identifier: Apache-2.0
"""A tape that also remembers where a loss uses its parameters, and how."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
)

from functorch_lab.per_sample._collect import Found
from functorch_lab.per_sample._tape import RULES, Tape
from functorch_lab.per_sample._uses import Direct
from functorch_lab.per_sample._views import CASTS
from functorch_lab.transforms._abstract import is_library
from functorch_lab.transforms._flat import leaves, name_of

REMEDY = (
    "Write it with the parameter itself in linear, matmul, einsum or a convolution."
)


class Place(NamedTuple):
    """Where the user's code uses a parameter.

    Attributes:
        operation: the name of torch's function or method.
        line: `file:line`.
        problem: why it is a fallback; empty if it is none.
    """

    operation: str
    line: str
    problem: str = ""


class Watch(Tape):
    """Notes the place of each recognised use, and of all others.

    Attributes:
        recognised: the place of each output with a probe, by number.
        others: of each leaf the places that no rule knows.
    """

    def __init__(
        self,
        stand_ins: Sequence[Tensor],
        parameters: Sequence[Tensor],
        names: Sequence[str],
        probes: Sequence[Tensor] | None,
    ) -> None:
        super().__init__(stand_ins, parameters, names, probes)
        self.recognised: dict[int, Place] = {}
        self.others: list[list[Place]] = [[] for _ in parameters]
        self._made: dict[int, Tensor] = {}  # from parameters alone

    def is_unknown(self, number: int | None) -> bool:
        """Whether a use is that of operations without a rule.

        They get the stand-in, or one for the parameter in another dtype.
        """
        return number is None or self.recognised[number].operation in CASTS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        tensors = [
            leaf for leaf in leaves((args, kwargs or {})) if isinstance(leaf, Tensor)
        ]
        outputs, before = len(self.outputs), [len(places) for places in self.others]
        result = super().__torch_function__(func, types, args, kwargs)
        for number in range(outputs, len(self.outputs)):
            self.recognised.setdefault(number, Place(_name(func), _line()))
        seen = {leaf for builds in self.builds[outputs:] for leaf, _ in builds}
        seen |= {i for i, count in enumerate(before) if len(self.others[i]) > count}
        self._note(_name(func), tensors, seen, result)
        return result

    def _note(
        self, name: str, tensors: list[Tensor], seen: set[int], result: Any
    ) -> None:
        results = [x for x in leaves(result) if _is_differentiated(x)]
        if not results or any(self.find(x) is not None for x in results):
            return  # no use, or the view of a parameter
        data = [
            x
            for x in tensors
            if _is_batched(x) and self.find(x) is None and id(x) not in self._made
        ]
        if not data:
            self._made.update({id(x): x for x in results})
        largest = max(x.numel() for x in results)
        for tensor in tensors:
            known = self.find(tensor)
            if known is None or known.view.index in seen:
                continue
            is_small = tensor.numel() <= largest and (bool(data) or tensor.ndim < 2)
            problem = "" if is_small else self._problem(name, bool(data))
            self.others[known.view.index].append(Place(name, _line(), problem))

    def _problem(self, name: str, meets_data: bool) -> str:
        if not meets_data:
            return f"{name} makes another tensor of it"
        if self.is_inside():
            return f"{name} within a derivative or vmap that the loss takes itself"
        if name in RULES:
            return f"{name} in a form that has no rule"
        return f"{name} has no rule"


def places_of(found: Found, leaf: int, numbers: list[int | None]) -> list[Place]:
    """Where the loss has the uses of a leaf that `find` gave with these numbers."""
    watch = _watch_of(found)
    known = [n for n in numbers if n is not None and not watch.is_unknown(n)]
    places = [watch.recognised[n] for n in known]
    if any(watch.is_unknown(n) for n in numbers):
        unknown = Place("an operation that torch does not show", "an unknown line")
        places += watch.others[leaf] or [unknown]
    return places


def require_factored(where: str, loss_fn: Callable[..., Any], found: Found) -> None:
    """For `method='factored'`.

    Raises:
        ValueError: a leaf falls back to a gradient for each sample.
    """
    watch = _watch_of(found)
    for leaf, uses in enumerate(found.uses):
        fell = any(watch.is_unknown(n) and isinstance(use, Direct) for n, use in uses)
        for place in watch.others[leaf] if fell else []:
            if place.problem:
                raise ValueError(
                    f"per_sample.{where}: {name_of(loss_fn)}: {place.line}: expected "
                    "operations with factors for method='factored', got "
                    f"params{watch.names[leaf]}: {place.problem}. "
                    f"{REMEDY} Or pass method='auto', which forms its gradients."
                )


def _watch_of(found: Found) -> Watch:
    assert isinstance(found.tape, Watch)
    return found.tape


def _line() -> str:
    """`file:line`, the innermost that is neither torch's nor ours."""
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        if not is_library(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{line}"
    return "an unknown line"


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # an attribute of tensors
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _is_batched(tensor: Tensor) -> bool:
    """Whether it has a value for each sample."""
    return _any_wrapped(tensor, is_batchedtensor)


def _is_differentiated(value: object) -> bool:
    """Whether a derivative flows through it, at any level of wrapping."""
    return isinstance(value, Tensor) and _any_wrapped(value, _requires_grad)


def _requires_grad(tensor: Tensor) -> bool:
    return tensor.requires_grad


def _any_wrapped(tensor: Tensor, question: Callable[[Tensor], bool]) -> bool:
    while not question(tensor):
        if not is_functorch_wrapped_tensor(tensor):
            return False
        tensor = get_unwrapped(tensor)
    return True
