# SPDX-License-Identifier: Apache-2.0
"""The structure of a tree as JSON: what `restore` builds a tree from.

A node is `{"kind", "children": [[key, node], ...]}`, with `"class"` and `"static"`
where there are such; a leaf is its number.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.train import _classes

Node = Any
_DICTS: dict[str, type] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
}
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple}


class Place(NamedTuple):
    """The two paths of a leaf."""

    bracket: str
    dotted: str


class Mismatch(NamedTuple):
    """Where two trees differ, with what is there in each."""

    path: str
    expected: str
    got: str


class UnknownNode(Exception):
    """A file names a class or a value that this process cannot build."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what


def record(node: Any, leaves: list[Any], where: str, path: str = "") -> Node:
    """The structure of a tree; appends its leaves, of any type.

    Raises:
        TypeError: a key of a dict is nothing that JSON can hold, on behalf of `where`.
    """
    kind = type(node)
    found: dict[str, Any] = {"kind": kind.__name__}
    children: Iterable[tuple[Any, Any]]
    if kind in _DICTS.values():
        children = [(_key(key, where, path), child) for key, child in node.items()]
    elif kind in _SEQUENCES.values():
        children = enumerate(node)
    elif (known := _classes.node_class(kind)) is not None:
        found = {"kind": known.kind, "class": _classes.qualified(kind)}
        if known.static:
            found["static"] = [[n, _constant(getattr(node, n))] for n in known.static]
        children = [(name, getattr(node, name)) for name in known.children]
    else:
        is_leaf = node is None or isinstance(node, Tensor)
        inner = [node] if is_leaf else tree.leaves(node)
        if len(inner) == 1 and inner[0] is node:
            leaves.append(node)
            return len(leaves) - 1
        # A node of another library: its leaves by path.
        found = {"kind": "other", "class": _classes.qualified(kind)}
        children = zip(tree.paths(node), inner, strict=True)
    found["children"] = [
        [_constant(key), record(child, leaves, where, path + _bracket(found, key))]
        for key, child in children
    ]
    return found


def places(node: Node, at: Place = Place("", "")) -> list[Place]:  # noqa: B008
    """The paths of the leaves of a recorded structure, in the order of their numbers.

    Raises:
        UnknownNode: a key of a dict cannot be built.
    """
    if isinstance(node, int):
        return [at]
    found = []
    for key, child in _children(node, at.bracket):
        bracket = _bracket(node, key)
        dotted = str(key)
        if node["kind"] == "other":
            for mark in ("['", "']", "[", "]"):
                dotted = dotted.replace(mark, ".")
            dotted = ".".join(part for part in dotted.split(".") if part)
        whole = f"{at.dotted}.{dotted}" if at.dotted else dotted
        found += places(child, Place(at.bracket + bracket, whole))
    return found


def pairs(expected: Node, got: Node, path: str = "") -> Iterator[Any]:
    """The numbers of the leaves of both, `(path, of expected, of got)`, or `Mismatch`.

    Classes count by their fields, not by their names: a class that moved to another
    module is the same. A dict, an OrderedDict and a defaultdict count as the same.
    """
    if _shape(expected) != _shape(got):
        yield Mismatch(path, _described(expected), _described(got))
        return
    if isinstance(expected, int):
        yield path, expected, got
        return
    others = {json.dumps(key): child for key, child in got["children"]}
    for key, child in expected["children"]:
        bracket = _bracket(expected, _value(key, path))
        yield from pairs(child, others[json.dumps(key)], path + bracket)


def build(node: Node, leaves: Sequence[Any], path: str = "") -> Any:
    """The tree of a recorded structure.

    Raises:
        UnknownNode: of a class that this process does not know.
    """
    if isinstance(node, int):
        return leaves[node]
    kind = node["kind"]
    children = [
        (key, build(child, leaves, path + _bracket(node, key)))
        for key, child in _children(node, path)
    ]
    if kind in ("dict", "OrderedDict"):
        return _DICTS[kind](children)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](child for _, child in children)
    names = [name for name, _ in children]
    static = [(name, _value(value, path)) for name, value in node.get("static", ())]
    recorded = _classes.NodeClass(kind, names, [name for name, _ in static])
    found: Any = (
        _classes.loaded(node["class"]) if kind in ("namedtuple", "dataclass") else None
    )
    if found is not None and _classes.node_class(found) == recorded:
        return found(**dict(children), **dict(static))
    what = node.get("class", f"a {kind}")
    if found is not None:
        what += " with fields " + ", ".join(names + recorded.static)
    raise UnknownNode(path, what)


def _constant(value: Any) -> Any:
    """A key or a static field as JSON."""
    is_nan = type(value) is float and math.isnan(value)  # it differs from itself
    if value is None or (type(value) in (str, int, bool, float) and not is_nan):
        return value
    if type(value) is tuple:
        return {"tuple": [_constant(item) for item in value]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    return {"unknown": _classes.qualified(type(value))}


def _value(constant: Any, path: str) -> Any:
    if not isinstance(constant, dict):
        return constant
    if "tuple" in constant:
        return tuple([_value(item, path) for item in constant["tuple"]])
    dtype = getattr(torch, constant.get("dtype", ""), None)
    if isinstance(dtype, torch.dtype):
        return dtype
    raise UnknownNode(path, f"a {next(iter(constant.values()))}")


def _key(key: Any, where: str, path: str) -> Any:
    if '{"unknown":' in json.dumps(_constant(key)):  # a string's quotes are escaped
        raise TypeError(
            f"train.{where}: expected keys that are strings, numbers or tuples of "
            f"them, got {key!r:.40} at {path or 'the root'}. Rename the key."
        )
    return key


def _children(node: Node, path: str) -> list[tuple[Any, Node]]:
    return [(_value(key, path), child) for key, child in node["children"]]


def _bracket(node: Node, key: Any) -> str:
    if node["kind"] == "other":
        return key
    is_field = node["kind"] in ("namedtuple", "dataclass")
    return f".{key}" if is_field else f"[{key!r}]"


def _shape(node: Node) -> Any:
    """What two nodes must have in common."""
    if isinstance(node, int):
        return None
    kind = "dict" if node["kind"] in _DICTS else node["kind"]
    keys = [json.dumps(key) for key, _ in node["children"]]
    name = node["class"] if kind == "other" else ""
    static = json.dumps(node.get("static", []))
    return kind, name, sorted(keys) if kind == "dict" else keys, static


def _described(node: Node) -> str:
    if isinstance(node, int):
        return "a tensor"
    if node["kind"] in _DICTS:
        keys = sorted(repr(key) for key, _ in _children(node, ""))
        return f"a {node['kind']} with keys {', '.join(keys) or 'none'}"
    if node["kind"] in _SEQUENCES:
        count = len(node["children"])
        is_hole = node["kind"] == "tuple" and not count
        return "()" if is_hole else f"a {node['kind']} of {count}"
    static = "".join(f", {name}={value}" for name, value in node.get("static", ()))
    names = ", ".join(str(key) for key, _ in node["children"])
    return f"a {node['class']} ({names}{static})"
