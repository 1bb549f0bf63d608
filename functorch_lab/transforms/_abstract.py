# SPDX-License-Identifier: Apache-2.0
"""One abstract run of a function: shapes without numbers.

It raises the function's own errors before anything is compiled, sees what the compiler
would silently change, and tells the structure and the aliasing of the results.
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import custom_function_call
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from functorch_lab.transforms._flat import (
    flatten,
    kind_of,
    map_tensors,
    name_of,
    unflatten,
)


class _State(threading.local):
    running = False


_state = _State()


def is_running() -> bool:
    """Whether this thread is in an abstract run."""
    return _state.running


def run(
    where: str, fn: Callable[..., Any], call: Callable[..., Any], leaves: Sequence[Any]
) -> tuple[list[Any], list[Any], Any]:
    """The abstract leaves that went into `call(*leaves)`, its results, its structure.

    Raises:
        RuntimeError: the function needs a tensor's value, or uses a custom
            `autograd.Function` where the compiler would drop its backward.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Tensor] = {}

    def fake(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in memo:
            memo[id(leaf)] = mode.from_tensor(leaf, static_shapes=True)
        return memo[id(leaf)]

    inputs = [fake(leaf) for leaf in leaves]
    seen = _Operations()
    previous, _state.running = _state.running, True
    try:
        with mode, seen, _CustomFunctions(where, fn):
            result = call(*inputs)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise RuntimeError(_needs_value(where, fn, error)) from None
    except FakeTensorDeviceMismatchError as error:
        # A zero tangent counts as one on the meta device, in torch.
        if "meta" not in str(error):
            raise RuntimeError(str(error)) from error
        raise RuntimeError(
            f"{where}: {name_of(fn)}: {_place(error)} takes a forward-mode derivative "
            "of a derivative inside vmap: expected reverse mode there, which can be "
            "compiled. Use hessian, or jacrev in place of jacfwd and jvp."
        ) from None
    except RuntimeError as error:
        if "numpy() is not supported for tensor subclasses" not in str(error):
            raise
        raise RuntimeError(
            f"{where}: {name_of(fn)}: {_place(error)} mixes tensors with NumPy: "
            "expected torch operations on tensors while a function is traced. Make the "
            "array a tensor first, with torch.from_numpy, or pass it as an argument."
        ) from None
    finally:
        _state.running = previous
    for operation, place in seen.random_at.items():
        warn(
            f"{where}: {name_of(fn)}: {place}: {operation} draws from torch's global "
            "generator, so compiled and eager results differ and repeat with no key. "
            "Pass a key and draw with functorch_lab.random.",
            UserWarning,
        )
    results, spec = flatten(result)
    if kept := seen.kept([*inputs, *results]):
        warn(
            f"{where}: {name_of(fn)}: {kept}, which is still held after the trace, by "
            "a cache or an object outside: expected nothing to be kept, for a traced "
            "tensor has no numbers. Make what is cached before, as an argument or a "
            "closure, or cache NumPy arrays.",
            UserWarning,
        )
    return inputs, results, spec


def eval_shape(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The shapes and dtypes of a function's result, without computing it.

    Args:
        fn: a pure function.
        *args: its arguments; tensors may be on the meta device.
        **kwargs: its keyword arguments.

    Returns:
        The result's tree with tensors on the meta device, which have shape and dtype
        and no memory.

    Raises:
        RuntimeError: the function needs a tensor's value.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.eval_shape(lambda a, b: a @ b, torch.ones(2, 3), torch.ones(3, 5)).shape
        torch.Size([2, 5])

    Source: the semantics of `jax.eval_shape`.
    """
    leaves, spec = flatten((args, kwargs))

    def call(*found: Any) -> Any:
        call_args, call_kwargs = unflatten(spec, found)
        return fn(*call_args, **call_kwargs)

    _, results, out_spec = run("eval_shape", fn, call, leaves)
    tree = unflatten(out_spec, results)
    return map_tensors(
        lambda x: torch.empty_strided(
            x.shape, x.stride(), dtype=x.dtype, device="meta"
        ),
        tree,
    )


class _Operations(TorchDispatchMode):
    """Notes with the user's line what draws from a generator, and what is made."""

    def __init__(self) -> None:
        super().__init__()
        self.random_at: dict[str, str] = {}
        self._made: list[tuple[weakref.ref[Tensor], str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        line = user_line()
        if _draws(func, args, kwargs or {}):
            self.random_at.setdefault(func.overloadpacket.__name__, line)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._made.append((weakref.ref(result), line))
        return result

    def kept(self, known: list[Any]) -> str:
        """What outlives the run without being, or being behind, what is known."""
        # What autograd has recorded keeps what it needs.
        if any(isinstance(x, Tensor) and x.requires_grad for x in known):
            return ""
        memory = {storage_of(leaf) for leaf in known}

        def found() -> str:
            for reference, line in self._made:
                tensor = reference()
                if tensor is not None and storage_of(tensor) not in memory:
                    return f"{line} makes {kind_of(tensor)}"
            return ""

        if found():
            gc.collect()
        return found()


def _draws(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    # Attention has the tag for its dropout, which it mostly does not do.
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            given = args[place : place + 1] or (argument.default_value,)
            return kwargs.get("dropout_p", given[0]) != 0
    return True


class _CustomFunctions(TorchFunctionMode):
    """Refuses an `autograd.Function` that Dynamo would inline and re-differentiate."""

    def __init__(self, where: str, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.where, self.fn = where, fn

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is custom_function_call and not _kept_in_graph():
            raise RuntimeError(
                f"{self.where}: {name_of(self.fn)}: {user_line()}: {args[0].__name__} "
                "is a torch.autograd.Function inside vmap or a nested gradient, where "
                "the compiler would drop its backward. Write the gradient as a "
                "surrogate with stop_gradient, call it through "
                "torch.compiler.allow_in_graph, or take the gradient outside vmap."
            )
        return func(*args, **(kwargs or {}))


def _kept_in_graph() -> bool:
    """Whether a caller on the stack is registered with `allow_in_graph`."""
    from torch._dynamo import trace_rules

    kept = {
        *(trace_rules._allowed_callable_ids.function_ids or ()),
        *(trace_rules._nonstrict_trace_callable_ids.function_ids or ()),
    }
    if not kept:
        return False
    return any(
        id(owner) in kept
        for frame, _ in traceback.walk_stack(None)
        for owner in gc.get_referrers(frame.f_code)
    )


# Files between the user's line and the operation that are not the user's.
_LIBRARIES = (
    str(Path(torch.__file__).parent),
    str(Path(torch.__file__).parent.with_name("optree")),
    str(Path(__file__).parent.parent),
    "<frozen",
    "<string",
)


def is_library(filename: str) -> bool:
    return filename.startswith(_LIBRARIES)


def user_line() -> str:
    """`file.py:12`, the innermost line on the stack that is not a library's."""
    frame: FrameType
    # From here on: without a frame `walk_stack` leaves out some, for it is a generator.
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        if not is_library(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{line}"
    return "an unknown line"


def warn(message: str, category: type[Warning]) -> None:
    """Warns at the user's line."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and is_library(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _place(error: BaseException) -> str:
    """File, line and code of the user's innermost frame in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_library(frame.filename)]
    if not own:
        return "an unknown line:"
    code = f" `{own[-1].line}`" if own[-1].line else ""
    return f"{own[-1].filename}:{own[-1].lineno}:{code}"


def _needs_value(where: str, fn: Callable[..., Any], error: BaseException) -> str:
    place = _place(error)
    if isinstance(error, DynamicOutputShapeException):
        return (
            f"{where}: {name_of(fn)}: {place} makes a tensor whose shape "
            "depends on values, but shapes are fixed when a function is traced. Use "
            "torch.where or a mask of fixed shape."
        )
    return (
        f"{where}: {name_of(fn)}: {place} needs the value of a tensor, but "
        "tensors have no values while a function is traced. Use torch.where in place "
        "of if, keep numbers as tensors in place of .item(), or pass the argument in "
        "static_argnums."
    )


def storage_of(leaf: Any) -> int | None:
    """Identity of an abstract tensor's memory."""
    return leaf.untyped_storage()._cdata if isinstance(leaf, Tensor) else None
