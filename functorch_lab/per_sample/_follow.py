# SPDX-License-Identifier: Apache-2.0
"""Following a parameter through its views, and refusing to change it."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab.per_sample._changes import CHANGES, refusal
from functorch_lab.per_sample._frame import View
from functorch_lab.per_sample._uses import Direct
from functorch_lab.per_sample._views import ALIASES, CASTS, VIEWS, is_basic, views

if TYPE_CHECKING:
    from functorch_lab.per_sample._tape import Tape

FOLLOWED = VIEWS | CASTS | ALIASES

# Methods that Python implements call their like of the base class, which Dynamo finds
# only when they are called as methods.
_PYTHON_METHODS = frozenset(
    name
    for name, method in vars(torch.Tensor).items()
    if isinstance(method, types.FunctionType)
)


class Tracked(NamedTuple):
    """A stand-in, or a view of one, beside the same view of the parameter itself."""

    stand_in: Tensor
    parameter: Tensor
    view: View


class Memory(NamedTuple):
    """Whose memory a tensor may share: a leaf's, or that of a copy of it."""

    leaf: int
    copied: bool = False


def plainly(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls a function of torch that a mode was asked about."""
    if name in _PYTHON_METHODS and isinstance(args[0], Tensor):
        return getattr(args[0], name)(*args[1:], **kwargs)
    return func(*args, **kwargs)


def follow(
    tape: Tape,
    func: Callable[..., Any],
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Calls one of `FOLLOWED`, and notes it if it gives a view of a parameter."""
    if not args and "input" in kwargs:
        kwargs = dict(kwargs)
        args = (kwargs.pop("input"),)
    memory = tape.memory.get(args[0]) if args and isinstance(args[0], Tensor) else None
    if memory is None:
        return plainly(func, name, args, kwargs)
    if name == "as_strided":
        args = (_in_order(tape, memory, args[0]), *args[1:])
    # What is computed without gradients does not pass any on to the parameter.
    found = None
    if name not in ALIASES and torch.is_grad_enabled() and not tape.is_inside():
        found = tape.tracked.get(args[0])
    twin = None
    if found is not None:
        twin = plainly(func, name, (found.parameter, *args[1:]), kwargs)
        if name in CASTS and name != "clone" and _is_new(twin, found.parameter):
            # Of the stand-in it would be a copy for each sample.
            result = replaced(tape, twin, found.view)
            _note(tape, memory, [result], [twin], [found.view])
            return result
    result = plainly(func, name, args, kwargs)
    several = list(result) if isinstance(result, tuple | list) else [result]
    if name in CASTS and not _is_same(args[0], result):
        return result
    if name == "__getitem__" and not is_basic(args[1]):
        return result  # a copy
    if name == "clone":
        memory = Memory(memory.leaf, copied=True)
    twins, seen = [], []
    if found is not None:
        twins = list(twin) if isinstance(twin, tuple | list) else [twin]
        seen = [found.view]
        if name in VIEWS:
            shape = tuple(args[0].shape)
            seen = views(found.view, shape, name, args[1:], kwargs)
    _note(tape, memory, several, twins, seen)
    return result


def _in_order(tape: Tape, memory: Memory, tensor: Tensor) -> Tensor:
    """A copy for each sample, that `as_strided` finds as the parameter lies in memory.

    Of the stand-in, whose samples share memory, autograd would give each the mean.

    Raises:
        ValueError: the parameter, or this view of it, lies there in another way.
    """
    # While Dynamo traces no offset is known; the abstract run of fl.jit has seen it.
    offset = 0 if torch.compiler.is_compiling() else tensor.storage_offset()
    if offset or not tensor.is_contiguous():
        raise ValueError(
            f"per_sample: params{tape.names[memory.leaf]}: as_strided: expected a "
            "contiguous parameter at the beginning of its memory, got another or a "
            "view. Write the view with slices, transpose or unfold."
        )
    return tensor.clone(memory_format=torch.contiguous_format)


def _note(
    tape: Tape,
    memory: Memory,
    results: list[Tensor],
    twins: list[Any],
    seen: Sequence[View | None],
) -> None:
    tape.memory.update(dict.fromkeys(results, memory))
    for result, twin, view in zip(results, twins, seen, strict=False):
        if view is not None:
            tape.tracked[result] = Tracked(result, twin, view)


def _is_same(tensor: Tensor, cast: Any) -> bool:
    """Whether a cast may have given the tensor itself."""
    return (
        isinstance(cast, Tensor)
        and cast.dtype == tensor.dtype
        and cast.device == tensor.device
    )


def _is_new(twin: Any, parameter: Tensor) -> bool:
    """Whether a cast gave another tensor that passes gradients on."""
    return (
        isinstance(twin, Tensor)
        and twin is not parameter
        and twin.is_floating_point()
        and twin.device == parameter.device
    )


def replaced(tape: Tape, tensor: Tensor, view: View) -> Tensor:
    """A stand-in of its own for what was computed from a parameter."""
    frame = view.frame((), (), tuple(range(tensor.ndim)))

    def build(delta: Tensor) -> Direct:
        return Direct(frame.place(delta.reshape(delta.shape[0], 1, 1, -1)))

    return tape.probed(tensor, (), [(view.index, build)], stands_in=True)


def check_change(
    tape: Tape, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Before an operation that writes to its first argument, or to `out=`.

    Raises:
        RuntimeError: it would write to a parameter.
    """
    written = [kwargs.get("out")]
    if name in CHANGES or kwargs.get("inplace"):
        first = kwargs.get("input", kwargs.get("tensor"))
        written.append(args[0] if args else first)
    for tensor in _flat(written):
        memory = tape.memory.get(tensor)
        if memory is None:
            continue
        if not memory.copied:
            raise RuntimeError(refusal(tape.names[memory.leaf], name))
        # A copy may be changed; from then on it is another tensor.
        for other, belongs in tape.memory.items():
            if belongs == memory:
                tape.tracked.pop(other, None)


def _flat(found: Any) -> list[Tensor]:
    if isinstance(found, tuple | list):
        return [tensor for each in found for tensor in _flat(each)]
    return [found] if isinstance(found, Tensor) else []
