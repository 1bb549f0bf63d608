# SPDX-License-Identifier: Apache-2.0
"""The same tree in another dtype, on another device, or filled anew."""

from __future__ import annotations

from typing import Any

import torch

from functorch_lab.tree._difference import dtype_name
from functorch_lab.tree._flatten import map_leaves
from functorch_lab.tree._nodes import Tree


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Floating leaves in another floating dtype; the others stay as they are.

    Raises:
        TypeError: `dtype` is not a torch dtype.
        ValueError: it is not a floating one.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.cast([torch.tensor(2.0), torch.tensor(3)], torch.float64)
        [tensor(2., dtype=torch.float64), tensor(3)]
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"tree.cast: dtype: expected a torch.dtype, got {dtype!r}. "
            "Pass one such as torch.bfloat16."
        )

    if not dtype.is_floating_point:
        raise ValueError(
            f"tree.cast: dtype: expected a floating dtype, got {dtype_name(dtype)}. "
            "Use tree.map for other conversions."
        )

    def convert(leaf: Any) -> Any:
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    return map_leaves("cast", convert, tree)


def to(tree: Tree, device: torch.device | str) -> Tree:
    """Every leaf on a device."""
    return map_leaves("to", lambda leaf: leaf.to(device), tree)


def copy(tree: Tree) -> Tree:
    """Every leaf in memory of its own."""
    return map_leaves("copy", lambda leaf: leaf.clone(), tree)


def zeros_like(tree: Tree, dtype: torch.dtype | None = None) -> Tree:
    """Zeros of the same shapes, devices, and dtypes unless one is given."""
    return map_leaves("zeros_like", lambda x: torch.zeros_like(x, dtype=dtype), tree)


def ones_like(tree: Tree, dtype: torch.dtype | None = None) -> Tree:
    """Ones of the same shapes, devices, and dtypes unless one is given."""
    return map_leaves("ones_like", lambda x: torch.ones_like(x, dtype=dtype), tree)
