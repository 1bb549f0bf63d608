# SPDX-License-Identifier: Apache-2.0
"""One leaf or subtree of a tree, by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import optree

from functorch_lab.tree._difference import children_of, is_leaf
from functorch_lab.tree._flatten import Tree
from functorch_lab.tree._paths import nearest
from functorch_lab.types import NAMESPACE

Steps = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class At:
    """A place in a tree; made by `at`."""

    tree: Tree
    steps: Steps

    def get(self) -> Tree:
        """What stands there."""
        node = self.tree
        for step in self.steps:
            node = children_of(node)[step][1]
        return node

    def set(self, value: Tree) -> Tree:
        """A tree with `value` there; the tree itself stays as it is."""
        return _rebuild(self.tree, self.steps, lambda _: value)

    def apply(self, function: Callable[[Tree], Tree]) -> Tree:
        """A tree with `function` applied to what stands there."""
        return _rebuild(self.tree, self.steps, function)


def _rebuild(node: Tree, steps: Steps, function: Callable[[Tree], Tree]) -> Tree:
    if not steps:
        return function(node)
    children, metadata, _, unflatten = optree.tree_flatten_one_level(
        node, none_is_leaf=True, namespace=NAMESPACE
    )
    new = list(children)
    new[steps[0]] = _rebuild(new[steps[0]], steps[1:], function)
    return unflatten(metadata, new)


def _nodes(node: Tree, bracket: str, dotted: str) -> Iterator[tuple[Steps, str, str]]:
    yield (), bracket, dotted
    if is_leaf(node):
        return
    for index, (name, child) in enumerate(children_of(node)):
        plain = name[1:] if name.startswith(".") else name[1:-1].strip("'\"")
        joined = f"{dotted}.{plain}" if dotted else plain
        for steps, *names in _nodes(child, bracket + name, joined):
            yield (index, *steps), names[0], names[1]


def at(tree: Tree, path: str) -> At:
    """The place of a leaf or subtree, with `.get()`, `.set(value)`, `.apply(function)`.

    Args:
        tree: the tree.
        path: in bracket notation, `['encoder'][0]['weight']`, or dotted,
            `encoder.0.weight`; the empty path is the whole tree.

    Raises:
        ValueError: there is no such path; the nearest ones are listed.
    """
    known = list(_nodes(tree, "", ""))
    for steps, bracket, dotted in known:
        if path in (bracket, dotted):
            return At(tree, steps)
    column = 1 if path.startswith("[") else 2
    names = [node[column] for node in known if node[0]]
    raise ValueError(
        f"tree.at: path: expected a path of the tree, got {path!r}. "
        f"{nearest(path, names)}"
    )
