# SPDX-License-Identifier: Apache-2.0
"""What a failed compilation means to the user."""

from __future__ import annotations

import re

from functorch_lab.transforms._abstract import is_library, warn

# What torch.compile says where Dynamo does not know the Python version or system.
_NO_DYNAMO = re.compile(r"(torch\.compile|Dynamo|Windows) .*not.* supported")


def lacks_compiler(error: BaseException) -> bool:
    """Whether a compilation failed for want of a compiler on this machine."""
    from torch._inductor import exc

    missing = (exc.InvalidCxxCompiler, exc.TritonMissing, exc.GPUTooOldForTriton)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, missing) or _NO_DYNAMO.match(str(seen)):
            return True
        inner = getattr(seen, "inner_exception", None)
        seen = inner or seen.__cause__ or seen.__context__
    return any(kind.__name__ in str(error) for kind in missing)


_warned: list[str] = []


def warn_no_compiler(name: str, error: BaseException) -> None:
    """Says once a process that functions run eagerly."""
    if _warned:
        return
    _warned.append(name)
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    warn(
        f"jit: {name}: expected a working compiler, got: {first} Functions run "
        "eagerly, with the same results. Install a C++ compiler (g++ or clang++), then "
        "run `functorch-lab doctor`.",
        RuntimeWarning,
    )


def is_compiler_error(error: BaseException) -> bool:
    """Whether the compiler raised this, and not the user's function."""
    # Imported late: Dynamo takes longer to import than the rest of torch.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def out_of_bounds(name: str, error: BaseException) -> RuntimeError | None:
    """The error of compiled code for a wrong index, in words; None for another."""
    found = re.search(r"index out of bounds: (.*)", str(error))
    if found is None or "kernel" not in str(error):
        return None
    return RuntimeError(
        f"jit: {name}: expected indices and labels in range, got one that breaks "
        f"{found.group(1).strip()}. Check the data (data.check_classification), or run "
        "it under disable_jit() to see the line."
    )


def is_trace_limit(error: BaseException) -> bool:
    """Whether Dynamo has more graphs of one function than it allows."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    return isinstance(error, FailOnRecompileLimitHit)


_RECURRENT = (
    "Build that part with fl.nn.rnn, fl.nn.gru or fl.nn.lstm, whose loop over the "
    "steps compiles"
)


def explain(name: str, error: BaseException) -> RuntimeError:
    """A failure of the compiler in a few lines: where, what, and the remedy."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    inner = getattr(error, "inner_exception", None)
    if inner is not None:
        lines = [
            f"{type(inner).__name__}: {str(inner).strip()}".splitlines()[0],
            *lines,
        ]
    title = lines[0] if lines else type(error).__name__
    detail = next((x for x in lines if x.startswith("Explanation:")), "")
    hint = next((x for x in lines if x.startswith("Hint:")), "")
    place = _place(error, text)
    remedy = hint.removeprefix("Hint:").strip() or (
        "Rewrite the line with torch operations on tensors (a NumPy array that the "
        "function closes over has to be a tensor)"
    )
    if title.startswith("Attempted to wrap RNN"):
        remedy = _RECURRENT  # the hint is a setting that no transform survives
    return RuntimeError(
        f"jit: {name}: {place}: cannot be compiled: {title.rstrip('.')}. "
        f"{detail.removeprefix('Explanation:').strip()} {remedy.rstrip('.')}, or run "
        "it under disable_jit() to see it in eager mode."
    )


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
