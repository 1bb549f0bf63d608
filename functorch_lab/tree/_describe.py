# SPDX-License-Identifier: Apache-2.0
"""How large a tree is."""

from __future__ import annotations

from functorch_lab.tree._difference import dtype_name
from functorch_lab.tree._flatten import checked
from functorch_lab.tree._nodes import Tree, named_leaves


def size(tree: Tree) -> int:
    """Number of entries of all leaves together."""
    return sum(leaf.numel() for leaf in checked(tree, "size")[0])


def nbytes(tree: Tree) -> int:
    """Bytes of all leaves together, by shape and dtype (shared memory counts twice)."""
    found = checked(tree, "nbytes")[0]
    return sum(leaf.numel() * leaf.element_size() for leaf in found)


def describe(tree: Tree) -> str:
    """A table with path, shape, dtype, parameters and bytes of each leaf, and totals.

    Raises:
        ValueError: there is a `None` in the tree.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> print(tree.describe({"w": torch.ones(3, 5), "b": torch.ones(3)}))
        path   shape   dtype    parameters  bytes
        ['b']  (3,)    float32           3     12
        ['w']  (3, 5)  float32          15     60
        total                           18     72
    """
    checked(tree, "describe")
    rows = [("path", "shape", "dtype", "parameters", "bytes")]
    for path, _, leaf in named_leaves(tree):
        count = leaf.numel()
        shape, dtype = str(tuple(leaf.shape)), dtype_name(leaf.dtype)
        memory = f"{count * leaf.element_size():,}"
        rows.append((path or "(root)", shape, dtype, f"{count:,}", memory))
    rows.append(("total", "", "", f"{size(tree):,}", f"{nbytes(tree):,}"))
    path, shape, dtype, count, memory = [
        max(len(row[column]) for row in rows) for column in range(5)
    ]
    return "\n".join(
        f"{a:{path}}  {b:{shape}}  {c:{dtype}}  {d:>{count}}  {e:>{memory}}"
        for a, b, c, d, e in rows
    )
