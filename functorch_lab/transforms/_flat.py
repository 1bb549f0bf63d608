# SPDX-License-Identifier: Apache-2.0
"""Arguments and results as flat lists, for every transform.

Unlike elsewhere `None` is a leaf here: an argument may be left out.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree as _tree

Tree = Any
Structure = Any


def flatten(tree: Tree) -> tuple[list[Any], Structure]:
    return _tree.flatten(tree, none_is_leaf=True)


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Tree:
    return structure.unflatten(leaves)


def leaves(tree: Tree) -> list[Any]:
    return flatten(tree)[0]


def paths(tree: Tree) -> list[str]:
    """Bracket paths of the leaves."""
    return flatten(tree)[1].paths()


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Applies `function` to the tensors of a tree and leaves what else is in it."""
    found, structure = flatten(tree)
    return structure.unflatten(
        [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in found]
    )


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def wraps(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """`functools.wraps` for whatever can be called.

    What a partial or an object with `__call__` keeps in its `__dict__` is its own
    state, not the wrapper's; Dynamo moreover finds no `__dict__` in a partial.
    """
    is_plain = isinstance(function, types.FunctionType)
    updated = functools.WRAPPER_UPDATES if is_plain else ()
    return functools.wraps(function, updated=updated)


def kind_of(value: object) -> str:
    """A value in a few words, for an error."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor {tuple(value.shape)} of {dtype}"
    return f"{type(value).__name__} {value!r}"


def require_callable(where: str, function: object) -> None:
    if not callable(function):
        raise TypeError(
            f"{where}: fn: expected a function, got {kind_of(function)}. "
            f"Write {where}(fn)(x), not {where}(fn(x))."
        )


def is_differentiable(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def as_tensor(leaf: object) -> object:
    """A Python float as a 0-d tensor of the default dtype, all else as it is."""
    return torch.tensor(leaf) if isinstance(leaf, float) else leaf
