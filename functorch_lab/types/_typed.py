# SPDX-License-Identifier: Apache-2.0
"""The boundary decorator: annotations checked in eager mode, absent while compiling."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

import jaxtyping
import torch
from jaxtyping import AbstractArray, Shaped
from jaxtyping import _decorator as jaxtyping_internals
from torch import Tensor

from functorch_lab.types._vocabulary import Params, is_tree_root

P = ParamSpec("P")
R = TypeVar("R")

_checking = os.environ.get("FUNCTORCH_LAB_TYPECHECK", "1") != "0"


def set_checking(on: bool) -> bool:
    """Turns the checks of `typed` functions on or off, and returns what it was before.

    The environment variable `FUNCTORCH_LAB_TYPECHECK=0` turns them off from the start.
    """
    global _checking
    previous, _checking = _checking, on
    return previous


def _axis_scope() -> Any:
    """A context in which an axis name keeps its size from one check to the next."""
    # jaxtyped("context") is the same, but imports jax, where that is installed.
    scope = getattr(jaxtyping_internals, "_JaxtypingContext", None)
    return scope() if scope else jaxtyping.jaxtyped("context")


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Checks arguments and result against the annotations of a function.

    Tensors are annotated with jaxtyping: `x: Float[Tensor, "*batch features"]`; an
    axis name has one size throughout a call. Other annotations go to beartype, which
    takes an int for a float; of `Params`, the root alone is looked at. Under `vmap` and
    `grad` the function sees per-sample shapes, and these are checked. While
    `torch.compile` traces, and after `set_checking(False)`, it is a plain call.

    Raises:
        ValueError: a tensor has another shape or dtype than annotated.
        TypeError: a value is of another kind than annotated.

    Example:
        >>> import torch
        >>> from jaxtyping import Float
        >>> from torch import Tensor
        >>> from functorch_lab.types import typed
        >>> @typed
        ... def dot(a: Float[Tensor, "n"], b: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        ...     return a @ b
        >>> dot(torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0]))
        tensor(31.)
        >>> dot(torch.ones(2), torch.ones(3))
        Traceback (most recent call last):
        ValueError: ...dot: b: expected Float[Tensor, 'n'] with n = 2, got float32 (3,). Check its axes.
    """  # noqa: E501
    checker: _Checker | None = None

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal checker
        if torch.compiler.is_dynamo_compiling() or not _checking:
            return function(*args, **kwargs)
        if checker is None:
            checker = _Checker(function)
        with _axis_scope():
            checker.check_arguments(args, kwargs)
            result = function(*args, **kwargs)
            checker.check_result(result)
        return result

    # A code object of its own: Dynamo counts recompiles per code object, and would
    # count all typed functions as one.
    code: Any = wrapper
    code.__code__ = code.__code__.replace(co_name=function.__name__)
    return wrapper


class _Checker:
    """The checks of one function, built at its first eager call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        closure = inspect.getclosurevars(function).nonlocals
        hints = get_type_hints(function, localns=closure, include_extras=True)
        self.name = _public_name(function)
        self.signature = inspect.signature(function)
        self.result_hint = hints.pop("return", None)
        self.hints = hints

    def check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError:
            return  # the call itself says better what is missing
        for name, value, hint in self._annotated(given):
            if not _conforms(value, hint):
                raise self._error(name, value, hint, given)

    def check_result(self, result: Any) -> None:
        hint = self.result_hint
        if hint is not None and not _conforms(result, hint):
            raise self._error("return value", result, hint, {})

    def _error(
        self, name: str, value: Any, hint: Any, given: dict[str, Any]
    ) -> TypeError | ValueError:
        arrays = [part for part in (hint, *get_args(hint)) if _is_array(part)]
        sizes: dict[str, Any] = {}
        for other, other_value, other_hint in self._annotated(given):
            if other == name:
                break
            if _is_array(other_hint):
                sizes |= _axis_sizes(other_hint.dim_str, other_value.shape)
        known = {
            axis: sizes[axis]
            for array in arrays
            for axis in _axis_names(array.dim_str)
            if axis in sizes
        }
        axes = ", ".join(f"{axis} = {size}" for axis, size in known.items())
        message = (
            f"{self.name}: {name}: expected {_hint_text(hint)}"
            f"{f' with {axes}' if axes else ''}, got {_value_text(value)}. "
            f"{_remedy(value, arrays)}"
        )
        kind = ValueError if isinstance(value, Tensor) and arrays else TypeError
        error = kind(message)
        error.__cause__ = _original(value, hint)
        return error

    def _annotated(self, given: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
        """Every given argument that is annotated; those of * and ** one by one."""
        for name, value in given.items():
            if name not in self.hints:
                continue
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                for index, item in enumerate(value):
                    yield f"{name}[{index}]", item, self.hints[name]
            elif kind is inspect.Parameter.VAR_KEYWORD:
                for key, item in value.items():
                    yield key, item, self.hints[name]
            else:
                yield name, value, self.hints[name]


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _conforms(value: Any, hint: Any) -> bool:
    if hint is Params:
        return is_tree_root(value)
    if _is_array(hint):
        return isinstance(value, hint)
    return _beartype().is_bearable(value, hint, conf=_beartype_settings())


def _original(value: Any, hint: Any) -> BaseException | None:
    """The account that beartype gives of a violation."""
    try:
        _beartype().die_if_unbearable(value, hint, conf=_beartype_settings())
    except Exception as error:
        return error
    return None


@functools.cache
def _beartype() -> Any:
    import beartype.door  # 0.2 s, so not before it is needed

    return beartype.door


@functools.cache
def _beartype_settings() -> Any:
    from beartype import BeartypeConf

    return BeartypeConf(is_pep484_tower=True)  # an int is a float, as in typing


def _axis_names(axes: str) -> list[str]:
    names = [axis.lstrip("#*?") for axis in axes.split()]
    return [name for name in names if name.isidentifier() and name != "_"]


def _axis_sizes(axes: str, shape: torch.Size) -> dict[str, Any]:
    """Sizes of the named axes of a tensor that conforms."""
    names = axes.split()
    sizes: list[Any] = list(shape)
    for index, name in enumerate(names):
        if name.startswith("*") or name == "...":
            end = len(shape) - (len(names) - index - 1)
            sizes = [*shape[:index], tuple(shape[index:end]), *shape[end:]]
    known = zip(names, sizes, strict=True)
    return {n.lstrip("*"): s for n, s in known if n.lstrip("*").isidentifier()}


def _hint_text(hint: Any) -> str:
    if hint is Params:
        return "a tree of tensors"
    if isinstance(hint, type):
        return hint.__name__
    parts = get_args(hint)
    if parts and type(None) in parts:
        return " | ".join("None" if p is type(None) else _hint_text(p) for p in parts)
    return str(hint).replace("typing.", "")


def _value_text(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def _remedy(value: Any, arrays: list[Any]) -> str:
    if not arrays:
        return "Pass a value of that kind."
    if not isinstance(value, Tensor):
        return "Pass a torch.Tensor."
    shapes: list[Any] = [Shaped[Tensor, array.dim_str] for array in arrays]
    if any(isinstance(value, shape) for shape in shapes):
        return "Convert its dtype."
    return "Check its axes."


def _public_name(function: Callable[..., Any]) -> str:
    """`nn.linear.apply` for the function `apply` inside `functorch_lab.nn._linear`."""
    package, *modules = function.__module__.split(".")
    public = [name for name in modules if not name.startswith("_")]
    name = function.__qualname__.replace("<locals>.", "")
    return ".".join([*public, name]) if package == "functorch_lab" else name
