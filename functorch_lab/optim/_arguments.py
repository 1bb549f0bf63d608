# SPDX-License-Identifier: Apache-2.0
"""Checks of what the public functions of this namespace receive."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.types import GradientTransformation

P = ParamSpec("P")
R = TypeVar("R")

_NAMES_HERE = {
    "learning_rate": "lr",
    "step_size": "lr",
    "alpha": "lr",
    "b1": "betas",
    "b2": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "epsilon": "eps",
    "decay": "momentum",
    "wd": "weight_decay",
    "max_grad_norm": "max_norm",
    "total_iters": "transition_steps",
    "end_factor": "end_value",
    "eta_min": "end_value",
    "T_max": "decay_steps",
    "base_lr": "init_value",
    "start": "init_value",
    "decay_rate": "gamma",
}


def named(where: str, **here: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Turns an unknown keyword into a TypeError that says what it is called here.

    Args:
        where: the function's address, for the error.
        **here: a name that means something else in this function than in the others.
    """
    names = {**_NAMES_HERE, **here}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    ours = names.get(name)
                    remedy = f"Write {ours}=" if ours in known else "Use one of these"
                    raise TypeError(
                        f"{where}: {name}: expected {', '.join(known)}, "
                        f"got {name}=. {remedy}."
                    )
            return function(*args, **kwargs)

        return wrapper

    return decorate


def check_transformation(where: str, value: object) -> None:
    if not isinstance(value, GradientTransformation):
        raise TypeError(
            f"{where}: transformations: expected a GradientTransformation, "
            f"got {type(value).__name__}. Call the algorithm: adam(), not adam."
        )


def is_hole(node: object) -> bool:
    return type(node) is tuple and not node


def trainable(where: str, params: Any) -> Any:
    """The floating leaves of `params`; integer and boolean leaves become holes."""

    def keep(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{where}: params: expected a tree of tensors, "
                f"got {type(leaf).__name__} at {path or 'the root'}. Pass tensors only."
            )
        if leaf.is_complex():
            raise TypeError(
                f"{where}: params: expected real tensors, got {leaf.dtype} at "
                f"{path or 'the root'}. Keep it as torch.view_as_real of it."
            )
        return leaf if leaf.is_floating_point() else ()

    return tree.map_with_path(keep, params)


def check_like(
    where: str,
    params: Any,
    got: Any,
    name: str = "grads",
    remedy: str = "Pass the gradients of the params that init received.",
) -> None:
    """Refuses a tree of another structure or shape; a hole may stand for a leaf."""
    # fl.jit runs the function on fake tensors before it compiles: it raises there.
    if torch.compiler.is_dynamo_compiling():
        return
    try:
        expected = tree.map(lambda p, g: () if is_hole(g) else p, params, got)
    except ValueError:
        expected = params
    tree.check_same_structure(
        expected,
        got,
        what=where,
        names=("params", name),
        remedy=remedy,
        check_dtype=False,
    )


def check_grads(where: str, grads: Any, params: Any = None) -> None:
    """Refuses None among the grads and, given params, grads that are not like them."""
    if torch.compiler.is_dynamo_compiling():
        return
    if params is not None:
        return check_like(where, trainable(where, params), grads)
    leaves, treedef = tree.flatten(grads, none_is_leaf=True)
    for position, leaf in enumerate(leaves):
        if leaf is None:
            paths = tree.paths(tree.unflatten(treedef, range(len(leaves))))
            raise ValueError(
                f"{where}: grads: expected tensors, got None at "
                f"{paths[position] or 'the root'}. Write a hole as (), the empty tuple."
            )
    return None


def check_state(where: str, kind: type, names: tuple[str, ...], state: Any) -> None:
    if isinstance(state, kind):
        got = (*getattr(state, "hyperparams", ()), *getattr(state, "scheduled", ()))
        if set(got) == set(names):
            return
        found = f"one with {', '.join(got) or 'none'}"
    else:
        found = type(state).__name__
    raise TypeError(
        f"{where}: state: expected a {kind.__name__} with hyperparameters "
        f"{', '.join(names) or 'none'}, got {found}. "
        "Pass the state that this optimizer's init or update returned."
    )


def need_params(where: str, params: Any) -> Any:
    if params is None:
        raise ValueError(
            f"{where}: params: expected the parameters, for weight decay, got None. "
            "Call update(grads, state, params)."
        )
    return trainable(where, params)


def widened(leaf: Tensor) -> Tensor:
    """In the precision of states and updates: at least float32."""
    return leaf.to(torch.promote_types(leaf.dtype, torch.float32))


def like_state(state_leaf: Tensor, grad: Any) -> Any:
    """A gradient in the precision of its state; holes stay holes."""
    return () if is_hole(grad) else grad.to(state_leaf.dtype)


def zeros_like(leaf: Tensor) -> Tensor:
    """Zeros of a leaf's shape in the precision of states."""
    return torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))
