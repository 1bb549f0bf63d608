# SPDX-License-Identifier: Apache-2.0
"""Layers and optimizers as pairs of functions, parameter trees, keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import optree
from jaxtyping import Int
from torch import Tensor

NAMESPACE = "functorch_lab"
"""The optree registry in which the library's containers are found."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A model, or a part of one: a pair of pure functions.

    A layer is not a tree node: a loss closes over it, and passes its params on.

    Attributes:
        init: `params = init(key)`, on the key's device, in the default dtype. A layer
            without parameters returns `()`.
        apply: `y = apply(params, x, *, key=None, train=False)`. `x` has any leading
            axes; layers over space say their rank. `key` is needed only where random
            numbers are drawn, `train` only where training differs from evaluation.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class StatefulLayer:
    """A layer whose forward pass changes a state, such as running statistics.

    Attributes:
        init: `params, state = init(key)`.
        apply: `y, state = apply(params, state, x, *, key=None, train=False)`. The
            state that went in stays as it was.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class GradientTransformation:
    """An optimizer, or a part of one: a pair of pure functions.

    Attributes:
        init: `state = init(params)`, a tree of tensors only.
        update: `updates, state = update(grads, state, params, **extra)`. Updates are
            *added* to the params, so the minus sign of descent is in them.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]


def is_tree_root(value: Any) -> bool:
    """Whether a value is a tensor or a container: a look at the root alone."""
    if isinstance(value, Tensor):
        return True
    return not optree.tree_is_leaf(value, none_is_leaf=True, namespace=NAMESPACE)


class _TreeOfTensors(type):
    """Makes `isinstance(x, Params)`, and with it beartype, look at every leaf."""

    def __instancecheck__(cls, value: Any) -> bool:
        leaves = optree.tree_leaves(value, none_is_leaf=True, namespace=NAMESPACE)
        return all(isinstance(leaf, Tensor) for leaf in leaves)


if TYPE_CHECKING:
    Params: TypeAlias = Any
else:

    class Params(metaclass=_TreeOfTensors):
        """A tree whose leaves are all tensors.

        `isinstance(x, Params)` and beartype check every leaf, `typed` the root alone.

        Example:
            >>> import torch
            >>> from functorch_lab.types import Params
            >>> isinstance({"w": torch.ones(2)}, Params), isinstance([3.0], Params)
            (True, False)
        """


Key: TypeAlias = Int[Tensor, "2"]
"""A random key: an integer tensor of shape (2,), from `random.key`."""
