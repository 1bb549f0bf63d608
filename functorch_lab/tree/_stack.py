# SPDX-License-Identifier: Apache-2.0
"""Many trees as one with a leading axis, and one tree as a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optree
import torch
from torch import Tensor

from functorch_lab.tree._compare import check_same_structure
from functorch_lab.tree._difference import dtype_name
from functorch_lab.tree._flatten import Tree, checked_flatten, path_strings


def stack(trees: Sequence[Tree]) -> Tree:
    """One tree whose leaves have a new leading axis over the given trees."""
    if not isinstance(trees, (list, tuple)) or not trees:
        raise ValueError(
            f"tree.stack: trees: expected a list of at least one tree, got {trees!r}. "
            "Pass the trees in a list."
        )
    for index, other in enumerate(trees):
        names = ("trees[0]", f"trees[{index}]")
        check_same_structure(trees[0], other, what="tree.stack", names=names)
    columns = [checked_flatten(tree, "stack")[0] for tree in trees]
    treedef = checked_flatten(trees[0], "stack")[1]
    leaves = [torch.stack(group) for group in zip(*columns, strict=True)]
    return optree.tree_unflatten(treedef, leaves)


def unstack(tree: Tree) -> list[Tree]:
    """The list of trees along the leading axis: undoes `stack`."""
    found, treedef = checked_flatten(tree, "unstack")
    if not found:
        raise ValueError(
            "tree.unstack: tree: expected at least one leaf, got none. "
            "Its length cannot be known."
        )
    sizes = [leaf.shape[0] if leaf.ndim else None for leaf in found]
    for index, length in enumerate(sizes):
        if length is None or length != sizes[0]:
            path = path_strings(treedef)[index] or "the root"
            raise ValueError(
                f"tree.unstack: tree: expected a leading axis of {sizes[0]} at {path}, "
                f"got {tuple(found[index].shape)}. Pass a tree that stack made."
            )
    columns = [leaf.unbind(0) for leaf in found]
    return [
        optree.tree_unflatten(treedef, list(row)) for row in zip(*columns, strict=True)
    ]


def ravel(tree: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """All entries as one vector, and the function that makes a tree of such a vector.

    Leaves of several dtypes are promoted to a common one; `unravel` casts each back.
    """
    found, treedef = checked_flatten(tree, "ravel")
    for index, leaf in enumerate(found):
        if not (leaf.is_floating_point() or leaf.is_complex()):
            path = path_strings(treedef)[index] or "the root"
            raise ValueError(
                f"tree.ravel: tree: expected floating leaves, got "
                f"{dtype_name(leaf.dtype)} at {path}. Partition the others away."
            )
    dtype = found[0].dtype if found else torch.get_default_dtype()
    for leaf in found:
        dtype = torch.promote_types(dtype, leaf.dtype)
    shapes = [leaf.shape for leaf in found]
    dtypes = [leaf.dtype for leaf in found]
    sizes = [leaf.numel() for leaf in found]
    parts = [leaf.reshape(-1).to(dtype) for leaf in found]
    vector = torch.cat(parts) if parts else torch.zeros(0)

    def unravel(vector: Tensor) -> Tree:
        if vector.shape != (sum(sizes),):
            raise ValueError(
                f"tree.ravel.unravel: vector: expected ({sum(sizes)},), "
                f"got {tuple(vector.shape)}. Pass a vector as ravel returned it."
            )
        pieces = vector.split(sizes) if sizes else ()
        leaves = [
            piece.reshape(shape).to(leaf_dtype)
            for piece, shape, leaf_dtype in zip(pieces, shapes, dtypes, strict=True)
        ]
        return optree.tree_unflatten(treedef, leaves)

    return vector, unravel
