# SPDX-License-Identifier: Apache-2.0
"""Many trees as one with a leading axis, and one tree as a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from functorch_lab.tree._arithmetic import check_floating
from functorch_lab.tree._compare import check_same_structure
from functorch_lab.tree._flatten import checked, columns_along
from functorch_lab.tree._nodes import Tree, named_leaves


def stack(trees: Sequence[Tree]) -> Tree:
    """One tree whose leaves have a new leading axis over the given trees.

    Raises:
        TypeError: `trees` is not a list or tuple of trees.
        ValueError: it is empty, or the trees differ in structure, shapes or dtypes.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.stack([{"w": torch.tensor(2.0)}, {"w": torch.tensor(3.0)}])
        {'w': tensor([2., 3.])}
    """
    if not isinstance(trees, (list, tuple)):
        raise TypeError(
            f"tree.stack: trees: expected a list of trees, got a "
            f"{type(trees).__name__}. Pass the trees in a list."
        )
    if not trees:
        raise ValueError(
            "tree.stack: trees: expected at least one tree, got none. "
            "Pass the trees in a list."
        )
    for index, other in enumerate(trees[1:], start=1):
        names = ("trees[0]", f"trees[{index}]")
        check_same_structure(trees[0], other, what="tree.stack", names=names)
    found, treedef = checked(trees[0], "stack")
    columns = columns_along("stack", trees[0], treedef, trees[1:])
    groups = zip(found, *columns, strict=True)
    return treedef.unflatten([torch.stack(group) for group in groups])


def unstack(tree: Tree) -> list[Tree]:
    """The list of trees along the leading axis of every leaf: undoes `stack`.

    Raises:
        ValueError: there is no leaf, or the leading axes differ in length.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.unstack({"w": torch.tensor([2.0, 3.0])})
        [{'w': tensor(2.)}, {'w': tensor(3.)}]
    """
    found, treedef = checked(tree, "unstack")
    if not found:
        raise ValueError(
            "tree.unstack: tree: expected at least one leaf, got none. "
            "Without leaves the number of trees is unknown."
        )
    length = found[0].shape[0] if found[0].ndim else None
    for index, leaf in enumerate(found):
        if length is None or leaf.ndim == 0 or leaf.shape[0] != length:
            path = named_leaves(tree)[index].bracket or "the root"
            raise ValueError(
                "tree.unstack: tree: expected leaves with one common leading axis"
                f"{'' if length is None else f' of {length}'}, "
                f"got {tuple(leaf.shape)} at {path}. Pass a tree as stack returns it."
            )
    rows = zip(*[leaf.unbind(0) for leaf in found], strict=True)
    return [treedef.unflatten(row) for row in rows]


def ravel(tree: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """All entries as one vector, and the function that undoes it.

    Returns:
        The vector `(entries,)`, in the common dtype of the leaves, and
        `unravel(vector)`, which gives each leaf its shape and its own dtype again. It
        traces, also when it was made outside.

    Raises:
        ValueError: a leaf is no float: an integer would not survive the way there
            and back.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> vector, unravel = tree.ravel({"w": torch.tensor([2.0, 3.0]),
        ...                               "b": torch.tensor(5.0)})
        >>> vector
        tensor([5., 2., 3.])
        >>> unravel(2 * vector)
        {'w': tensor([4., 6.]), 'b': tensor(10.)}
    """
    found, treedef = checked(tree, "ravel")
    check_floating("ravel", tree, found)
    treedef = treedef.kept()
    dtype = found[0].dtype if found else torch.get_default_dtype()
    for leaf in found:
        dtype = torch.promote_types(dtype, leaf.dtype)
    shapes = [leaf.shape for leaf in found]
    dtypes = [leaf.dtype for leaf in found]
    sizes = [leaf.numel() for leaf in found]

    def unravel(vector: Tensor) -> Tree:
        if vector.shape != (sum(sizes),):
            raise ValueError(
                f"tree.ravel: vector: expected ({sum(sizes)},), "
                f"got {tuple(vector.shape)}. Pass a vector as ravel returned it."
            )
        pieces = vector.split(sizes) if sizes else ()
        rows = zip(pieces, shapes, dtypes, strict=True)
        return treedef.unflatten([p.reshape(shape).to(kind) for p, shape, kind in rows])

    parts = [leaf.reshape(-1).to(dtype) for leaf in found]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype), unravel
