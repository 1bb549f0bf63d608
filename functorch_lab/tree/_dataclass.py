# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses that are tree nodes, for this library and for torch."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import optree.dataclasses
from torch.utils import _pytree

from functorch_lab.types import NAMESPACE

T = TypeVar("T")


def _replace(self: Any, **changes: Any) -> Any:
    """A copy with these fields changed."""
    return dataclasses.replace(self, **changes)


@dataclass_transform(frozen_default=True)
def dataclass(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields are the children of a tree node.

    `grad`, `vmap`, `torch.compile` and every function of `tree` look into it.
    Instances have `.replace(**changes)`.
    """
    cls = optree.dataclasses.dataclass(cls, frozen=True, namespace=NAMESPACE)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    def flatten(node: Any) -> tuple[list[Any], None]:
        return [getattr(node, name) for name in names], None

    def unflatten(children: Any, _: None) -> Any:
        return cls(*children)

    _pytree.register_pytree_node(cls, flatten, unflatten)
    cls.replace = _replace  # type: ignore[attr-defined]
    return cls
