# SPDX-License-Identifier: Apache-2.0
"""Gradients of scalar functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab.transforms._engine import value_and_gradients
from functorch_lab.transforms._flat import kind_of, name_of, require_callable, wraps
from functorch_lab.transforms._select import Argnums, Selection, checked_argnums


def grad(
    fn: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient of a scalar function, as a function of the same arguments.

    Args:
        fn: a pure function that returns a 0-d floating-point tensor, or
            `(tensor, aux)` with `has_aux`.
        argnums: position, or positions, of the arguments to differentiate. Each is any
            tree of tensors; a Python float counts as a 0-d tensor.
        has_aux: `fn` returns a pair; `aux` is any tree and is not differentiated.

    Returns:
        A function that returns the gradient, of the argument's structure, shapes and
        dtypes, or `(gradient, aux)`. Integer and boolean leaves have the gradient `()`.
        The result carries no autograd graph; to differentiate again, nest: `grad` of a
        function that calls `grad`.

    Raises:
        TypeError: `fn` is no function or returns no tensor; the arguments hold nothing
            to differentiate.
        ValueError: `fn` returns a tensor that is not 0-d; `argnums` is out of range.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.grad(lambda p: p["a"] ** 2 + 3 * p["b"])({"a": 5.0, "b": 7.0})
        {'a': tensor(10.), 'b': tensor(3.)}

    Source: the semantics of `jax.grad`.
    """
    require_callable("grad", fn)
    numbers = checked_argnums("grad", argnums)

    @wraps(fn)
    def grad_fn(*args: Any, **kwargs: Any) -> Any:
        _, aux, gradients = _value_aux_grads("grad", fn, numbers, has_aux, args, kwargs)
        return (gradients, aux) if has_aux else gradients

    return grad_fn


def value_and_grad(
    fn: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """Value and gradient of a scalar function in one pass, the value first.

    Args:
        fn: as for `grad`.
        argnums: as for `grad`.
        has_aux: as for `grad`.

    Returns:
        A function that returns `(value, gradient)`, or `((value, aux), gradient)` with
        `has_aux`. Neither carries an autograd graph at the outermost level.

    Raises:
        TypeError: as for `grad`.
        ValueError: as for `grad`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.value_and_grad(lambda x: x**3)(torch.tensor(2.0))
        (tensor(8.), tensor(12.))

    Source: the semantics of `jax.value_and_grad`.
    """
    require_callable("value_and_grad", fn)
    numbers = checked_argnums("value_and_grad", argnums)

    @wraps(fn)
    def value_and_grad_fn(*args: Any, **kwargs: Any) -> Any:
        value, aux, gradients = _value_aux_grads(
            "value_and_grad", fn, numbers, has_aux, args, kwargs
        )
        return ((value, aux) if has_aux else value), gradients

    return value_and_grad_fn


def _value_aux_grads(
    where: str,
    fn: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, Any, Any]:
    selection = Selection(where, args, argnums)
    bound = selection.bind(fn, kwargs)

    def call(variables: list[Tensor]) -> tuple[Tensor, Any]:
        value, aux = split_aux(where, fn, bound(variables), has_aux)
        _check_scalar(where, fn, value)
        return value, aux

    value, aux, gradients = value_and_gradients(call, selection.primals)
    return value, aux, selection.tree(gradients)


def split_aux(
    where: str, fn: Callable[..., Any], result: Any, has_aux: bool
) -> tuple[Any, Any]:
    """`(value, aux)` of a function that was said to return aux or not."""
    if not has_aux:
        return result, ()
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], result[1]
    raise TypeError(
        f"{where}: {name_of(fn)}: expected a pair (value, aux) for has_aux=True, got "
        f"{kind_of(result)}. Return both, or leave has_aux out."
    )


def _check_scalar(where: str, fn: Callable[..., Any], value: object) -> None:
    if not isinstance(value, Tensor):
        hint = (
            "Pass has_aux=True for (value, aux)."
            if isinstance(value, tuple)
            else ("Return the loss as a tensor.")
        )
        raise TypeError(
            f"{where}: {name_of(fn)}: expected a 0-d tensor as result, got "
            f"{type(value).__name__}. {hint}"
        )
    if value.ndim != 0:
        raise ValueError(
            f"{where}: {name_of(fn)}: expected a 0-d tensor as result, got shape "
            f"{tuple(value.shape)}. Reduce it with .mean() or .sum(), or use jacrev."
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{where}: {name_of(fn)}: expected a real floating-point result, got "
            f"{kind_of(value)}. Return the loss in a floating-point dtype."
        )
