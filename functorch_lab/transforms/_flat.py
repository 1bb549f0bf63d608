# SPDX-License-Identifier: Apache-2.0
"""Arguments and results as flat lists, for every transform.

Here, unlike in `tree`, `None` is an empty node: an argument may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from optree import PyTreeSpec
from torch import Tensor

from functorch_lab.types import NAMESPACE

Tree = Any


def flatten(tree: Tree) -> tuple[list[Any], PyTreeSpec]:
    return optree.tree_flatten(tree, namespace=NAMESPACE)


def unflatten(spec: PyTreeSpec, leaves: Sequence[Any]) -> Tree:
    return optree.tree_unflatten(spec, leaves)


def leaves(tree: Tree) -> list[Any]:
    return optree.tree_leaves(tree, namespace=NAMESPACE)


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Applies `function` to the tensors of a tree and leaves what else is in it."""
    return optree.tree_map(
        lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf,
        tree,
        namespace=NAMESPACE,
    )


def paths(tree: Tree) -> list[str]:
    """Bracket paths of the leaves."""
    _, spec = flatten(tree)
    return [accessor.codify("") for accessor in spec.accessors()]


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


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
