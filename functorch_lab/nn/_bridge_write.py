# SPDX-License-Identifier: Apache-2.0
"""From trees back into a torch.nn.Module: its tensors, or the grads of its params."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from functorch_lab.nn import _bridge_names as names
from functorch_lab.nn._bridge import _check_module
from functorch_lab.nn._bridge_copy import changing_buffers


def load_into(module: nn.Module, params: Any, state: Any = ()) -> None:
    """Writes params, and a state if one is given, into a module, in place.

    The module keeps its tensors, so an optimizer that has them sees the new values,
    and it keeps their dtypes and devices. Tied weights are written once. Nothing is
    written unless everything fits.

    Args:
        module: that `params` are of, or one with the same names and shapes.
        params: as `from_module` returned them, or trained from these.
        state: likewise; `()` leaves all buffers.

    Raises:
        TypeError: `module` is no module, or a leaf is no tensor.
        ValueError: a name is missing or unknown, or a shape is another.

    Example:
        >>> import torch, functorch_lab as fl
        >>> module = torch.nn.Linear(2, 1)
        >>> params = {"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([5.0])}
        >>> fl.nn.load_into(module, params)
        >>> module(torch.tensor([7.0, 11.0])).item()
        52.0
    """
    _check_module("load_into", module)
    tensors = {n: module.get_parameter(n) for n in names.parameters(module)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    given = names.flatten("nn.load_into", "params", params, shapes)
    if not (isinstance(state, tuple) and not state):
        buffers = {n: module.get_buffer(n) for n in names.buffers(module)}
        wanted = changing_buffers(module) | names.leaf_names(state)
        shapes = {name: b.shape for name, b in buffers.items() if name in wanted}
        given |= names.flatten("nn.load_into", "state", state, shapes)
        tensors |= buffers
    with torch.no_grad():
        for name, value in given.items():
            tensors[name].copy_(value)


def set_grads(module: nn.Module, grads: Any) -> None:
    """Writes gradients into the `.grad` of a module's parameters, for `torch.optim`.

    They replace what is there. Where `grads` has `()`, as for a leaf that is not
    differentiated, `.grad` becomes `None`. A tied weight gets its one gradient.

    Args:
        module: whose parameters an optimizer of `torch.optim` has.
        grads: of the params that `from_module` returned, one for each; they are copied.

    Raises:
        TypeError: `module` is no module, a leaf is no tensor, or its dtype is not the
            parameter's.
        ValueError: a name is missing or unknown, or a shape is another.

    Example:
        >>> import torch, functorch_lab as fl
        >>> module = torch.nn.Linear(2, 1, bias=False)
        >>> layer, params, _ = fl.nn.from_module(module)
        >>> x = torch.tensor([2.0, 3.0])
        >>> grads = fl.grad(lambda p: layer.apply(p, x).sum())(params)
        >>> fl.nn.set_grads(module, grads)
        >>> module.weight.grad
        tensor([[2., 3.]])
    """
    _check_module("set_grads", module)
    parameters = {n: module.get_parameter(n) for n in names.parameters(module)}
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    given = names.flatten("nn.set_grads", "grads", grads, shapes, holes=True)
    for name, grad in given.items():
        if grad.dtype != parameters[name].dtype:
            raise TypeError(
                f"nn.set_grads: grads{names.bracketed(name)}: expected "
                f"{parameters[name].dtype}, as the parameter has, got {grad.dtype}. "
                "Convert with fl.tree.cast."
            )
    for name, parameter in parameters.items():
        grad = given.get(name)
        parameter.grad = (
            None if grad is None else grad.detach().to(parameter.device, copy=True)
        )
