# SPDX-License-Identifier: Apache-2.0
"""The two gradient engines, and which of them a call gets.

At the outermost level a gradient is `torch.autograd.grad` on detached leaves: it is
faster, and inside a compiled region it keeps the backward of a user's
`torch.autograd.Function`, which Dynamo drops under `torch.func`. Inside another
transform it is `torch.func`, which nests. Measured in docs/architecture.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms import _abstract
from functorch_lab.transforms._flat import flatten, map_tensors, unflatten

# `call(variables)` is the user's function of the differentiated leaves: (value, aux).
Call = Callable[[list[Tensor]], tuple[Tensor, Any]]
_TENSOR = object()  # stands for a tensor among leaves that are anything else


class _Level(threading.local):
    # In each thread set before Dynamo looks: it guards on what is there.
    def __init__(self) -> None:
        self.depth = 0
        self.in_operator = False
        self.forward = 0


class _Dynamo:
    takes_autograd = (
        True  # torch before `trace_autograd_ops` cannot trace the outer one
    )


_level = _Level()
_dynamo = _Dynamo()


def note_dynamo() -> None:
    """Looks once, before the first trace, which engines Dynamo can trace."""
    from torch._dynamo import config

    _dynamo.takes_autograd = hasattr(config, "trace_autograd_ops")


def is_outermost() -> bool:
    """Whether no other differentiation or vmap is under way around this one."""
    if _level.depth or _level.in_operator:
        return False
    return not torch._C._are_functorch_transforms_active()


def in_operator(call: Callable[[], Any]) -> Any:
    """The result of `call()`, in which `torch.func` takes every gradient.

    Within torch's control-flow operators the outer engine cannot be traced.
    """
    if _level.in_operator:  # Dynamo allows a step no assignment, even one taken back
        return call()
    _level.in_operator = True
    try:
        return call()
    finally:
        _level.in_operator = False


def is_traced() -> bool:
    """Whether `jit` is looking at this call."""
    return torch.compiler.is_dynamo_compiling() or _abstract.is_running()


def inside_forward() -> bool:
    """Whether a traced jvp is being taken around this call."""
    return _level.forward > 0


def in_forward(call: Callable[[], Any]) -> Any:
    """The result of `call()`, which takes a jvp."""
    if not is_traced():
        return call()
    _level.forward += 1
    try:
        return call()
    finally:
        _level.forward -= 1


def inside_gradient() -> bool:
    """Whether an outermost gradient is being taken around this call."""
    return _level.depth > 0


def entered(leaves: list[Tensor]) -> list[Tensor]:
    """Inputs without a graph where nothing around this call differentiates them."""
    return [leaf.detach() for leaf in leaves] if is_outermost() else leaves


def value_and_gradients(
    call: Call, primals: list[Tensor], *, materialize: bool = True
) -> tuple[Tensor, Any, list[Any]]:
    """`(value, aux, gradients)` of `call`, by the engine that fits here.

    Without `materialize` an input that the value does not depend on may have the
    gradient None, in place of zeros.

    Raises:
        RuntimeError: what `call` or its derivative raises.
    """
    if not is_outermost():
        return _inner(call, primals)
    if is_traced():
        if _dynamo.takes_autograd:
            return _outer(call, primals, materialize)
        return _inner(call, entered(primals))
    # Autograd records nothing in inference mode and refuses tensors that were made in
    # it, as parameters or as data; torch.func takes both.
    if torch.is_inference_mode_enabled():
        return _inner(call, entered(primals))
    try:
        return _outer(call, primals, materialize)
    except RuntimeError as error:
        if "inference tensor" not in str(error).lower():
            raise
    return _inner(call, entered(primals))


def _outer(
    call: Call, primals: list[Tensor], materialize: bool
) -> tuple[Tensor, Any, list[Any]]:
    variables = [leaf.detach().requires_grad_() for leaf in primals]
    _level.depth += 1
    try:
        with torch.enable_grad():
            value, aux = call(variables)
            if value.requires_grad and variables:
                gradients = list(
                    torch.autograd.grad(
                        value,
                        variables,
                        allow_unused=True,
                        materialize_grads=materialize,
                    )
                )
            elif materialize:
                gradients = [torch.zeros_like(leaf) for leaf in primals]
            else:
                gradients = [None for _ in primals]
    finally:
        _level.depth -= 1
    return value.detach(), map_tensors(torch.Tensor.detach, aux), gradients


def _inner(call: Call, primals: list[Tensor]) -> tuple[Tensor, Any, list[Tensor]]:
    aux_spec: Any = None
    constants: list[Any] = []

    # torch.func flattens by its own rules and takes tensors only, so aux crosses its
    # boundary as a list of tensors.
    def flat_call(variables: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        nonlocal aux_spec, constants
        value, aux = call(variables)
        aux_leaves, aux_spec = flatten(aux)
        constants = [_TENSOR if isinstance(x, Tensor) else x for x in aux_leaves]
        return value, [x for x in aux_leaves if isinstance(x, Tensor)]

    gradients, (value, tensors) = torch.func.grad_and_value(flat_call, has_aux=True)(
        primals
    )
    rest = iter(tensors)
    merged = [next(rest) if constant is _TENSOR else constant for constant in constants]
    return value, unflatten(aux_spec, merged), list(gradients)
