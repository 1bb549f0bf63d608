# SPDX-License-Identifier: Apache-2.0
"""The one place that calls `torch.compile`, and what its failures mean."""

from __future__ import annotations

import contextlib
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from functorch_lab.transforms._abstract import is_library

# Tests put a cheaper backend here.
BACKEND: Any = "inductor"

# Held around every abstract run and every compilation of this library.
lock = threading.RLock()

# Guards on optree's and Dynamo's own tables and on our constants can't fail in a way
# that matters, but each costs time at every call, and one of them (on the registry of
# node types) would retrace everything whenever a user registers a type.
_INTERNAL = (
    "__import_optree",
    "polyfills_dot_pytree",
    "___unnamed_scope",
    "__builtins_dict__",
    "_jit_template",
)


def _kept_guards(guards: Any) -> list[bool]:
    return [not any(part in guard.name for part in _INTERNAL) for guard in guards]


def compile_flat(
    function: Callable[..., Any],
    name: str,
    *,
    mode: str | None,
    dynamic: bool | None,
    fullgraph: bool,
) -> Callable[..., Any]:
    """Compiles a function of flat leaves; raises nothing before the first call."""
    options: dict[str, Any] = {"guard_filter_fn": _kept_guards}
    if BACKEND == "inductor":
        from functorch_lab.transforms._overwrite import ReadBeforeOverwrite

        options["post_grad_custom_post_pass"] = ReadBeforeOverwrite()
        options.update(torch._inductor.list_mode_options(mode, dynamic) if mode else {})
    # A code object of its own: Dynamo counts and looks up compilations by code object.
    assert isinstance(function, types.FunctionType)
    function.__code__ = function.__code__.replace(co_name=f"jit_{name}")
    return torch.compile(
        function,
        fullgraph=fullgraph,
        dynamic=dynamic,
        backend=BACKEND,
        options=options,
    )


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """The settings under which a trace may happen."""
    unlimited = 2**31
    changes: dict[str, Any] = {
        "recompile_limit": unlimited,
        "accumulated_recompile_limit": unlimited,
    }
    # The outermost gradient is torch.autograd.grad, traced into the same graph.
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):
        changes["trace_autograd_ops"] = True
    with torch._dynamo.config.patch(changes):
        yield


def lacks_compiler(error: BaseException) -> bool:
    """Whether a compilation failed for want of a compiler on this machine."""
    from torch._inductor import exc

    missing = (exc.InvalidCxxCompiler, exc.TritonMissing, exc.GPUTooOldForTriton)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, missing) or "is not supported on" in str(seen)[:200]:
            return True
        inner = getattr(seen, "inner_exception", None)
        seen = inner or seen.__cause__ or seen.__context__
    return any(kind.__name__ in str(error) for kind in missing)


_warned = False


def warn_no_compiler(name: str, error: BaseException) -> None:
    """Says once a process that functions run eagerly."""
    global _warned
    if _warned:
        return
    _warned = True
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    warnings.warn(
        f"jit: {name}: expected a working compiler, got: {first} Functions run eagerly, "
        "with the same results. Install a C++ compiler (g++ or clang++), then run "
        "`functorch-lab doctor`.",
        RuntimeWarning,
        stacklevel=5,
    )


def is_compiler_error(error: BaseException) -> bool:
    """Whether the compiler raised this, and not the user's function."""
    return isinstance(error, torch._dynamo.exc.TorchDynamoException)


def explain(name: str, error: BaseException) -> RuntimeError:
    """A failure of the compiler in a few lines: where, what, and the remedy."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    title = lines[0] if lines else type(error).__name__
    detail = next((x for x in lines if x.startswith("Explanation:")), "")
    hint = next((x for x in lines if x.startswith("Hint:")), "")
    place = _place(error, text)
    remedy = hint.removeprefix("Hint:").strip() or (
        "Rewrite the line with torch operations on tensors"
    )
    explained = RuntimeError(
        f"jit: {name}: {place}: cannot be compiled: {title.rstrip('.')}. "
        f"{detail.removeprefix('Explanation:').strip()} {remedy.rstrip('.')}, or run it "
        "under disable_jit() to see it in eager mode."
    )
    explained.__cause__ = None
    return explained


def _place(error: BaseException, text: str) -> str:
    stack = getattr(error, "real_stack", None) or []
    own = [frame for frame in stack if not is_library(frame.filename)]
    if own:
        frame = own[-1]
        return f"{frame.filename}:{frame.lineno}: `{(frame.line or '').strip()}`"
    lines = text.splitlines()
    files = [
        (line.strip(), lines[i + 1].strip() if i + 1 < len(lines) else "")
        for i, line in enumerate(lines)
        if line.strip().startswith('File "') and not is_library(line.split('"')[1])
    ]
    if not files:
        return "in the compiler"
    where, code = files[-1]
    parts = where.split('"')
    number = where.split("line ")[1].split(",")[0] if "line " in where else "?"
    return f"{parts[1]}:{number}: `{code}`"
