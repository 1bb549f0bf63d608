# SPDX-License-Identifier: Apache-2.0
"""What a container is, the order of its children, and how it is put together again.

Eager code flattens with optree. While `torch.compile` traces, the plain walks below
take its place: Dynamo follows them ten times faster than it follows optree, and it
stumbles over an empty dict in optree. Both give the same leaves in the same order.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import optree
from torch import Tensor

from functorch_lab.types import NAMESPACE

Tree = Any
DICTS = (dict, OrderedDict, defaultdict)


class Child(NamedTuple):
    """A child of a container, with the last piece of its two paths."""

    bracket: str
    dotted: str
    value: Any


def is_leaf(node: Any) -> bool:
    if isinstance(node, Tensor):
        return True
    if type(node) in DICTS or isinstance(node, (list, tuple)):
        return False
    return optree.tree_is_leaf(node, none_is_leaf=True, namespace=NAMESPACE)


def is_hole(node: Any) -> bool:
    return type(node) is tuple and len(node) == 0  # Dynamo cannot take `not node`


def one_level(node: Any) -> tuple[Any, ...]:
    """Children, metadata, entries and rebuilding function of a container."""
    return optree.tree_flatten_one_level(node, none_is_leaf=True, namespace=NAMESPACE)


def ordered_keys(node: dict[Any, Any]) -> list[Any]:
    """Sorted, except in an OrderedDict, whose order is part of its value."""
    if type(node) is OrderedDict:
        return list(node)
    try:
        return sorted(node)
    except TypeError:  # keys of several types: optree's order
        return list(one_level(node)[2])


def children_of(node: Any) -> list[Child]:
    """The children of a container in the order of leaves."""
    if type(node) in DICTS:
        return [Child(f"[{k!r}]", str(k), node[k]) for k in ordered_keys(node)]
    if type(node) in (list, tuple):
        return [Child(f"[{i}]", str(i), child) for i, child in enumerate(node)]
    if optree.is_namedtuple(node):
        return [
            Child(f".{name}", name, child)
            for name, child in zip(type(node)._fields, node, strict=True)
        ]
    children, _, entries = one_level(node)[:3]
    return [
        Child(f".{entry}" if isinstance(entry, str) else f"[{entry!r}]", str(entry), c)
        for entry, c in zip(entries, children, strict=True)
    ]


def rebuild(node: Any, children: list[Any]) -> Any:
    """A container like `node` with these children."""
    kind = type(node)
    if kind in DICTS:
        values = dict.fromkeys(node)  # keeps the order of insertion
        for key, child in zip(ordered_keys(node), children, strict=True):
            values[key] = child
        if kind is defaultdict:
            return defaultdict(node.default_factory, values)
        return values if kind is dict else OrderedDict(values)
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    _, metadata, _, unflatten = one_level(node)
    return unflatten(metadata, children)


def _values(node: Any) -> Any:
    """The children of a container, without their names."""
    kind = type(node)
    if kind in (list, tuple):
        return node
    if kind in DICTS:
        return [node[key] for key in ordered_keys(node)]
    return one_level(node)[0]


# The next three are what Dynamo traces for each use of a tree in a compiled function. A
# call costs it milliseconds, so the common containers are taken with as few as can be.


def walk(node: Any, found: list[Any]) -> None:
    """Appends the leaves of `node`."""
    kind = type(node)
    if kind in DICTS:
        for key in ordered_keys(node):
            child = node[key]
            if isinstance(child, Tensor):
                found.append(child)
            else:
                walk(child, found)
    elif kind not in (list, tuple) and is_leaf(node):
        found.append(node)
    else:
        for child in node if kind in (list, tuple) else _values(node):
            if isinstance(child, Tensor):
                found.append(child)
            else:
                walk(child, found)


def build(node: Any, leaves: Iterator[Any]) -> Any:
    """A tree of the structure of `node`, its leaves taken from an iterator."""
    kind = type(node)
    if kind is dict:
        values = dict.fromkeys(node)  # keeps the order of insertion
        for key in ordered_keys(node):
            child = node[key]
            is_tensor = isinstance(child, Tensor)
            values[key] = next(leaves) if is_tensor else build(child, leaves)
        return values
    if kind not in (list, tuple) and is_leaf(node):
        return next(leaves)
    children = []
    for child in node if kind in (list, tuple) else _values(node):
        if isinstance(child, Tensor):
            children.append(next(leaves))
        else:
            children.append(build(child, leaves))
    return tuple(children) if kind is tuple else rebuild(node, children)


def walk_along(node: Any, other: Any, found: list[Any]) -> bool:
    """Appends what `other` has where `node` has leaves; False if it has not."""
    kind = type(node)
    if kind in DICTS and type(other) in DICTS:
        if len(node) != len(other):
            return False
        pairs = []
        for key in ordered_keys(node):
            if key not in other:
                return False
            pairs.append((node[key], other[key]))
    elif kind not in (list, tuple) and is_leaf(node):
        found.append(other)
        return True
    elif kind is not type(other) or len(_values(node)) != len(_values(other)):
        return False
    else:
        pairs = list(zip(_values(node), _values(other), strict=True))
    for child, counterpart in pairs:
        if isinstance(child, Tensor):
            found.append(counterpart)
        elif not walk_along(child, counterpart, found):
            return False
    return True


def named_leaves(node: Any, bracket: str = "", dotted: str = "") -> list[Child]:
    """Every leaf with its full bracket path and its full dotted path."""
    if is_leaf(node):
        return [Child(bracket, dotted, node)]
    found = []
    for child in children_of(node):
        inner = f"{dotted}.{child.dotted}" if dotted else child.dotted
        found += named_leaves(child.value, bracket + child.bracket, inner)
    return found
