# SPDX-License-Identifier: Apache-2.0
"""Leaves by name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from functorch_lab.tree._flatten import checked, columns_along
from functorch_lab.tree._nodes import Child, Tree, named_leaves


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


# What torch.compiler.assume_constant_result does, which first imports torch._dynamo
# (seconds): Dynamo runs this function instead of tracing it.
_matches._dynamo_marked_constant = True  # type: ignore[attr-defined]


def nearest(path: str, known: Iterable[str]) -> str:
    """Up to three known paths that are most like `path`, for an error's remedy."""
    names = [name for name in known if name]
    close = difflib.get_close_matches(path, names, n=3, cutoff=0.3) or names[:3]
    return f"Nearest: {', '.join(close)}." if close else "The tree has no paths."


def matching(where: str, tree: Tree, pattern: str) -> list[tuple[bool, Child]]:
    """All leaves of `tree`, each with whether it matches.

    Raises:
        ValueError: none does.
    """
    found = named_leaves(tree)
    chosen = [(_matches(leaf.dotted, pattern), leaf) for leaf in found]
    if not any(match for match, _ in chosen):
        raise ValueError(
            f"tree.{where}: pattern: expected a glob over dotted paths, "
            f"got {pattern!r}, which matches no leaf. "
            f"{nearest(pattern, [leaf.dotted for leaf in found])}"
        )
    return chosen


def paths(tree: Tree) -> list[str]:
    """The path of each leaf in bracket notation, in the order of `leaves`.

    Fields of named tuples and dataclasses are written `.field`. The path of a tree
    that is a single tensor is empty.

    Raises:
        ValueError: there is a `None` in the tree.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.paths({"b": [torch.ones(2), torch.ones(3)], "a": torch.ones(5)})
        ["['a']", "['b'][0]", "['b'][1]"]
    """
    checked(tree, "paths")
    return [leaf.bracket for leaf in named_leaves(tree)]


def map_with_path(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`map` whose function gets the leaf's bracket path first: `f(path, leaf, ...)`.

    Raises:
        ValueError: there is a `None` in `tree`, or a tree in `rest` differs from it.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> params = {"w": torch.tensor(3.0), "b": torch.tensor(5.0)}
        >>> tree.map_with_path(lambda path, x: x if path == "['w']" else 0 * x, params)
        {'w': tensor(3.), 'b': tensor(0.)}
    """
    found, treedef = checked(tree, "map_with_path")
    columns = columns_along("map_with_path", tree, treedef, rest)
    names = [leaf.bracket for leaf in named_leaves(tree)]
    groups = zip(names, found, *columns, strict=True)
    return treedef.unflatten([function(*group) for group in groups])


def select(tree: Tree, pattern: str) -> dict[str, Any]:
    """The leaves whose path matches a pattern, as a dict from bracket path to leaf.

    The pattern is a shell glob over the whole dotted path, written as the keys of a
    torch state_dict: in `encoder.*.weight`, `*` stands for any characters, dots too;
    `?` for any one character; `[01]` for one of those listed. Case counts.

    Raises:
        ValueError: no leaf matches, with the nearest paths; or there is a `None`.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> params = {"a": [torch.tensor(2.0), torch.tensor(3.0)], "b": torch.ones(())}
        >>> tree.select(params, "a.*")
        {"['a'][0]": tensor(2.), "['a'][1]": tensor(3.)}
    """
    checked(tree, "select")
    chosen = matching("select", tree, pattern)
    return {leaf.bracket: leaf.value for match, leaf in chosen if match}
