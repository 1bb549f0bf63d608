# SPDX-License-Identifier: Apache-2.0
"""Leaves by name: bracket paths and dotted paths."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import optree

from functorch_lab.tree._flatten import (
    Tree,
    checked_flatten,
    flatten_like,
    path_strings,
)


def dotted_strings(treedef: optree.PyTreeSpec) -> list[str]:
    """Paths as a torch state_dict writes them: `encoder.0.weight`."""
    return [
        ".".join([_entry_name(entry) for entry in accessor])
        for accessor in treedef.accessors()
    ]


def _entry_name(entry: optree.PyTreeEntry) -> str:
    if isinstance(entry, optree.NamedTupleEntry):
        return entry.field
    return str(entry.entry)


def nearest(path: str, known: Iterable[str]) -> str:
    """Up to three known paths that are most like `path`, for an error's remedy."""
    names = list(known)
    close = difflib.get_close_matches(path, names, n=3, cutoff=0.3) or names[:3]
    if not close:
        return "The tree has no leaves."
    return f"Nearest: {', '.join(close)}."


def paths(tree: Tree) -> list[str]:
    """The path of each leaf in bracket notation, in the order of `leaves`.

    Raises:
        ValueError: there is a `None` in the tree.
    """
    return path_strings(checked_flatten(tree, "paths")[1])


def map_with_path(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`map` whose function is called with the leaf's bracket path first.

    Raises:
        ValueError: there is a `None` in `tree`, or a tree in `rest` differs from it.
    """
    found, treedef = checked_flatten(tree, "map_with_path")
    others = [flatten_like("map_with_path", treedef, tree, other) for other in rest]
    names = path_strings(treedef)
    results = [function(*group) for group in zip(names, found, *others, strict=True)]
    return optree.tree_unflatten(treedef, results)
