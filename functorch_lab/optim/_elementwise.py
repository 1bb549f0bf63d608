# SPDX-License-Identifier: Apache-2.0
"""Which transformations do the same to one joined buffer as to its leaves."""

from collections.abc import Callable
from typing import Any, TypeVar

from functorch_lab.types import GradientTransformation

F = TypeVar("F", bound=Callable[..., Any])


def elementwise(update: F) -> F:
    """Marks an update function as elementwise: it may run on joined leaves.

    An update is elementwise if an element of the result depends on the same element of
    the gradient, the state and the parameter, and on sums over *all* elements. What
    looks at one leaf at a time (its norm, its shape, its path) is not. `fused` accepts
    a transformation whose update is marked, `chain` is marked if all members are.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> @fl.optim.elementwise
        ... def update(grads, state, params=None, **extra):
        ...     return fl.tree.map(torch.sign, grads), state
        >>> sign = fl.types.GradientTransformation(lambda params: (), update)
        >>> fl.optim.is_elementwise(sign)
        True
    """
    update.elementwise = True  # pyright: ignore[reportFunctionMemberAccess]
    return update


def is_elementwise(transformation: GradientTransformation) -> bool:
    """Whether `fused` accepts this transformation."""
    return getattr(transformation.update, "elementwise", False)
