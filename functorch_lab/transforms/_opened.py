# SPDX-License-Identifier: Apache-2.0
"""Functions of torch that are written in Python, so that a mode sees their inside."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any


def opened(function: Any, **replaced: Any) -> Callable[..., Any]:
    """A copy of a function of torch.nn.functional that calls no mode for itself.

    A `TorchFunctionMode` gets such a function as one call. Run under the mode, the copy
    shows it the operations inside.

    Args:
        function: written in Python.
        replaced: other globals of its module that the copy sees, by name.
    """
    # Without __name__ Dynamo takes these globals, not those of the module so named.
    scope = {k: v for k, v in function.__globals__.items() if k != "__name__"}
    asks = ("", "_unary", "_variadic")
    scope |= {f"has_torch_function{suffix}": _never for suffix in asks}
    copy = FunctionType(
        function.__code__,
        scope | replaced,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _never(*tensors: Any) -> bool:
    return False
