# SPDX-License-Identifier: Apache-2.0
"""Which tensors have an axis of samples, and of which vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def batch_levels(tensor: Any) -> set[int]:
    """The vmaps around this call inside of which a tensor's values differ.

    Dynamo cannot look: not for code that it traces.
    """
    levels = set()
    while isinstance(tensor, Tensor) and _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            levels.add(_functorch.maybe_get_level(tensor))
        tensor = _functorch.get_unwrapped(tensor)
    return levels


def under_vmap() -> bool:
    """Whether there is a vmap around this call, whatever it maps over."""
    levels = _functorch.get_interpreter_stack() or []
    return any(level.key() == _functorch.TransformType.Vmap for level in levels)
