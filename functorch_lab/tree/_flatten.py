# SPDX-License-Identifier: Apache-2.0
"""From a tree to its leaves and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optree
import torch

from functorch_lab.tree._difference import first_difference
from functorch_lab.tree._nodes import Tree, build, named_leaves, walk, walk_along
from functorch_lab.tree._transformers import met_new
from functorch_lab.types import NAMESPACE


class _Star:
    """Stands for a leaf where only the structure counts."""

    def __repr__(self) -> str:
        return "*"


_STAR = _Star()


class Structure:
    """What is left of a tree when its leaves are taken away; made by `structure`.

    Structures are equal when their trees have the same containers and keys. One that
    was made outside `torch.compile` may be used inside.
    """

    __slots__ = ("_spec", "_template")

    def __init__(self, spec: optree.PyTreeSpec | None, template: Tree) -> None:
        self._spec = spec  # for eager code
        self._template = template  # for tracing: Dynamo cannot look into a spec

    @property
    def num_leaves(self) -> int:
        """Number of leaves."""
        if torch.compiler.is_dynamo_compiling():
            found: list[Any] = []
            walk(self._template, found)
            return len(found)
        return self._eager_spec().num_leaves

    def unflatten(self, leaves: Iterable[Any]) -> Tree:
        """The tree of this structure that has these leaves."""
        if torch.compiler.is_dynamo_compiling():
            return build(self._template, iter(leaves))
        return self._eager_spec().unflatten(leaves)

    def paths(self) -> list[str]:
        """The bracket path of each leaf."""
        template = self.kept()._template
        return [leaf.bracket for leaf in named_leaves(template)]

    def children(self) -> list[Structure]:
        """The structures one level down; none below a leaf. Not while tracing."""
        return [Structure(spec, None) for spec in self._eager_spec().children()]

    def along(self, other: Tree) -> list[Any] | None:
        """What `other` has where the leaves are; None where it is built otherwise."""
        if torch.compiler.is_dynamo_compiling():
            found: list[Any] = []
            return found if walk_along(self._template, other, found) else None
        try:
            return self._eager_spec().flatten_up_to(other)
        except ValueError:
            return None

    def kept(self) -> Structure:
        """This structure in a form that outlives the tensors and serves in a trace."""
        if torch.compiler.is_dynamo_compiling() or self._template is not None:
            return self
        return Structure(self._spec, self.unflatten([_STAR] * self.num_leaves))

    def _eager_spec(self) -> optree.PyTreeSpec:
        if self._spec is None:  # made while tracing
            return open_tree(self._template)[1]._eager_spec()
        return self._spec

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return False
        if torch.compiler.is_dynamo_compiling():
            return first_difference(self._template, other._template) is None
        return self._eager_spec() == other._eager_spec()

    def __hash__(self) -> int:
        return hash(self._eager_spec())

    def __repr__(self) -> str:
        return repr(self._eager_spec().unflatten([_STAR] * self.num_leaves))


def open_tree(tree: Tree) -> tuple[list[Any], Structure]:
    """Leaves, `None` among them, and structure."""
    if torch.compiler.is_dynamo_compiling():
        found: list[Any] = []
        walk(tree, found)
        return found, Structure(None, tree)
    found, spec = optree.tree_flatten(tree, none_is_leaf=True, namespace=NAMESPACE)
    if met_new(found):
        return open_tree(tree)
    return found, Structure(spec, None)


def checked(tree: Tree, where: str) -> tuple[list[Any], Structure]:
    """Leaves and structure of a tree in which `None` is refused.

    Raises:
        ValueError: there is a `None`; its path is named.
    """
    found, treedef = open_tree(tree)
    for leaf in found:
        if leaf is None:
            paths = [leaf.bracket for leaf in named_leaves(tree) if leaf.value is None]
            raise ValueError(
                f"tree.{where}: tree: expected tensors, got None at "
                f"{paths[0] or 'the root'}. Write a hole as (), the empty tuple."
            )
    return found, treedef


def flatten(tree: Tree, *, none_is_leaf: bool = False) -> tuple[list[Any], Structure]:
    """The leaves of a tree and its structure: `unflatten` undoes it.

    Args:
        tree: any tree.
        none_is_leaf: `None` is a leaf like any other, in place of an error: for
            arguments that may be left out. The structure is then for eager code only,
            or for the trace in which it was made.

    Raises:
        ValueError: there is a `None` in the tree.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.flatten({"b": torch.tensor(2.0), "a": (torch.tensor(3.0),)})
        ([tensor(3.), tensor(2.)], {'b': *, 'a': (*,)})
    """
    if none_is_leaf:
        return open_tree(tree)
    found, treedef = checked(tree, "flatten")
    return found, treedef.kept()


def unflatten(treedef: Structure, leaves: Sequence[Any]) -> Tree:
    """The tree of structure `treedef` that has these leaves.

    Raises:
        TypeError: `treedef` is not a structure.
        ValueError: the number of leaves is not that of the structure.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> treedef = tree.structure({"b": torch.tensor(2.0), "a": torch.tensor(3.0)})
        >>> tree.unflatten(treedef, ["first", "second"])
        {'b': 'second', 'a': 'first'}
    """
    if not isinstance(treedef, Structure):
        raise TypeError(
            "tree.unflatten: treedef: expected what tree.structure returns, "
            f"got a {type(treedef).__name__}. Pass the structure first."
        )
    values = list(leaves)
    if len(values) != treedef.num_leaves:
        raise ValueError(
            f"tree.unflatten: leaves: expected {treedef.num_leaves} leaves, "
            f"got {len(values)}. Pass one leaf for each leaf of the structure."
        )
    return treedef.unflatten(values)


def leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, those of a dict in the order of its sorted keys.

    An `OrderedDict` keeps its own order, fields come as they are declared.

    Raises:
        ValueError: there is a `None` in the tree.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.leaves({"b": torch.tensor(2.0), "a": [torch.tensor(3.0), ()]})
        [tensor(3.), tensor(2.)]
    """
    return checked(tree, "leaves")[0]


def structure(tree: Tree) -> Structure:
    """The structure of a tree: its containers and keys, without the leaves.

    Raises:
        ValueError: there is a `None` in the tree.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.structure({"w": torch.ones(2), "b": ()})
        {'w': *, 'b': ()}
    """
    return checked(tree, "structure")[1].kept()


def map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Applies `function` to each leaf of `tree` and to what stands there in `rest`.

    Raises:
        ValueError: there is a `None` in `tree`, or a tree in `rest` differs from it.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> params, grads = {"w": torch.tensor(5.0)}, {"w": torch.tensor(4.0)}
        >>> tree.map(lambda p, g: p - 0.5 * g, params, grads)
        {'w': tensor(3.)}
    """
    return map_leaves("map", function, tree, *rest)


def map_leaves(
    where: str, function: Callable[..., Any], tree: Tree, *rest: Tree
) -> Tree:
    """`map` whose errors speak in the name of another function of the namespace."""
    found, treedef = checked(tree, where)
    if not rest:
        return treedef.unflatten([function(leaf) for leaf in found])
    columns = [found, *columns_along(where, tree, treedef, rest)]
    return treedef.unflatten([function(*group) for group in zip(*columns, strict=True)])


def columns_along(
    where: str, tree: Tree, treedef: Structure, rest: Sequence[Tree]
) -> list[list[Any]]:
    """What each tree of `rest` has where `tree` has leaves.

    Raises:
        ValueError: one of them is built otherwise; the first path is named.
    """
    columns = []
    for other in rest:
        column = treedef.along(other)
        if column is None:
            found = first_difference(tree, other, prefix=True)
            raise ValueError(
                f"tree.{where}: trees differ {found}. Pass trees of the same structure."
            )
        columns.append(column)
    return columns
