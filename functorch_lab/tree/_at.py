# SPDX-License-Identifier: Apache-2.0
"""One place of a tree, by its path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from functorch_lab.tree._nodes import Child, Tree, children_of, is_leaf, rebuild
from functorch_lab.tree._paths import nearest

Steps = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class At:
    """A place in a tree; made by `at`."""

    _tree: Tree
    _steps: Steps

    def get(self) -> Tree:
        """What stands there, a leaf or a subtree."""
        node = self._tree
        for step in self._steps:
            node = children_of(node)[step].value
        return node

    def set(self, value: Tree) -> Tree:
        """A tree that has `value` there."""
        return _replace(self._tree, self._steps, lambda _: value)

    def apply(self, function: Callable[[Tree], Tree]) -> Tree:
        """A tree that has `function` of it there."""
        return _replace(self._tree, self._steps, function)


def _replace(node: Tree, steps: Steps, function: Callable[[Tree], Tree]) -> Tree:
    if not steps:
        return function(node)
    children = [child.value for child in children_of(node)]
    children[steps[0]] = _replace(children[steps[0]], steps[1:], function)
    return rebuild(node, children)


def _all_nodes(
    node: Tree, steps: Steps, bracket: str, dotted: str
) -> list[tuple[Steps, Child]]:
    """Every leaf and container, with its full paths."""
    found = [(steps, Child(bracket, dotted, node))]
    if is_leaf(node):
        return found
    for index, child in enumerate(children_of(node)):
        inner = f"{dotted}.{child.dotted}" if dotted else child.dotted
        found += _all_nodes(
            child.value, (*steps, index), bracket + child.bracket, inner
        )
    return found


def at(tree: Tree, path: str) -> At:
    """A leaf or subtree by its path, with `.get()`, `.set(value)`, `.apply(function)`.

    `set` and `apply` return a new tree and leave the old one as it is.

    Args:
        tree: the tree.
        path: in bracket notation, `['encoder'][0]['weight']`, or dotted,
            `encoder.0.weight`; the empty path is the whole tree.

    Raises:
        TypeError: the path is not a string.
        ValueError: no or more than one place has this path; the nearest are listed.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> params = {"a": [torch.tensor(2.0), torch.tensor(3.0)]}
        >>> tree.at(params, "a.1").apply(torch.neg)
        {'a': [tensor(2.), tensor(-3.)]}
    """
    if not isinstance(path, str):
        raise TypeError(
            f"tree.at: path: expected a string, got a {type(path).__name__}. "
            "Write it as 'encoder.0.weight' or \"['encoder'][0]['weight']\"."
        )
    known = _all_nodes(tree, (), "", "")
    places = [steps for steps, node in known if node.bracket == path]
    places = places or [steps for steps, node in known if node.dotted == path]
    if len(places) == 1:
        return At(tree, places[0])
    if places:
        raise ValueError(
            f"tree.at: path: expected one place, got {path!r}, which is the dotted "
            f"path of {len(places)}. Use bracket notation."
        )
    style = 0 if path.startswith(("[", ".")) else 1
    raise ValueError(
        f"tree.at: path: expected a path of the tree, got {path!r}. "
        f"{nearest(path, [node[style] for _, node in known])}"
    )
