# SPDX-License-Identifier: Apache-2.0
"""Splitting a tree in two by leaf, and putting it together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functorch_lab.tree._difference import describe_node
from functorch_lab.tree._flatten import checked
from functorch_lab.tree._nodes import (
    DICTS,
    Tree,
    children_of,
    is_hole,
    is_leaf,
    named_leaves,
    rebuild,
)
from functorch_lab.tree._paths import matching

_HOLE = ()


def partition(
    predicate: Callable[[str, Any], bool] | str, tree: Tree
) -> tuple[Tree, Tree]:
    """Splits a tree into `(kept, rest)`, each with `()` where the other has the leaf.

    Args:
        predicate: `predicate(path, leaf)`, with the path in bracket notation, or a
            pattern as `select` takes it.
        tree: the tree to split.

    Raises:
        TypeError: the predicate is neither.
        ValueError: a pattern matches no leaf, or there is a `None` in the tree.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> params = {"w": torch.tensor(2.0), "b": torch.tensor(3.0)}
        >>> tree.partition("w", params)
        ({'w': tensor(2.), 'b': ()}, {'w': (), 'b': tensor(3.)})
    """
    found, treedef = checked(tree, "partition")
    if isinstance(predicate, str):
        chosen = [match for match, _ in matching("partition", tree, predicate)]
    elif callable(predicate):
        chosen = [predicate(leaf.bracket, leaf.value) for leaf in named_leaves(tree)]
    else:
        raise TypeError(
            "tree.partition: predicate: expected predicate(path, leaf) or a pattern, "
            f"got a {type(predicate).__name__}. Pass it first, then the tree."
        )
    pairs = list(zip(chosen, found, strict=True))
    kept = treedef.unflatten([leaf if keep else _HOLE for keep, leaf in pairs])
    rest = treedef.unflatten([_HOLE if keep else leaf for keep, leaf in pairs])
    return kept, rest


def combine(kept: Tree, rest: Tree) -> Tree:
    """Fills each hole `()` of one tree with what the other has there.

    `combine(*partition(predicate, tree))` is `tree`.

    Raises:
        ValueError: the structures differ, or both have a leaf at one path.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.combine([torch.tensor(2.0), ()], [(), torch.tensor(3.0)])
        [tensor(2.), tensor(3.)]
    """
    return _merge(kept, rest, "")


def _merge(kept: Tree, rest: Tree, path: str) -> Tree:
    if is_hole(kept):
        return rest
    if is_hole(rest):
        return kept
    if not _same_kind(kept, rest):
        raise ValueError(
            f"tree.combine: kept and rest differ at {path or 'the root'}: expected a "
            f"hole () in one of them, got {describe_node(kept)} and "
            f"{describe_node(rest)}. Pass the two trees that partition returned."
        )
    pairs = zip(children_of(kept), children_of(rest), strict=True)
    return rebuild(kept, [_merge(a.value, b.value, path + a.bracket) for a, b in pairs])


def _same_kind(kept: Tree, rest: Tree) -> bool:
    if is_leaf(kept) or is_leaf(rest):
        return False
    if type(kept) in DICTS and type(rest) in DICTS:
        return set(kept) == set(rest)
    return type(kept) is type(rest) and len(children_of(kept)) == len(children_of(rest))
