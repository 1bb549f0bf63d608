# SPDX-License-Identifier: Apache-2.0
"""The one place that calls `torch.compile`."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Tests put a cheaper backend here.
BACKEND: Any = "inductor"

# Held around every abstract run and every compilation of this library.
lock = threading.RLock()

# Guards on optree's and Dynamo's own tables can't fail in a way
# that matters, but each costs time at every call, and one of them (on the registry of
# node types) would retrace everything whenever a user registers a type.
_INTERNAL = (
    "__import_optree",
    "polyfills_dot_pytree",
    "___unnamed_scope",
    "__builtins_dict__",
)

_LOGGING = ("debug", "info", "warning", "error", "exception", "critical", "log")
_LOGGING += ("warning_once", "info_once")  # which transformers adds to the class


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
        from functorch_lab.transforms._recompute import RecomputeLate
        from functorch_lab.transforms._weight_gradients import WeightGradientsInOrder

        options["joint_custom_pre_pass"] = RecomputeLate()
        options["post_grad_custom_pre_pass"] = WeightGradientsInOrder()
        options["post_grad_custom_post_pass"] = ReadBeforeOverwrite()
        # Inductor writes an expression out anew at each use until it has this many
        # operations. With its 30, the rounds of one random draw take a minute to
        # compile, with 12 two seconds; the code is as fast.
        options["realize_opcount_threshold"] = 12
        # Inductor asks the processor for its vector instructions, and then compiles and
        # loads a test program for each kind: seven of the first compile's fifteen
        # seconds. Every compiler that takes its C++20 knows them all.
        from torch._inductor import config

        if sys.platform == "linux" and config.cpp.vec_isa_ok is None:
            options["cpp.vec_isa_ok"] = True
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
    # What a function logs it has logged in the abstract run.
    if hasattr(torch._dynamo.config, "ignore_logging_functions"):
        changes["ignore_logging_functions"] = {
            getattr(owner, name)
            for owner in (logging, logging.Logger)
            for name in _LOGGING
            if hasattr(owner, name)
        } | torch._dynamo.config.ignore_logging_functions
    patched = torch._dynamo.config.patch(changes)
    with patched, warnings.catch_warnings(), _without_advice():
        # torch deprecates what its own compiler uses; under `-W error` that would fail.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        # It traces through a cache, which is right for a pure function.
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru")
        yield


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without torch's log line on a checkpoint policy: pure functions follow it."""
    logger = logging.getLogger("torch._higher_order_ops.wrap")

    def keep(record: logging.LogRecord) -> bool:
        return "Detected that context_fn is passed" not in str(record.msg)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
