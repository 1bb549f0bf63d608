# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses that are tree nodes, for this library and for torch."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

import optree.dataclasses
from torch.utils import _pytree

from functorch_lab.types import NAMESPACE

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def dataclass(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass whose fields are the children of a tree node.

    The leaves come in the order of the fields. `grad`, `vmap`, `torch.compile` and all
    functions of `tree` look into it. Instances get `.replace(**changes)`, which returns
    a changed copy; `dataclasses.replace` does the same and is known to type checkers.

    Raises:
        TypeError: it is not a class, or it defines `replace` itself.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> @tree.dataclass
        ... class State:
        ...     step: torch.Tensor
        ...     momentum: torch.Tensor
        >>> state = State(step=torch.tensor(2), momentum=torch.tensor(0.5))
        >>> tree.map(lambda x: 3 * x, state)
        State(step=tensor(6), momentum=tensor(1.5000))
        >>> state.replace(step=state.step + 1).step
        tensor(3)
    """
    if not inspect.isclass(cls):
        raise TypeError(
            f"tree.dataclass: cls: expected a class, got a {type(cls).__name__}. "
            "Write @tree.dataclass above a class, without arguments."
        )
    if "replace" in cls.__dict__ or "replace" in inspect.get_annotations(cls):
        raise TypeError(
            f"tree.dataclass: {cls.__name__}: expected no attribute named replace, got "
            "one. The decorator adds replace(**changes): rename yours."
        )
    cls = optree.dataclasses.dataclass(cls, frozen=True, namespace=NAMESPACE)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [f.name for f in fields if not _is_static(f)]
    constants = [f.name for f in fields if _is_static(f)]

    def flatten(node: Any) -> tuple[list[Any], tuple[Any, ...]]:
        context = tuple([getattr(node, name) for name in constants])
        return [getattr(node, name) for name in names], context

    def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children, context = flatten(node)
        keyed = list(zip(map(_pytree.GetAttrKey, names), children, strict=True))
        return keyed, context

    def unflatten(children: Any, context: tuple[Any, ...]) -> Any:
        values = dict(zip(names, children, strict=True))
        return cls(**values, **dict(zip(constants, context, strict=True)))

    _pytree.register_pytree_node(
        cls, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys
    )
    cls.replace = _replace  # type: ignore[attr-defined]
    return cls


def static() -> Any:
    """A field of `tree.dataclass` that is no child: part of the node's structure.

    For what describes the tensors: a shape, a name, any hashable value. Trees whose
    static fields differ differ in structure.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> @tree.dataclass
        ... class Counted:
        ...     total: torch.Tensor
        ...     unit: str = tree.static()
        >>> tree.map(lambda x: 2 * x, Counted(torch.tensor(3.0), "bytes"))
        Counted(total=tensor(6.), unit='bytes')
    """
    return optree.dataclasses.field(pytree_node=False)


def _is_static(field: dataclasses.Field[Any]) -> bool:
    return not field.metadata.get("pytree_node", True)


def _replace(self: Any, **changes: Any) -> Any:
    """A copy with these fields changed."""
    return dataclasses.replace(self, **changes)
