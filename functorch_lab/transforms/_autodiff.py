# SPDX-License-Identifier: Apache-2.0
"""Products with Jacobians, whole Jacobians, and second derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._engine import (
    entered,
    in_forward,
    inside_forward,
    is_traced,
)
from functorch_lab.transforms._flat import (
    flatten,
    is_differentiable,
    kind_of,
    map_tensors,
    name_of,
    paths,
    require_callable,
    unflatten,
    wraps,
)
from functorch_lab.transforms._grad import grad, split_aux
from functorch_lab.transforms._select import Argnums, Selection, checked_argnums


def stop_gradient(tree: Any) -> Any:
    """The same values, through which no derivative flows.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.grad(lambda x: x * fl.stop_gradient(x))(torch.tensor(5.0))
        tensor(5.)
    """
    return map_tensors(Tensor.detach, tree)


def jvp(
    fn: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Value and directional derivative, in one forward pass.

    Args:
        fn: a pure function of `*primals`; any tree of tensors as result.
        primals: the point, one tree for each argument.
        tangents: the direction: trees of the structure and shapes of the primals, `()`
            for integer leaves.
        has_aux: `fn` returns `(value, aux)`.

    Returns:
        `(value, tangent)`, or `(value, tangent, aux)`.

    Raises:
        TypeError: `primals` or `tangents` is not a tuple or list.
        ValueError: they differ in structure or shape.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.jvp(lambda x: x**2, (torch.tensor(3.0),), (torch.tensor(0.5),))
        (tensor(9.), tensor(3.))

    Source: the semantics of `jax.jvp`.
    """
    require_callable("jvp", fn)
    selection = _all_of("jvp", "primals", primals)
    directions = _matching("jvp", "tangents", tangents, primals, selection)
    flat = _FlatFunction("jvp", fn, selection.bind(fn, {}), has_aux)
    point = entered(selection.primals)
    if inside_forward():
        value, tangent, *aux = _jvp_by_reverse(flat, point, directions)
    else:
        value, tangent, *aux = in_forward(
            lambda: torch.func.jvp(flat, (point,), (directions,), has_aux=True)
        )
    results = flat.tree(value), flat.tree(tangent)
    return (*results, flat.aux(*aux)) if has_aux else results


def vjp(
    fn: Callable[..., Any], *primals: Any, has_aux: bool = False
) -> tuple[Any, ...]:
    """Value, and the function that multiplies a cotangent with the Jacobian.

    Args:
        fn: a pure function of `*primals`; any tree of floating tensors as result.
        *primals: the point.
        has_aux: `fn` returns `(value, aux)`.

    Returns:
        `(value, vjp_fn)`, or `(value, vjp_fn, aux)`. `vjp_fn(cotangent)`, with a
        cotangent like the value, returns a tuple with one tree for each primal.

    Raises:
        ValueError: the cotangent differs from the value in structure or shape.

    Example:
        >>> import torch, functorch_lab as fl
        >>> value, vjp_fn = fl.vjp(lambda x: x**2, torch.tensor([3.0, 5.0]))
        >>> vjp_fn(torch.tensor([1.0, 10.0]))
        (tensor([  6., 100.]),)

    Source: the semantics of `jax.vjp`.
    """
    require_callable("vjp", fn)
    selection = _all_of("vjp", "primals", primals)
    flat = _FlatFunction("vjp", fn, selection.bind(fn, {}), has_aux)
    value, pullback, *aux = torch.func.vjp(
        flat, entered(selection.primals), has_aux=True
    )
    result = flat.tree(value)

    def vjp_fn(cotangent: Any) -> tuple[Any, ...]:
        given = _like("vjp", "cotangent", "value", cotangent, result)
        (gradients,) = pullback(given)
        return selection.tree(gradients)

    return (result, vjp_fn, flat.aux(*aux)) if has_aux else (result, vjp_fn)


def jacrev(
    fn: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian, one row after another: for few outputs and many inputs.

    Args:
        fn: a pure function; any tree of floating tensors as result.
        argnums: position, or positions, of the arguments to differentiate.
        has_aux: `fn` returns `(value, aux)`.
        chunk_size: how many rows are computed at once; all, if None.

    Returns:
        A function that returns, at each leaf of the result, a tree like the argument
        with leaves of shape `(*result.shape, *argument.shape)`; with `has_aux`,
        `(jacobian, aux)`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.jacrev(lambda x: x**2)(torch.tensor([2.0, 3.0]))
        tensor([[4., 0.],
                [0., 6.]])

    Source: the semantics of `jax.jacrev`.
    """
    transform = functools.partial(torch.func.jacrev, chunk_size=chunk_size)
    return _jacobian("jacrev", transform, fn, argnums, has_aux)


def jacfwd(
    fn: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """The Jacobian, one column after another: for many outputs and few inputs.

    Args:
        fn: a pure function; any tree of floating tensors as result.
        argnums: position, or positions, of the arguments to differentiate.
        has_aux: `fn` returns `(value, aux)`.

    Returns:
        As `jacrev`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.jacfwd(lambda x: torch.stack([x, x**2, x**3]))(torch.tensor(2.0))
        tensor([ 1.,  4., 12.])

    Source: the semantics of `jax.jacfwd`.
    """
    return _jacobian("jacfwd", _jacfwd, fn, argnums, has_aux)


def hessian(fn: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """All second derivatives of a scalar function, forward over reverse mode.

    Under `jit`, inside another transform, it is reverse over reverse mode.

    Args:
        fn: a pure function that returns a 0-d tensor.
        argnums: position, or positions, of the arguments to differentiate.

    Returns:
        A function that returns a tree of trees like the argument. Leaf `[i][j]` has
        the shape `(*leaf_i.shape, *leaf_j.shape)`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.hessian(lambda x: x[0] ** 2 * x[1])(torch.tensor([3.0, 5.0]))
        tensor([[10.,  6.],
                [ 6.,  0.]])

    Source: the semantics of `jax.hessian`.
    """
    first = jacrev(fn, argnums)
    forward, reverse = jacfwd(first, argnums), jacrev(first, argnums)

    @wraps(fn)
    def hessian_fn(*args: Any, **kwargs: Any) -> Any:
        # Dynamo cannot trace forward over reverse mode in another transform.
        nested = is_traced() and torch._C._are_functorch_transforms_active()
        return (reverse if nested else forward)(*args, **kwargs)

    return hessian_fn


def hvp(fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of a scalar function times a direction, without the Hessian.

    Args:
        fn: a pure function that returns a 0-d tensor.
        primals: its arguments. The first is differentiated, the others are held.
        tangents: a tuple of one direction, like the first argument.

    Returns:
        A tree like the first argument. It costs about two gradients.

    Raises:
        ValueError: the direction differs from the first argument.

    Example:
        >>> import torch, functorch_lab as fl
        >>> x, v = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 0.0])
        >>> fl.hvp(lambda x: x[0] ** 2 * x[1], (x,), (v,))
        tensor([10.,  6.])

    Source: B. A. Pearlmutter, Fast Exact Multiplication by the Hessian, 1994, eq. 4.
    """
    require_callable("hvp", fn)
    if len(tangents) != 1 or not primals:
        raise ValueError(
            "hvp: tangents: expected a tuple of one direction for the first primal, "
            f"got {len(tangents)} directions for {len(primals)} primals. "
            "Write hvp(fn, (params, *rest), (direction,))."
        )
    first, *rest = primals
    gradient = grad(lambda point: fn(point, *rest))
    return jvp(gradient, (first,), tuple(tangents))[1]


def _jacfwd(fn: Callable[..., Any], *, has_aux: bool) -> Callable[..., Any]:
    """Dynamo cannot trace forward mode in a jvp, in which it is reverse mode."""
    transform = torch.func.jacrev if inside_forward() else torch.func.jacfwd
    return transform(fn, has_aux=has_aux)


def _jvp_by_reverse(
    flat: _FlatFunction, primals: list[Tensor], directions: list[Tensor]
) -> tuple[Any, ...]:
    """`torch.func.jvp` in reverse mode: the product with the transpose, transposed."""
    value, _, *aux = torch.func.vjp(flat, primals, has_aux=True)

    def transposed(cotangents: list[Tensor]) -> Any:
        _, pullback, *_ = torch.func.vjp(flat, primals, has_aux=True)
        return pullback(cotangents)[0]

    _, push, *_ = torch.func.vjp(transposed, [torch.zeros_like(x) for x in value])
    return value, push(directions)[0], *aux


class _FlatFunction:
    """A function from a list of tensors to a list of tensors, and the way back."""

    def __init__(
        self, where: str, fn: Callable[..., Any], call: Callable[..., Any], aux: bool
    ) -> None:
        self.where, self.fn, self.call, self.has_aux = where, fn, call, aux
        self.__name__ = name_of(fn)
        self.spec: Any = None
        self.aux_spec: Any = None

    def __call__(self, variables: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        result = self.call(variables)
        value, aux = split_aux(self.where, self.fn, result, self.has_aux)
        found, self.spec = flatten(value)
        for leaf in found:
            if not is_differentiable(leaf):
                raise TypeError(
                    f"{self.where}: {self.__name__}: expected floating-point tensors "
                    f"as result, got {kind_of(leaf)}. Return what is not "
                    "differentiated as aux, with has_aux=True."
                )
        extra, self.aux_spec = flatten(aux)
        return found, extra

    def tree(self, values: Sequence[Any]) -> Any:
        return unflatten(self.spec, list(values))

    def aux(self, values: Sequence[Any]) -> Any:
        return unflatten(self.aux_spec, list(values))


def _jacobian(
    where: str,
    transform: Callable[..., Any],
    fn: Callable[..., Any],
    argnums: Argnums,
    has_aux: bool,
) -> Callable[..., Any]:
    require_callable(where, fn)
    numbers = checked_argnums(where, argnums)

    @wraps(fn)
    def jacobian_fn(*args: Any, **kwargs: Any) -> Any:
        selection = Selection(where, args, numbers)
        flat = _FlatFunction(where, fn, selection.bind(fn, kwargs), has_aux)
        rows, aux = transform(flat, has_aux=True)(entered(selection.primals))
        jacobian = flat.tree([selection.tree(row) for row in rows])
        return (jacobian, flat.aux(aux)) if has_aux else jacobian

    return jacobian_fn


def _all_of(where: str, name: str, primals: object) -> Selection:
    if not isinstance(primals, tuple | list):
        raise TypeError(
            f"{where}: {name}: expected a tuple with one entry for each argument, got "
            f"{kind_of(primals)}. Write ({name[:-1]},) for one."
        )
    return Selection(where, tuple(primals), tuple(range(len(primals))))


def _matching(
    where: str, name: str, given: object, primals: Sequence[Any], at: Selection
) -> list[Tensor]:
    """The tangents of the chosen leaves, checked against them."""
    if not isinstance(given, tuple | list) or len(given) != len(primals):
        raise ValueError(
            f"{where}: {name}: expected a tuple of {len(primals)}, one for each primal,"
            f" got {kind_of(given)}. Write ({name[:-1]},) for one."
        )
    holes = at.tree(at.primals)
    return _like(where, name, "primals", tuple(given), holes)


def _like(where: str, name: str, other: str, given: Any, like: Any) -> list[Any]:
    expected, spec = flatten(like)
    found, got = flatten(given)
    remedy = f"Pass {name} of the structure and shapes of the {other}."
    if got != spec:
        raise ValueError(
            f"{where}: {name}: expected the structure {spec}, got {got}. {remedy}"
        )
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not isinstance(b, Tensor) or a.shape != b.shape:
            path = paths(like)[index] or "the root"
            raise ValueError(
                f"{where}: {name}: expected shape {tuple(a.shape)} at {path}, got "
                f"{kind_of(b)}. {remedy}"
            )
    return found
