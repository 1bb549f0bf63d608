# SPDX-License-Identifier: Apache-2.0
"""Whether Python may look at a tensor's value here, and the choice where not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor

from functorch_lab.transforms import _abstract


def known_values(leaf: Tensor) -> Tensor | None:
    """The values of a tensor, one for each sample of the `vmap`s around, if known.

    While a function is traced, tensors have no values.
    """
    if torch.compiler.is_dynamo_compiling() or _abstract.is_running():
        return None
    while is_functorch_wrapped_tensor(leaf):
        leaf = get_unwrapped(leaf)
    if isinstance(leaf, FakeTensor) or leaf.is_meta:
        return None
    return leaf.detach()


def known_value(leaf: Tensor) -> bool | int | float | complex | None:
    """The value of a 0-d tensor, if it is known and one for all samples."""
    values = known_values(leaf)
    return None if values is None or values.ndim else values.item()


def chosen(which: Tensor, these: list[Any], others: list[Any]) -> list[Any]:
    """Leaf by leaf, these where `which` is true and the others elsewhere."""
    return [
        torch.where(which, a, b) if isinstance(a, Tensor) else a
        for a, b in zip(these, others, strict=True)
    ]
