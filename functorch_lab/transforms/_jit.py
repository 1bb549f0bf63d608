# SPDX-License-Identifier: Apache-2.0
"""One pure function, one compiled graph."""

from __future__ import annotations

import contextlib
import functools
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from torch import Tensor

from functorch_lab.transforms import _abstract
from functorch_lab.transforms._arguments import Names, Parameters, admit
from functorch_lab.transforms._engine import inside_gradient
from functorch_lab.transforms._flat import (
    flatten,
    name_of,
    require_callable,
    unflatten,
    wraps,
)
from functorch_lab.transforms._traced import Call, Options, Traced


class _Switch(threading.local):
    off = False


_switch = _Switch()


@contextlib.contextmanager
def disable_jit() -> Iterator[None]:
    """Inside, jitted functions run eagerly in this thread: for a debugger or a print.

    Donated arguments are void afterwards all the same.

    Example:
        >>> import torch, functorch_lab as fl
        >>> with fl.disable_jit():
        ...     fl.jit(lambda x: x + 1)(torch.tensor(2.0))
        tensor(3.)
    """
    previous, _switch.off = _switch.off, True
    try:
        yield
    finally:
        _switch.off = previous


@overload
def jit(
    fn: Callable[..., Any],
    *,
    donate_argnums: Names = None,
    donate_argnames: Names = None,
    static_argnums: Names = None,
    static_argnames: Names = None,
    mode: str | None = None,
    dynamic: bool | None = False,
    fullgraph: bool = True,
) -> Jitted: ...
@overload
def jit(
    fn: None = None,
    *,
    donate_argnums: Names = None,
    donate_argnames: Names = None,
    static_argnums: Names = None,
    static_argnames: Names = None,
    mode: str | None = None,
    dynamic: bool | None = False,
    fullgraph: bool = True,
) -> Callable[[Callable[..., Any]], Jitted]: ...
def jit(
    fn: Callable[..., Any] | None = None,
    *,
    donate_argnums: Names = None,
    donate_argnames: Names = None,
    static_argnums: Names = None,
    static_argnames: Names = None,
    mode: str | None = None,
    dynamic: bool | None = False,
    fullgraph: bool = True,
) -> Any:
    """Compiles a pure function into one graph for each signature of its arguments.

    A signature is the structure of the arguments, each leaf's shape, dtype, device and
    strides, which arguments are the same tensor, the values of static arguments, and
    those of the Python objects that the function closes over. Values of tensors and of
    Python numbers among the arguments are not part of it. For a new signature the
    function is run once abstractly (its own errors come unchanged, and Python side
    effects happen once more) and compiled once.

    Under another transform, and where torch's own autograd records (an argument
    requires grad), the function is not compiled by itself: put `jit` outermost.

    Args:
        fn: a pure function of trees of tensors. Python numbers and NumPy arrays among
            the arguments become tensors, as in JAX; None is an empty tree. A number
            counts as a 0-d tensor: an int as int64, a float in the default dtype, or
            in float64 where another argument is.
        donate_argnums: positions of arguments whose memory results may reuse. Each is
            matched to the first subtree of the result of equal structure, shapes and
            dtypes. Its tensors are void afterwards: any use of them raises.
        donate_argnames: the same by name.
        static_argnums: positions of arguments that are constants: hashable Python
            values, one graph for each value.
        static_argnames: the same by name.
        mode: `torch.compile`'s mode, such as "max-autotune".
        dynamic: `torch.compile`'s dynamic shapes; False compiles each shape by itself,
            so that results don't depend on which shapes came before.
        fullgraph: whether a break in the graph is an error.

    Returns:
        A function of the same arguments. Its `traces` counts the signatures traced.

    Raises:
        TypeError: an argument is no tensor, number or tree of them, and not static; a
            static argument is not hashable.
        ValueError: a donated tensor stands at two places; argnums or argnames name no
            parameter.
        RuntimeError: the function cannot be compiled (the message has the line and the
            remedy); a donated tensor is used again.

    Warns:
        UserWarning: the function draws from torch's global generator; something outside
            it, such as a cache, keeps a tensor that it made while it was traced, which
            has no values; or a donated argument has no counterpart in the result.
        RuntimeWarning: there is no compiler, or an argument requires grad: the
            function runs eagerly.

    Example:
        >>> import torch, functorch_lab as fl
        >>> double = fl.jit(lambda x: 2 * x)
        >>> double(torch.tensor([1.0, 2.5]))
        tensor([2., 5.])

    Source: the semantics of `jax.jit`, by `torch.compile`.
    """
    if fn is None:
        return functools.partial(
            jit,
            donate_argnums=donate_argnums,
            donate_argnames=donate_argnames,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            mode=mode,
            dynamic=dynamic,
            fullgraph=fullgraph,
        )
    require_callable("jit", fn)
    parameters = Parameters(fn)
    donated = parameters.resolve("donate", donate_argnums, donate_argnames)
    static = parameters.resolve("static", static_argnums, static_argnames)
    if donated & static:
        both = sorted(str(x) for x in donated & static)
        raise ValueError(
            f"jit: donate_argnums: expected arguments that are not static, got {both} "
            "in both. A static argument has no memory to donate."
        )
    return Jitted(fn, parameters, donated, static, Options(mode, dynamic, fullgraph))


class Jitted:
    """A compiled function; made by `jit`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        parameters: Parameters,
        donated: frozenset[int | str],
        static: frozenset[int | str],
        options: Options,
    ) -> None:
        wraps(fn)(self)
        self._fn = fn
        self._parameters = parameters
        self._donated = donated
        self._static = static
        self._options = options
        self._traced: dict[Any, Traced] = {}
        self._history: list[dict[str, str]] = []
        self._max_traces: int | None = None

    @property
    def traces(self) -> int:
        """How many signatures were traced so far."""
        return len(self._history)

    def limited(self, max_traces: int) -> Jitted:
        """The same function, compiled anew, that refuses further traces."""
        copy = Jitted(
            self._fn, self._parameters, self._donated, self._static, self._options
        )
        copy._max_traces = max_traces
        return copy

    def __repr__(self) -> str:
        return f"<jit of {name_of(self._fn)}, {self.traces} traces>"

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or _is_nested():
            return self._fn(*args, **kwargs)
        statics: tuple[Any, ...] = ()
        if self._static:
            args, kwargs, statics = self._split_static(args, kwargs)
        leaves, spec = flatten((args, kwargs))
        key = (spec, statics, _exact(statics)) if statics else spec
        traced = self._traced.get(key)
        if traced is None:
            traced = self._new(key, spec, statics, args, kwargs)
        recorded = False
        for leaf in leaves:
            if type(leaf) is not Tensor or leaf.requires_grad:
                leaves = admit(traced.name, leaves, traced.path)
                args, kwargs = unflatten(spec, leaves)
                recorded = any(x is not None and x.requires_grad for x in leaves)
                break
        call = Call(leaves, spec, (args, kwargs), recorded)
        return traced.call(call, eager=_switch.off)

    def _new(self, key: Any, spec: Any, statics: Any, args: Any, kwargs: Any) -> Traced:
        donated = [i for i in range(len(args)) if i in self._donated]
        named = [name for name in sorted(kwargs) if name in self._donated]
        return self._traced.setdefault(
            key,
            Traced(
                self._fn,
                spec,
                statics,
                donated=(donated, named),
                keywords=sorted(kwargs),
                parameters=self._parameters,
                options=self._options,
                note=self._note,
            ),
        )

    def _note(self, signature: dict[str, str]) -> None:
        """Called before each trace with its signature."""
        if self._max_traces is not None and self.traces >= self._max_traces:
            from functorch_lab.transforms.debug import too_many_traces

            raise too_many_traces(
                name_of(self._fn), self._max_traces, self._history[-1:], signature
            )
        self._history.append(signature)

    def _split_static(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
        """Takes the static arguments out, and leaves `()` or nothing in their place."""
        statics: list[tuple[int | str, Any]] = []
        dynamic: list[Any] = []
        for i, value in enumerate(args):
            if i in self._static:
                statics.append((i, value))
                dynamic.append(())
            else:
                dynamic.append(value)
        statics += [(k, kwargs[k]) for k in sorted(kwargs) if k in self._static]
        rest = {k: value for k, value in kwargs.items() if k not in self._static}
        for place, value in statics:
            try:
                hash(value)
            except TypeError:
                raise TypeError(
                    f"jit: {name_of(self._fn)}: static argument {place!r}: expected a "
                    f"hashable value, got {type(value).__name__}. Pass a tuple in place"
                    " of a list, or leave it out of static_argnums."
                ) from None
            if isinstance(value, Tensor):
                raise TypeError(
                    f"jit: {name_of(self._fn)}: static argument {place!r}: expected a "
                    "Python value, got a tensor. Leave it out of static_argnums."
                )
        return tuple(dynamic), rest, tuple(statics)


def _exact(value: Any) -> Any:
    """What tells constants apart that compare equal: 1, 1.0 and True; 0.0 and -0.0."""
    if isinstance(value, tuple):
        return (type(value), *map(_exact, value))
    if isinstance(value, frozenset):
        return (type(value), frozenset(map(_exact, value)))
    if isinstance(value, float | complex):
        return (type(value), repr(value))
    return type(value)


def _is_nested() -> bool:
    return (
        torch._C._are_functorch_transforms_active()
        or inside_gradient()
        or _abstract.is_running()
    )
