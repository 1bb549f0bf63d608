# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: pairs of pure functions, parameter trees, keys, and `typed`."""

from __future__ import annotations

import functools
import os
import types as _builtin_types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar, cast

import optree
import torch
from jaxtyping import Int
from torch import Tensor

__all__ = [
    "GradientTransformation",
    "Key",
    "Layer",
    "Params",
    "StatefulLayer",
    "set_checking",
    "typed",
]

P = ParamSpec("P")
R = TypeVar("R")

NAMESPACE = "functorch_lab"
"""optree's registry namespace of the library: what counts as a container."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A model, or a part of one: a pair of pure functions.

    Attributes:
        init: `params = init(key)`, made on the key's device in the default dtype.
            A layer without parameters returns `()`.
        apply: `y = apply(params, x, *, key=None, train=False)`. `x` has any leading
            axes; layers over space say their rank. `key` is needed only where
            randomness is drawn, `train` only where training differs from evaluation.

    A layer is not a tree node: close over it, do not pass it through a transform.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class StatefulLayer:
    """A layer with a state that changes in the forward pass (running statistics).

    Attributes:
        init: `params, state = init(key)`.
        apply: `y, state = apply(params, state, x, *, key=None, train=False)`; the
            state that went in is left as it was.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class GradientTransformation:
    """An optimizer, or a part of one: a pair of pure functions.

    Attributes:
        init: `state = init(params)`, a tree of tensors only.
        update: `updates, state = update(grads, state, params, **extra)`. Updates are
            *added* to the parameters, so they carry the minus sign of descent.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]


def _is_container(value: object) -> bool:
    return not optree.tree_is_leaf(value, none_is_leaf=True, namespace=NAMESPACE)


class _ParamsMeta(type):
    """Makes `isinstance(x, Params)`, and so beartype, look at every leaf."""

    def __instancecheck__(cls, value: object) -> bool:
        leaves = optree.tree_leaves(
            cast(Any, value), none_is_leaf=True, namespace=NAMESPACE
        )
        return all(isinstance(leaf, Tensor) for leaf in leaves)


class _ParamsRootMeta(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Tensor) or _is_container(value)


class _ParamsRoot(metaclass=_ParamsRootMeta):
    """What `typed` checks for `Params`: the root alone, in constant time."""


if TYPE_CHECKING:
    Params: TypeAlias = Any
else:

    class Params(metaclass=_ParamsMeta):
        """A tree whose leaves are all tensors: `isinstance(x, Params)` checks it."""


Key: TypeAlias = Int[Tensor, "2"]
"""A random key: an integer tensor of shape (2,), from `random.key`."""

_checking = os.environ.get("FUNCTORCH_LAB_TYPECHECK", "1") != "0"


def set_checking(on: bool) -> bool:
    """Turns the checks of `typed` functions on or off, and returns what it was.

    The environment variable `FUNCTORCH_LAB_TYPECHECK=0` turns them off from the start.
    """
    global _checking
    previous, _checking = _checking, on
    return previous


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Checks tensor arguments and results against their jaxtyping annotations.

    In eager mode, also inside `grad` and `vmap` (where it sees per-sample shapes), the
    function runs under jaxtyping and beartype. While `torch.compile` traces, it is a
    plain call. `Params` annotations are checked at the root alone.

    Raises:
        ValueError: a tensor of another shape or dtype than annotated.
        TypeError: an argument of another kind than annotated.
    """
    checked: Callable[..., Any] | None = None

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal checked
        if torch.compiler.is_compiling() or not _checking:
            return function(*args, **kwargs)
        if checked is None:
            checked = _checker(function)
        return checked(*args, **kwargs)

    # One code object per function: Dynamo counts recompiles by code object.
    wrapper = cast(_builtin_types.FunctionType, wrapper)
    wrapper.__code__ = wrapper.__code__.replace(co_name=function.__name__)
    return cast(Callable[P, R], wrapper)


def _checker(function: Callable[..., Any]) -> Callable[..., Any]:
    from beartype import beartype
    from jaxtyping import jaxtyped

    return jaxtyped(function, typechecker=beartype)
