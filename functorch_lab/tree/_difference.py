# SPDX-License-Identifier: Apache-2.0
"""Where two trees first differ, in words."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import optree
from torch import Tensor

from functorch_lab.types import NAMESPACE

_DICTS = (dict, OrderedDict, defaultdict)
Predicate = Callable[[Any], bool]


class Difference(NamedTuple):
    """One place where two trees differ, with what each of them has there."""

    path: str
    expected: str
    got: str

    def __str__(self) -> str:
        where = self.path or "the root"
        return f"at {where}: expected {self.expected}, got {self.got}"


def is_leaf(node: Any) -> bool:
    return optree.tree_is_leaf(node, none_is_leaf=True, namespace=NAMESPACE)


def children_of(node: Any) -> list[tuple[str, Any]]:
    """The children of a container with the last piece of their bracket path."""
    flat = optree.tree_flatten_one_level(node, none_is_leaf=True, namespace=NAMESPACE)
    children, entries = flat[0], flat[2]
    if isinstance(node, dict):
        names = [f"[{entry!r}]" for entry in entries]
    elif optree.is_namedtuple(node):
        names = [f".{field}" for field in type(node)._fields]
    else:
        names = [f".{e}" if isinstance(e, str) else f"[{e!r}]" for e in entries]
    return list(zip(names, children, strict=True))


def dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def describe_node(node: Any) -> str:
    """A leaf or container in a few words."""
    if node is None:
        return "None"
    if isinstance(node, Tensor):
        return f"a tensor {tuple(node.shape)}"
    if is_leaf(node):
        return f"a leaf of type {type(node).__name__}"
    if type(node) is tuple and not node:
        return "()"
    if isinstance(node, dict):
        return f"a dict with keys {_listed(node)}"
    return f"a {type(node).__name__} of {len(children_of(node))}"


def _listed(keys: Any) -> str:
    return ", ".join(sorted(repr(key) for key in keys)) or "none"


def _different_keys(path: str, expected: Any, got: Any) -> Difference:
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    notes = [f"missing {_listed(missing)}"] if missing else []
    notes += [f"unexpected {_listed(unexpected)}"] if unexpected else []
    return Difference(
        path, f"keys {_listed(expected)}", f"{_listed(got)} ({', '.join(notes)})"
    )


def first_difference(
    expected: Any,
    got: Any,
    *,
    path: str = "",
    prefix: bool = False,
    stop: Predicate = is_leaf,
    compare: Callable[[str, Any, Any], Difference | None] | None = None,
) -> Difference | None:
    """The first difference in the order of leaves, or None.

    Args:
        expected: the reference.
        got: the tree that is compared with it.
        path: bracket path of both in the whole.
        prefix: a leaf of `expected` may face a whole subtree of `got`.
        stop: what is not looked into.
        compare: compares two leaves.
    """
    if stop(expected) or stop(got):
        if stop(expected) and (prefix or stop(got)):
            return compare(path, expected, got) if compare else None
        return Difference(path, describe_node(expected), describe_node(got))
    both_dicts = type(expected) in _DICTS and type(got) in _DICTS
    if both_dicts and set(expected) != set(got):
        return _different_keys(path, expected, got)
    if type(expected) is not type(got) and not both_dicts:
        return Difference(path, describe_node(expected), describe_node(got))
    first, second = children_of(expected), children_of(got)
    if len(first) != len(second):
        return Difference(path, describe_node(expected), describe_node(got))
    for (name, a), (_, b) in zip(first, second, strict=True):
        found = first_difference(
            a, b, path=path + name, prefix=prefix, stop=stop, compare=compare
        )
        if found is not None:
            return found
    return None
