# SPDX-License-Identifier: Apache-2.0
"""torch.utils.checkpoint inside a module: what it wraps is simply called.

It would run again in the backward pass, when the tensors of the call are no longer in
the module; and no transform of torch.func sees through it, so that a gradient would be
zero without an error.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import checkpoint


class _Called:
    """In the place of torch's CheckpointFunction."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        return function(*args)


def _nothing_kept(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In the place of what torch does before and after it calls the function."""
    yield


_OURS: dict[str, Any] = {
    "CheckpointFunction": _Called,
    "_checkpoint_without_reentrant_generator": _nothing_kept,
}
_lock = threading.Lock()
_inside: list[dict[str, Any]] = []  # one entry for each call that is under way


@contextlib.contextmanager
def no_recomputing() -> Iterator[None]:
    """Inside, checkpoints keep what they compute, in every thread: the same numbers."""
    if torch.compiler.is_compiling():
        yield
        return
    with _lock:
        torchs = _inside[0] if _inside else {n: getattr(checkpoint, n) for n in _OURS}
        _inside.append(torchs)
        _exchange(_OURS)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _exchange(torchs)


def _exchange(functions: dict[str, Any]) -> None:
    for name, function in functions.items():
        setattr(checkpoint, name, function)
