# SPDX-License-Identifier: Apache-2.0
"""Where two trees first differ, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from functorch_lab.tree._nodes import DICTS, children_of, is_hole, is_leaf


class Difference(NamedTuple):
    """One place where two trees differ, with what each of them has there."""

    path: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"at {self.path or 'the root'}: expected {self.expected}, got {self.got}"


Compare = Callable[[str, Any, Any], Difference | None]


def dtype_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def describe_node(node: Any) -> str:
    """A leaf or container in a few words."""
    if node is None:
        return "None"
    if isinstance(node, Tensor):
        return f"a tensor {tuple(node.shape)}"
    if is_leaf(node):
        return f"a {type(node).__name__}"
    if is_hole(node):
        return "()"
    if isinstance(node, dict):
        return f"a {type(node).__name__} with keys {_listed(node)}"
    return f"a {type(node).__name__} of {len(children_of(node))}"


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(sorted(repr(key) for key in keys)) or "none"


def _different_keys(path: str, expected: Any, got: Any) -> Difference:
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    notes = [f"missing {_listed(missing)}"] if missing else []
    notes += [f"unexpected {_listed(unexpected)}"] if unexpected else []
    return Difference(
        path, f"keys {_listed(expected)}", f"{_listed(got)} ({', '.join(notes)})"
    )


def _different_nodes(path: str, expected: Any, got: Any) -> Difference | None:
    """Compares two nodes, at least one of them a container, without their children."""
    both_dicts = type(expected) in DICTS and type(got) in DICTS
    if both_dicts and set(expected) != set(got):
        return _different_keys(path, expected, got)
    if type(expected) is type(got) and isinstance(expected, Mapping):
        if set(expected) != set(got):
            return _different_keys(path, expected, got)
        return None
    same_kind = both_dicts or type(expected) is type(got)
    if same_kind and len(children_of(expected)) == len(children_of(got)):
        return None
    return Difference(path, describe_node(expected), describe_node(got))


def first_difference(
    expected: Any,
    got: Any,
    path: str = "",
    *,
    prefix: bool = False,
    compare: Compare | None = None,
) -> Difference | None:
    """The first difference in the order of leaves, or None.

    Args:
        expected: the reference.
        got: the tree that is compared with it.
        path: bracket path of both in the whole.
        prefix: a leaf of `expected` may face a whole subtree of `got`.
        compare: compares two leaves.
    """
    if is_leaf(expected) and (prefix or is_leaf(got)):
        return compare(path, expected, got) if compare else None
    if is_leaf(expected) or is_leaf(got):
        return Difference(path, describe_node(expected), describe_node(got))
    found = _different_nodes(path, expected, got)
    if found is not None:
        return found
    for child, other in zip(children_of(expected), children_of(got), strict=True):
        inner = path + child.bracket
        found = first_difference(
            child.value, other.value, inner, prefix=prefix, compare=compare
        )
        if found is not None:
            return found
    return None
