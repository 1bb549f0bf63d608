# SPDX-License-Identifier: Apache-2.0
"""The one file that decides what a container is and in which order leaves come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
from optree import PyTreeSpec

from functorch_lab.tree._difference import first_difference
from functorch_lab.types import NAMESPACE

Tree = Any


def raw_flatten(tree: Tree, is_leaf: Callable[[Any], bool] | None = None):
    """Leaves and structure; `None` counts as a leaf."""
    return optree.tree_flatten(tree, is_leaf, none_is_leaf=True, namespace=NAMESPACE)


def path_strings(treedef: PyTreeSpec) -> list[str]:
    return [accessor.codify("") for accessor in treedef.accessors()]


def checked_flatten(
    tree: Tree, where: str, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[Any], PyTreeSpec]:
    """Flattens, and refuses `None` by its path."""
    found, treedef = raw_flatten(tree, is_leaf)
    for index, leaf in enumerate(found):
        if leaf is None:
            path = path_strings(treedef)[index] or "the root"
            raise ValueError(
                f"tree.{where}: tree: expected tensors, got None at {path}. "
                "Write a hole as (), the empty tuple."
            )
    return found, treedef


def flatten_like(where: str, treedef: PyTreeSpec, tree: Tree, rest: Tree) -> list[Any]:
    """The parts of `rest` that stand where `tree` has its leaves."""
    try:
        return treedef.flatten_up_to(rest)
    except ValueError:
        pass
    difference = first_difference(tree, rest, prefix=True)
    raise ValueError(
        f"tree.{where}: trees differ {difference}. Pass trees of the same structure."
    )


def flatten(tree: Tree) -> tuple[list[Any], PyTreeSpec]:
    """The leaves of a tree, dict leaves by sorted key, and its structure.

    Raises:
        ValueError: there is a `None` in the tree.
    """
    return checked_flatten(tree, "flatten")


def unflatten(treedef: PyTreeSpec, leaves: Sequence[Any]) -> Tree:
    """The tree of structure `treedef` that has these leaves.

    Raises:
        ValueError: the number of leaves is not that of the structure.
    """
    values = list(leaves)
    if len(values) != treedef.num_leaves:
        raise ValueError(
            f"tree.unflatten: leaves: expected {treedef.num_leaves} leaves, "
            f"got {len(values)}. Pass one leaf per leaf of the structure."
        )
    return optree.tree_unflatten(treedef, values)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, dict leaves by sorted key.

    Raises:
        ValueError: there is a `None` in the tree.
    """
    return checked_flatten(tree, "leaves")[0]


def structure(tree: Tree) -> PyTreeSpec:
    """The structure of a tree: what is left when its leaves are taken away.

    Raises:
        ValueError: there is a `None` in the tree.
    """
    return checked_flatten(tree, "structure")[1]


def map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Applies `function` to each leaf of `tree` and what stands there in `rest`.

    Raises:
        ValueError: there is a `None` in `tree`, or a tree in `rest` differs from it.
    """
    return map_leaves("map", function, tree, *rest)


def map_leaves(
    where: str, function: Callable[..., Any], tree: Tree, *rest: Tree
) -> Tree:
    """`map`, with errors in the name of another function of the namespace."""
    found, treedef = checked_flatten(tree, where)
    others = [flatten_like(where, treedef, tree, other) for other in rest]
    results = [function(*group) for group in zip(found, *others, strict=True)]
    return optree.tree_unflatten(treedef, results)
