# SPDX-License-Identifier: Apache-2.0
"""The classes of nodes, by the names that files know them by.

A class is looked up among those that this process has loaded, and only one of nodes is
called: what a file names is never imported.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple

from functorch_lab.train._state import TrainState


class NodeClass(NamedTuple):
    """A class of nodes: what makes them, and the names of their fields."""

    kind: str
    children: list[str]
    static: list[str]


def node_class(kind: Any) -> NodeClass | None:
    """What it is; None if its objects are no nodes that `build` could make."""
    if not isinstance(kind, type):
        return None
    fields = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and isinstance(fields, tuple) and hasattr(kind, "_make"):
        return NodeClass("namedtuple", list(fields), [])
    # Of what tree.dataclass makes, its `replace` is the mark.
    if vars(kind).get("replace") is not vars(TrainState)["replace"]:
        return None
    found = NodeClass("dataclass", [], [])
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        is_child = field.metadata.get("pytree_node", True)
        (found.children if is_child else found.static).append(field.name)
    return found


def qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def loaded(name: str) -> Any:
    """The object of that name in the modules that are loaded; None if there is none."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        if found is None:
            continue
        for part in parts[cut:]:  # vars, as a module may import by __getattr__
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        return found
    return None
