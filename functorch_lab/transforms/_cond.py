# SPDX-License-Identifier: Apache-2.0
"""One of two functions, chosen by a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._carry import NUMBERS, path_of, require_function
from functorch_lab.transforms._flat import (
    flatten,
    kind_of,
    map_tensors,
    name_of,
    unflatten,
)
from functorch_lab.transforms._values import chosen, known_values


def cond(
    pred: Tensor | float,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    *operands: Any,
) -> Any:
    """`true_fn(*operands)` where `pred` is true, `false_fn(*operands)` otherwise.

    Where `pred` has one known value (eagerly, and there also under `grad` and `jvp`)
    only the chosen function is called. Under `vmap`, where it differs between samples,
    and under `jit` both are computed, and `torch.where` chooses: neither may raise or
    loop forever on operands that are not its own. What the other function computes, a
    NaN or an infinite slope included, reaches neither the result nor the derivatives
    with respect to `operands`. It would reach those of tensors that the functions close
    over: pass as operands what is differentiated.

    Args:
        pred: a 0-d tensor or a number; as in JAX, a number other than zero is true.
        true_fn: a pure function of the operands.
        false_fn: another, with results of the same structure, shapes and dtypes.
        *operands: trees of tensors, to both functions the same.

    Returns:
        The result of the chosen function, a tree of tensors.

    Raises:
        TypeError: `true_fn` or `false_fn` is no function; `pred` is no number; a
            result holds what is no tensor.
        ValueError: `pred` is not 0-d; where both functions are computed, their results
            differ in structure, shape or dtype.

    Example:
        >>> import torch, functorch_lab as fl
        >>> root = lambda x: fl.cond(x > 0, torch.sqrt, torch.zeros_like, x)
        >>> fl.vmap(fl.grad(root))(torch.tensor([4.0, -4.0]))
        tensor([0.2500, 0.0000])

    Source: the semantics of `jax.lax.cond`.
    """
    require_function("cond", "true_fn", true_fn)
    require_function("cond", "false_fn", false_fn)
    which = _predicate(pred)
    if not isinstance(which, bool):
        values = known_values(which)
        if values is None or not (values.all() or not values.any()):
            return _both(which, true_fn, false_fn, operands)
        which = bool(values.all())
    branch, name = (true_fn, "true_fn") if which else (false_fn, "false_fn")
    found, spec = flatten(branch(*operands))
    return unflatten(spec, _tensors(name, branch, found, spec))


def _both(
    which: Tensor,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: tuple[Any, ...],
) -> Any:
    # The same values, but with a derivative for the chosen function alone: that of the
    # other is stopped before it can multiply an infinite slope with zero.
    first = map_tensors(lambda x: torch.where(which, x, x.detach()), operands)
    second = map_tensors(lambda x: torch.where(which, x.detach(), x), operands)
    these, spec = flatten(true_fn(*first))
    others, other_spec = flatten(false_fn(*second))
    names = f"{name_of(true_fn)} and {name_of(false_fn)}"
    remedy = "Return the same structure, shapes and dtypes from both."
    if spec != other_spec:
        raise ValueError(
            f"cond: {names}: expected results of one structure, got {spec} and "
            f"{other_spec}. {remedy}"
        )
    these = _tensors("true_fn", true_fn, these, spec)
    others = _tensors("false_fn", false_fn, others, spec)
    for index, (a, b) in enumerate(zip(these, others, strict=True)):
        if a is None and b is None:
            continue
        if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
            path = path_of(unflatten(spec, these), index)
            raise ValueError(
                f"cond: {names}: expected results of one shape and dtype, got "
                f"{kind_of(a)} and {kind_of(b)} at {path}. {remedy}"
            )
    return unflatten(spec, chosen(which, these, others))


def _tensors(
    name: str, fn: Callable[..., Any], found: list[Any], spec: Any
) -> list[Tensor | None]:
    for index, leaf in enumerate(found):
        if leaf is not None and not isinstance(leaf, (Tensor, *NUMBERS)):
            raise TypeError(
                f"cond: {name}: {name_of(fn)}: expected tensors as result, got "
                f"{kind_of(leaf)} at {path_of(unflatten(spec, found), index)}. Return "
                "tensors only."
            )
    return [torch.tensor(x) if isinstance(x, NUMBERS) else x for x in found]


def _predicate(pred: Any) -> Tensor | bool:
    if isinstance(pred, NUMBERS) and not isinstance(pred, complex):
        return bool(pred)
    if not isinstance(pred, Tensor) or pred.dtype.is_complex:
        raise TypeError(
            f"cond: pred: expected a bool or a 0-d tensor, got {kind_of(pred)}. Pass a "
            "comparison, such as x > 0."
        )
    if pred.ndim:
        raise ValueError(
            f"cond: pred: expected a 0-d tensor, got {kind_of(pred)}. Reduce it with "
            ".any() or .all(), map cond with vmap, or use torch.where."
        )
    return pred if pred.dtype == torch.bool else pred != 0
