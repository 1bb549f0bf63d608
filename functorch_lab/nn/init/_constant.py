# SPDX-License-Identifier: Apache-2.0
"""One value everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from functorch_lab.nn.init._initializer import Initializer, device_of


def constant(val: float) -> Initializer:
    """`val` everywhere."""

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        device = device_of("constant", key)
        return torch.full(tuple(shape), val, dtype=dtype, device=device)

    return initializer


def zeros() -> Initializer:
    """0 everywhere."""
    return constant(0.0)


def ones() -> Initializer:
    """1 everywhere."""
    return constant(1.0)
