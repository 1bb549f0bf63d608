# SPDX-License-Identifier: Apache-2.0
"""Loops on torch's own operators, whose graph holds one step whatever the length.

The operators survive neither `torch.func` around them nor, in compiled code, a gradient
through them; gradients inside of a step are fine if `torch.func` takes them. So a loop
rolls only where `jit` traces it outside of every transform, and where nothing that it
returns requires grad. What they cannot take is unrolled: a step that fails in the
abstract run is noted by its name, and if the compiler fails, `jit` traces once more
with every loop unrolled.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms import _engine

Step = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]


class _State(threading.local):
    allowed = False
    used = False
    unrolled: frozenset[str] = frozenset()


class _Look(threading.local):
    def __init__(self) -> None:
        self.now = False


_state = _State()
_look = _Look()


@contextlib.contextmanager
def rolling(allowed: bool) -> Iterator[None]:
    """Around a trace: whether its loops may be rolled."""
    before = _state.allowed, _state.used, _state.unrolled
    _state.allowed, _state.used, _state.unrolled = allowed, False, frozenset()
    try:
        yield
    finally:
        _state.allowed, _state.used, _state.unrolled = before


def used() -> bool:
    """Whether the abstract run of this trace has rolled a loop."""
    return _state.used


def _constant(function: Any) -> Any:
    """`torch.compiler.assume_constant_result`, which would import Dynamo here."""
    function._dynamo_marked_constant = True
    return function


# A constant of the trace: Dynamo would guard on what it reads, at every call.
@_constant
def _allowed(name: str) -> bool:
    return _state.allowed and name not in _state.unrolled


def look(name: str, step: Callable[[], list[Any]]) -> bool:
    """Whether a loop can be rolled, by a look at one step of it.

    Args:
        name: the step's name.
        step: takes one step, whose values nobody uses, and returns its results.
    """
    if torch._C._are_functorch_transforms_active() or not _allowed(name):
        return False
    if torch.compiler.is_dynamo_compiling():
        return not _requires_grad(_looked(step))
    try:
        found = _looked(step)
    except Exception:
        # The loop, unrolled, raises it again if it is the user's.
        _state.unrolled |= {name}
        return False
    return not _requires_grad(found)


def _looked(step: Callable[[], list[Any]]) -> list[Any]:
    before = _look.now
    if not before:
        _look.now = True
    try:
        return _engine.in_operator(step)
    finally:
        if not before:
            _look.now = False


def is_looking() -> bool:
    """Whether this is a step that is only looked at: nothing is to be seen of it."""
    return _look.now


def _requires_grad(found: list[Any]) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in found)


def scan(
    step: Step, init: list[Tensor], xs: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The last carry and the stacked results of `step(carry, x)`, over flat lists."""

    def body(carry: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        carry, ys = step(carry, x)
        return _own(carry), _own(ys)

    return _engine.in_operator(lambda: _scan(body, _own(init), xs))


def _scan(body: Step, init: list[Tensor], xs: list[Tensor]) -> Any:
    if torch.compiler.is_dynamo_compiling():
        from torch._higher_order_ops.scan import scan as operator

        with torch.no_grad():
            carry, ys = operator(body, init, xs)
        _mend_dynamo()
        return list(carry), list(ys)
    _state.used = True
    carry, ys = body(init, [x[0] for x in xs])
    return carry, [y.new_empty(len(xs[0]), *y.shape) for y in ys]


def while_loop(
    cond: Callable[[list[Tensor]], Tensor],
    step: Callable[[list[Tensor]], list[Tensor]],
    init: list[Tensor],
) -> list[Tensor]:
    """The last value of `while cond(value): value = step(value)`, over a flat list."""
    return _engine.in_operator(lambda: _while_loop(cond, step, _own(init)))


def _while_loop(cond: Any, step: Any, init: list[Tensor]) -> list[Tensor]:
    if torch.compiler.is_dynamo_compiling():
        from torch._higher_order_ops.while_loop import while_loop as operator

        with torch.no_grad():
            result = operator(
                lambda *value: cond(list(value)),
                lambda *value: tuple(_own(step(list(value)))),
                tuple(init),
            )
        _mend_dynamo()
        return list(result)
    _state.used = True
    return _own(step(init))


@_constant
def _mend_dynamo() -> None:
    """Lets attributes be assigned again while Dynamo goes on tracing.

    After an operator Dynamo looks at a copy of its table of assigned attributes, but an
    object that was assigned to before still writes into the old one (torch 2.13), so
    that the value of `a.x = new` would be the old one.
    """
    from torch._dynamo.symbolic_convert import InstructionTranslator

    translator: Any = InstructionTranslator.current_tx()
    table = translator.output.side_effects
    objects = [*table.store_attr_mutations, *table.id_to_variable.values()]
    for found in objects:
        attributes = getattr(getattr(found, "dict_vt", None), "items", None)
        if attributes is not None and hasattr(attributes, "side_effects"):
            attributes.side_effects = table


def _own(found: list[Tensor]) -> list[Tensor]:
    """Copies: the operators refuse results that share memory, and other strides."""
    return [x.detach().clone(memory_format=torch.contiguous_format) for x in found]
