# SPDX-License-Identifier: Apache-2.0
"""Derivatives of one's own choice: those of another function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._autodiff import stop_gradient
from functorch_lab.transforms._carry import path_of, require_function
from functorch_lab.transforms._flat import (
    flatten,
    is_differentiable,
    kind_of,
    name_of,
    unflatten,
    wraps,
)


def surrogate_gradient(
    fn: Callable[..., Any], surrogate: Callable[..., Any]
) -> Callable[..., Any]:
    """A function with the values of `fn` and all derivatives of `surrogate`.

    For a step that has no useful derivative: rounding with the derivative of the
    identity (the straight-through estimator), a spike with that of a sigmoid. It is
    right under every transform, and second derivatives are the surrogate's too. A rule
    that is the derivative of no function, such as the clipping of what flows back,
    cannot be written so: clip the gradients instead, by `optim.clip_by_global_norm`.

    Args:
        fn: a pure function of trees of tensors. It is not differentiated.
        surrogate: a pure function of the same arguments; its results are as those of
            `fn` in structure, shapes and dtypes.

    Returns:
        A function of the same arguments. Both are computed at each call. Values are
        those of `fn` to the last bit. Where a value of the surrogate is infinite or
        NaN, its derivative counts as zero, and is NaN if it is infinite itself.

    Raises:
        TypeError: `fn` or `surrogate` is no function; a result holds what is no tensor.
        ValueError: the results differ in structure, shape or dtype.

    Example:
        >>> import torch, functorch_lab as fl
        >>> step = fl.surrogate_gradient(torch.round, lambda x: x)
        >>> fl.value_and_grad(lambda x: 3 * step(x))(torch.tensor(1.7))
        (tensor(6.), tensor(3.))

    Source: Y. Bengio, N. Leonard, A. Courville, Estimating or Propagating Gradients
    Through Stochastic Neurons for Conditional Computation, 2013, section 4,
    arXiv:1308.3432; E. O. Neftci, H. Mostafa, F. Zenke, Surrogate Gradient Learning in
    Spiking Neural Networks, 2019, arXiv:1901.09948.
    """
    require_function("surrogate_gradient", "fn", fn)
    require_function("surrogate_gradient", "surrogate", surrogate)

    @wraps(fn)
    def with_surrogate(*args: Any, **kwargs: Any) -> Any:
        held, held_kwargs = stop_gradient((args, kwargs))
        result = fn(*held, **held_kwargs)
        values, spec = flatten(result)
        others, other_spec = flatten(surrogate(*args, **kwargs))
        where = f"surrogate_gradient: {name_of(fn)}"
        if spec != other_spec:
            raise ValueError(
                f"{where}: expected results of one structure, got {spec} from fn and "
                f"{other_spec} from surrogate. {_REMEDY}"
            )
        for index, (value, other) in enumerate(zip(values, others, strict=True)):
            _check(where, result, index, value, other)
        return unflatten(spec, list(map(_joined, values, others)))

    return with_surrogate


_REMEDY = "Return from both the same structure, shapes and dtypes."


def _check(where: str, tree: Any, index: int, value: Any, other: Any) -> None:
    if value is None and other is None:
        return
    for leaf in (value, other):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{where}: expected tensors as results, got {kind_of(leaf)} at "
                f"{path_of(tree, index)}. Return tensors only."
            )
    a: Any = value
    b: Any = other
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        raise ValueError(
            f"{where}: expected one result from both, got {kind_of(value)} from fn and "
            f"{kind_of(other)} from surrogate at {path_of(tree, index)}. {_REMEDY}"
        )


def _joined(value: Any, other: Any) -> Any:
    """The first's value with the second's derivative."""
    if value is None:
        return None
    value = value.detach()
    if not is_differentiable(other):
        return value
    # Zero, positive zero, and minus it changes no number, not even -0.0.
    zero = torch.where(torch.isfinite(other), other.detach() - other, 0.0)
    return value - zero
