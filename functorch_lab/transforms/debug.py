# SPDX-License-Identifier: Apache-2.0
"""Looking into compiled functions: printing, non-finite values, needless traces."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms import _abstract, _operator
from functorch_lab.transforms._arguments import changes
from functorch_lab.transforms._flat import leaves, paths
from functorch_lab.transforms._jit import Jitted

__all__ = ["assert_max_traces", "nans", "print"]


def print(template: str, /, **values: Any) -> None:
    """Prints tensors when they are computed, also from a compiled function.

    Args:
        template: a format string with named fields: `"loss {loss}"`.
        **values: tensors or Python values, one for each field.

    Raises:
        RuntimeError: called inside vmap or a nested gradient of a jitted function,
            where values have no outside yet.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.debug.print("x is {x}", x=torch.tensor(2.5))
        x is 2.5

    Source: the semantics of `jax.debug.print`.
    """
    if _operator.is_looking():
        return
    if torch.compiler.is_dynamo_compiling():
        _compiled_print(template, **values)
        return
    if _abstract.is_running():
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "debug.print: expected a call outside vmap and nested gradients in a "
                f"jitted function, got one inside, at {_abstract.user_line()}. Return "
                "the value as aux, or run it under disable_jit()."
            )
        return
    shown = {name: _unwrapped(value) for name, value in values.items()}
    builtins.print(template.format(**shown))  # noqa: T201 - its purpose


def _compiled_print(template: str, **values: Any) -> None:
    from torch._higher_order_ops.print import print as print_op

    print_op(template, **values)


def _unwrapped(value: Any) -> Any:
    """The value behind functorch's wrappers: all samples of a vmap at once."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(value):
        value = functorch.get_unwrapped(value)
    return value.item() if value.ndim == 0 else value


def nans(tree: Any, name: str = "tree") -> Any:
    """Raises at the first leaf with a NaN or infinite entry, also inside `jit`.

    Args:
        tree: any tree of tensors.
        name: what to call it in the error.

    Returns:
        The tree, unchanged.

    Raises:
        FloatingPointError: in eager mode, naming the first such leaf by its path.
        RuntimeError: the same text, from a compiled function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.debug.nans({"w": torch.tensor([1.0, 2.0]) / 0}, "grads")
        Traceback (most recent call last):
        FloatingPointError: debug.nans: grads['w']: expected finite values, got NaN ...

    Source: in the manner of `jax.debug_nans`.
    """
    # A loop's first step is looked at even where the loop takes none.
    if _operator.is_looking():
        return tree
    for path, leaf in zip(paths(tree), leaves(tree), strict=True):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            _check_finite(f"{name}{path}", leaf)
    return tree


def _check_finite(label: str, leaf: Tensor) -> None:
    message = (
        f"debug.nans: {label}: expected finite values, got NaN or infinity. "
        "Look at what this leaf is computed from."
    )
    finite = torch.isfinite(leaf).all()
    if torch.compiler.is_dynamo_compiling():
        torch.ops.aten._assert_async.msg(finite, message)
    elif not _abstract.is_running() and not bool(_unwrapped(finite)):
        raise FloatingPointError(message)


def assert_max_traces(n: int) -> Callable[[Jitted], Jitted]:
    """Limits how often a jitted function may be traced.

    Args:
        n: the largest number of traces.

    Returns:
        A decorator for the result of `jit`. The call that would need one more trace
        raises an AssertionError that says which argument changed, from what to what.

    Raises:
        TypeError: what is decorated is not jitted.
        ValueError: `n` is negative.

    Example:
        >>> import torch, functorch_lab as fl
        >>> f = fl.debug.assert_max_traces(1)(fl.jit(lambda x: x + 1))
        >>> f(torch.tensor([1.0, 2.0]))
        tensor([2., 3.])
        >>> f(torch.tensor([1.0]))
        Traceback (most recent call last):
        AssertionError: debug.assert_max_traces: <lambda>: expected at most 1 traces...

    Source: in the manner of `chex.assert_max_traces`.
    """
    if not isinstance(n, int) or n < 0:
        raise ValueError(
            f"debug.assert_max_traces: n: expected an int of at least 0, got {n!r}. "
            "Write assert_max_traces(1)(jit(fn))."
        )

    def decorate(jitted: Jitted) -> Jitted:
        if not isinstance(jitted, Jitted):
            raise TypeError(
                "debug.assert_max_traces: expected the result of jit, got "
                f"{type(jitted).__name__}. Put it above @jit."
            )
        return jitted.limited(n)

    return decorate


def too_many_traces(
    name: str, limit: int, last: list[dict[str, str]], new: dict[str, str]
) -> AssertionError:
    """The error for one trace too many."""
    found = changes(last[0], new) if last else []
    what = "; ".join(found) or (
        "no argument changed, so a Python value that the function reads did "
        "(a global, a closure, an attribute)"
    )
    return AssertionError(
        f"debug.assert_max_traces: {name}: expected at most {limit} traces, got one "
        f"more: {what}. Keep shapes and structure fixed, and pass what changes as a "
        "tensor."
    )
