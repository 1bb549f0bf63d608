# SPDX-License-Identifier: Apache-2.0
"""Splitting a tree in two by leaf, and putting it together again."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

import optree
import torch

from functorch_lab.tree._difference import first_difference, is_leaf
from functorch_lab.tree._flatten import (
    Tree,
    checked_flatten,
    path_strings,
    raw_flatten,
)
from functorch_lab.tree._paths import dotted_strings, nearest

HOLE = ()


@torch.compiler.assume_constant_result
def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def _matching(where: str, treedef: optree.PyTreeSpec, pattern: str) -> list[bool]:
    names = dotted_strings(treedef)
    chosen = [_matches(name, pattern) for name in names]
    if not any(chosen):
        raise ValueError(
            f"tree.{where}: pattern: expected a glob over dotted paths, "
            f"got {pattern!r}, which matches no leaf. {nearest(pattern, names)}"
        )
    return chosen


def partition(
    predicate: Callable[[str, Any], bool] | str, tree: Tree
) -> tuple[Tree, Tree]:
    """Splits a tree into `(kept, rest)`, each with `()` where the other has the leaf.

    Args:
        predicate: `predicate(path, leaf)`, with the path in bracket notation, or a
            pattern as `select` takes it.
        tree: the tree to split.

    Raises:
        ValueError: a pattern matches no leaf, or there is a `None` in the tree.
    """
    found, treedef = checked_flatten(tree, "partition")
    if isinstance(predicate, str):
        chosen = _matching("partition", treedef, predicate)
    else:
        names = path_strings(treedef)
        chosen = [predicate(n, leaf) for n, leaf in zip(names, found, strict=True)]
    pairs = list(zip(chosen, found, strict=True))
    kept = [leaf if keep else HOLE for keep, leaf in pairs]
    rest = [HOLE if keep else leaf for keep, leaf in pairs]
    return optree.tree_unflatten(treedef, kept), optree.tree_unflatten(treedef, rest)


def _is_hole(node: Any) -> bool:
    return type(node) is tuple and not node


def _stop(node: Any) -> bool:
    return _is_hole(node) or is_leaf(node)


def combine(kept: Tree, rest: Tree) -> Tree:
    """Fills the holes `()` of `kept` with what `rest` has there: undoes `partition`.

    Raises:
        ValueError: the structures differ, or both have a leaf at one path.
    """
    first, treedef = raw_flatten(kept, _is_hole)
    second, other = raw_flatten(rest, _is_hole)
    if path_strings(treedef) != path_strings(other):
        difference = first_difference(kept, rest, stop=_stop)
        raise ValueError(
            f"tree.combine: kept and rest differ {difference}. "
            "Pass the two trees that partition returned."
        )
    merged = []
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if not _is_hole(a) and not _is_hole(b):
            raise ValueError(
                f"tree.combine: kept and rest: expected a hole () in one of them, "
                f"got leaves in both at {path_strings(treedef)[index]}. "
                "Pass the two trees that partition returned."
            )
        merged.append(b if _is_hole(a) else a)
    return optree.tree_unflatten(treedef, merged)


def select(tree: Tree, pattern: str) -> dict[str, Any]:
    """The leaves whose path matches a pattern, as a dict from bracket path to leaf.

    The pattern is a shell glob over the whole dotted path, as torch's state_dict writes
    it: in `encoder.*.weight`, `*` stands for any characters, dots too, `?` for
    one character, `[01]` for one of those listed. Case counts.

    Raises:
        ValueError: the pattern matches no leaf; the nearest paths are listed.
    """
    found, treedef = checked_flatten(tree, "select")
    chosen = _matching("select", treedef, pattern)
    names = path_strings(treedef)
    rows = zip(names, found, chosen, strict=True)
    return {name: leaf for name, leaf, keep in rows if keep}
