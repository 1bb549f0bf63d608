# SPDX-License-Identifier: Apache-2.0
"""Trees as vectors: sums, products, inner products and norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab.tree._compare import check_same_structure
from functorch_lab.tree._difference import dtype_name
from functorch_lab.tree._flatten import (
    Tree,
    checked_flatten,
    map_leaves,
    path_strings,
)

Scalar = float | Tensor


def add(a: Tree, b: Tree) -> Tree:
    """`a + b`, leaf by leaf."""
    _check_shapes("add", a, b)
    return map_leaves("add", lambda x, y: x + y, a, b)


def sub(a: Tree, b: Tree) -> Tree:
    """`a - b`, leaf by leaf."""
    _check_shapes("sub", a, b)
    return map_leaves("sub", lambda x, y: x - y, a, b)


def mul(a: Tree, b: Tree) -> Tree:
    """`a * b`, leaf by leaf."""
    _check_shapes("mul", a, b)
    return map_leaves("mul", lambda x, y: x * y, a, b)


def scale(tree: Tree, s: Scalar) -> Tree:
    """`s * tree`, with `s` a number or a 0-d tensor."""
    return map_leaves("scale", lambda x: x * s, tree)


def add_scaled(a: Tree, s: Scalar, b: Tree) -> Tree:
    """`a + s * b`, with `s` a number or a 0-d tensor."""
    _check_shapes("add_scaled", a, b)
    return map_leaves("add_scaled", lambda x, y: x + s * y, a, b)


def _check_shapes(where: str, a: Tree, b: Tree) -> None:
    check_same_structure(
        a, b, what=f"tree.{where}", names=("a", "b"), check_dtype=False
    )


def _accumulator(leaf: Tensor) -> torch.dtype:
    """The leaf's dtype, or float32 where that is wider."""
    return torch.promote_types(leaf.dtype, torch.float32)


def _float_leaves(where: str, tree: Tree) -> list[Tensor]:
    found, treedef = checked_flatten(tree, where)
    for index, leaf in enumerate(found):
        if not (leaf.is_floating_point() or leaf.is_complex()):
            path = path_strings(treedef)[index] or "the root"
            raise ValueError(
                f"tree.{where}: tree: expected floating leaves, got "
                f"{dtype_name(leaf.dtype)} at {path}. Partition the others away."
            )
    return found


def vdot(a: Tree, b: Tree) -> Tensor:
    """The inner product of two trees: sum of `conj(a) * b` over all entries."""
    _check_shapes("vdot", a, b)
    total: Any = None
    pairs = zip(_float_leaves("vdot", a), _float_leaves("vdot", b), strict=True)
    for x, y in pairs:
        dtype = torch.promote_types(_accumulator(x), _accumulator(y))
        x = x.to(dtype)
        part = ((x.conj() if x.is_complex() else x) * y.to(dtype)).sum()
        total = part if total is None else total + part
    return torch.zeros(()) if total is None else total


def norm(tree: Tree) -> Tensor:
    """The Euclidean norm of all entries together; its gradient at zero is zero."""
    parts = [
        torch.linalg.vector_norm(leaf, dtype=_accumulator(leaf))
        for leaf in _float_leaves("norm", tree)
    ]
    if not parts:
        return torch.zeros(())
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    return torch.linalg.vector_norm(torch.stack([part.to(dtype) for part in parts]))


def where(cond: Tree, a: Tree, b: Tree) -> Tree:
    """`a` where `cond` holds, else `b`.

    Args:
        cond: a boolean tensor that broadcasts against every leaf, or a tree of them.
        a: taken where `cond` is true.
        b: taken elsewhere, of the structure and shapes of `a`.
    """
    _check_shapes("where", a, b)
    if isinstance(cond, Tensor):
        return map_leaves("where", lambda x, y: torch.where(cond, x, y), a, b)
    return map_leaves("where", lambda x, y, c: torch.where(c, x, y), a, b, cond)


def clip(tree: Tree, min: Scalar | None = None, max: Scalar | None = None) -> Tree:
    """Every entry limited to `[min, max]`."""
    return map_leaves("clip", lambda x: torch.clamp(x, min, max), tree)  # type: ignore
