# SPDX-License-Identifier: Apache-2.0
"""Trees as vectors: sums, products, inner products and norms.

Two trees must agree in structure and shapes; nothing broadcasts between leaves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from functorch_lab.tree._compare import paired
from functorch_lab.tree._difference import dtype_name
from functorch_lab.tree._flatten import checked, map_leaves
from functorch_lab.tree._nodes import Tree, named_leaves

Scalar = float | Tensor


def _elementwise(
    where: str, function: Callable[[Tensor, Tensor], Tensor], a: Tree, b: Tree
) -> Tree:
    first, second, treedef = paired(where, a, b)
    pairs = zip(first, second, strict=True)
    return treedef.unflatten([function(x, y) for x, y in pairs])


def add(a: Tree, b: Tree) -> Tree:
    """`a + b`, leaf by leaf.

    Raises:
        ValueError: the trees differ in structure or in a shape.
    """
    return _elementwise("add", torch.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
    """`a - b`, leaf by leaf.

    Raises:
        ValueError: the trees differ in structure or in a shape.
    """
    return _elementwise("sub", torch.sub, a, b)


def mul(a: Tree, b: Tree) -> Tree:
    """`a * b`, leaf by leaf.

    Raises:
        ValueError: the trees differ in structure or in a shape.
    """
    return _elementwise("mul", torch.mul, a, b)


def scale(tree: Tree, s: Scalar) -> Tree:
    """`s * tree`, with `s` a number or a 0-d tensor."""
    return map_leaves("scale", lambda x: x * s, tree)


def add_scaled(a: Tree, s: Scalar, b: Tree) -> Tree:
    """`a + s * b`, with `s` a number or a 0-d tensor.

    Raises:
        ValueError: the trees differ in structure or in a shape.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.add_scaled([torch.tensor(5.0)], -0.5, [torch.tensor(4.0)])
        [tensor(3.)]
    """
    return _elementwise("add_scaled", lambda x, y: x + s * y, a, b)


def accumulator_dtype(*leaves: Tensor) -> torch.dtype:
    """The common dtype of some leaves, or float32 where that is wider."""
    dtype = torch.float32
    for leaf in leaves:
        dtype = torch.promote_types(dtype, leaf.dtype)
    return dtype


def check_floating(where: str, tree: Tree, leaves: list[Tensor]) -> None:
    """Refuses integers among the leaves of a tree.

    Raises:
        ValueError: a leaf is of an integer or boolean dtype.
    """
    for index, leaf in enumerate(leaves):
        if not (leaf.is_floating_point() or leaf.is_complex()):
            path = named_leaves(tree)[index].bracket or "the root"
            raise ValueError(
                f"tree.{where}: tree: expected floating leaves, got "
                f"{dtype_name(leaf.dtype)} at {path}. Partition it away first."
            )


def vdot(a: Tree, b: Tree) -> Tensor:
    """The inner product of two trees: the sum of `conj(a) * b` over all entries.

    Returns:
        A 0-d tensor, summed in float32 or in the dtype of the leaves if that is wider.

    Raises:
        ValueError: the trees differ in structure or a shape, or a leaf is no float.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.vdot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 5.0])])
        tensor(13.)
    """
    first, second, _ = paired("vdot", a, b)
    check_floating("vdot", a, first)
    check_floating("vdot", b, second)
    pairs = zip(first, second, strict=True)
    parts = [_leaf_vdot(x, y) for x, y in pairs]
    return functools.reduce(torch.add, parts) if parts else torch.zeros(())


def _leaf_vdot(x: Tensor, y: Tensor) -> Tensor:
    dtype = accumulator_dtype(x, y)
    left = x.conj() if x.is_complex() else x
    return (left.to(dtype) * y.to(dtype)).sum()


def norm(tree: Tree) -> Tensor:
    """The Euclidean norm of all entries together; its gradient at zero is zero.

    Returns:
        A 0-d tensor, summed in float32 or in the dtype of the leaves if that is wider.

    Raises:
        ValueError: a leaf is no float.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.norm({"w": torch.tensor([2.0, 4.0]), "b": torch.tensor(4.0)})
        tensor(6.)
    """
    found = checked(tree, "norm")[0]
    check_floating("norm", tree, found)
    if not found:
        return torch.zeros(())
    parts = [
        torch.linalg.vector_norm(leaf, dtype=accumulator_dtype(leaf)) for leaf in found
    ]
    dtype = accumulator_dtype(*parts)
    return torch.linalg.vector_norm(torch.stack([part.to(dtype) for part in parts]))


def where(cond: Tree, a: Tree, b: Tree) -> Tree:
    """`a` where `cond` holds, else `b`.

    Args:
        cond: a boolean tensor that broadcasts against every leaf, or a tree of them.
        a: taken where `cond` is true.
        b: taken elsewhere.

    Raises:
        ValueError: the trees differ in structure, or `a` and `b` in a shape.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.where(torch.tensor(False), [torch.tensor(2.0)], [torch.tensor(3.0)])
        [tensor(3.)]
    """
    if isinstance(cond, Tensor):
        return _elementwise("where", lambda x, y: torch.where(cond, x, y), a, b)
    paired("where", a, b)
    return map_leaves("where", lambda x, y, c: torch.where(c, x, y), a, b, cond)


def clip(tree: Tree, min: Scalar | None = None, max: Scalar | None = None) -> Tree:
    """Every entry limited to `[min, max]`; a limit that is None does not limit.

    Raises:
        ValueError: neither limit is given.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.clip([torch.tensor([-5.0, 2.0])], min=-3.0, max=3.0)
        [tensor([-3.,  2.])]
    """
    if min is None and max is None:
        raise ValueError(
            "tree.clip: min, max: expected at least one limit, got none. Pass one."
        )

    def limit(leaf: Tensor) -> Tensor:
        leaf = leaf if min is None else leaf.clamp(min=min)
        return leaf if max is None else leaf.clamp(max=max)

    return map_leaves("clip", limit, tree)
