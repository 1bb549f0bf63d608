# SPDX-License-Identifier: Apache-2.0
"""What recurrent layers ask of their configuration, input, state and lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.nn._recurrent_rules import RNN, Cell, Rule, State


def sizes(function: str, cell: Cell) -> None:
    """Sizes of at least 1, and a projection that makes the output smaller.

    Raises:
        TypeError: one is no integer.
        ValueError: one is too small, or the projection too large.
    """
    _checks.size(function, "input_size", cell.input_size)
    _checks.size(function, "hidden_size", cell.hidden_size)
    _checks.size(function, "proj_size", cell.proj_size, 0)
    if cell.proj_size >= cell.hidden_size:
        raise ValueError(
            f"nn.{function}: proj_size: expected below hidden_size={cell.hidden_size}, "
            f"got {cell.proj_size}. Choose a smaller one, or leave it out."
        )


def nonlinearity(function: str, name: object) -> Rule:
    """The rule of that nonlinearity.

    Raises:
        ValueError: it is none of the two.
    """
    if not isinstance(name, str) or name not in RNN:
        raise ValueError(
            f"nn.{function}: nonlinearity: expected 'tanh' or 'relu', got {name!r}. "
            "Choose one of the two."
        )
    return RNN[name]


def between_layers(function: str, dropout: object, num_layers: int) -> float:
    """The share that is dropped between layers.

    Raises:
        TypeError: `num_layers` is no integer, or `dropout` no number.
        ValueError: `num_layers` is below 1, `dropout` outside [0, 1], or there is
            nothing between which it could be.
    """
    _checks.size(function, "num_layers", num_layers)
    share = _checks.probability(function, "dropout", dropout)
    if share and num_layers == 1:
        raise ValueError(
            f"nn.{function}: dropout: expected 0 with num_layers=1, as it is between "
            f"layers, got {dropout}. Put nn.dropout after the layer."
        )
    return share


def features(function: str, x: Tensor, cell: Cell, params: Any, *, timed: bool) -> None:
    """`x` is of the params' kind, with its features last, and time before them.

    Raises:
        TypeError: it is not floating-point, or of another dtype or device.
        ValueError: its shape is another, or it has no time steps.
    """
    _checks.floating(function, x)
    if x.ndim < 1 + timed or x.shape[-1] != cell.input_size:
        axes, order = ("..., T", ", with time before it") if timed else ("...", "")
        raise ValueError(
            f"nn.{function}: x: expected shape ({axes}, {cell.input_size}), got "
            f"{tuple(x.shape)}. Make the layer for the input's last axis{order}."
        )
    if timed and x.shape[-2] == 0:
        raise ValueError(
            f"nn.{function}: x: expected at least 1 time step, got shape "
            f"{tuple(x.shape)}. Pad such a sequence, and pass lengths."
        )
    _checks.same_kind(function, x, params["weight_ih"])


def state(
    function: str, name: str, given: Any, cell: Cell, axes: tuple[int, ...], x: Tensor
) -> State | None:
    """The tensors of a given state, with `axes` before their size; None if none is.

    Raises:
        TypeError: it is not a tensor, of an LSTM a pair of them, of `x`'s kind.
        ValueError: a shape is another.
    """
    if given is None:
        return None
    pair = len(cell.state_sizes) > 1
    if pair and (not isinstance(given, tuple | list) or len(given) != 2):
        many = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise TypeError(
            f"nn.{function}: {name}: expected a pair (h, c), got "
            f"{type(given).__name__}{many}. {_STATE}"
        )
    tensors: tuple[Any, ...] = tuple(given) if pair else (given,)
    for index, (tensor, size) in enumerate(zip(tensors, cell.state_sizes, strict=True)):
        where = f"nn.{function}: {name}" + (f"[{index}]" if pair else "")
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise TypeError(f"{where}: expected a tensor, got {kind}. {_STATE}")
        if tensor.shape != (*axes, size):
            raise ValueError(
                f"{where}: expected shape {(*axes, size)}, got {tuple(tensor.shape)}. "
                f"{_STATE}"
            )
        autocast = torch.is_autocast_enabled(x.device.type)
        if tensor.device != x.device or (tensor.dtype != x.dtype and not autocast):
            raise TypeError(
                f"{where}: expected {x.dtype} on {x.device}, as x is, got "
                f"{tensor.dtype} on {tensor.device}. Convert it with .to(x)."
            )
    return tensors


_STATE = "Pass the state that this layer returned for such an input, or None for zeros."


def lengths(function: str, given: Any, x: Tensor) -> None:
    """One integer for each sequence of `x`, or None.

    Raises:
        TypeError: it is no tensor, of no integer dtype, or on another device.
        ValueError: its shape is not that of the leading axes.
    """
    if given is None:
        return
    where = f"nn.{function}: lengths"
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{where}: expected a tensor of integers, got {type(given).__name__}. "
            "Convert it with torch.as_tensor(lengths, device=x.device)."
        )
    kind = given.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise TypeError(
            f"{where}: expected a tensor of integers, got {kind}. Of a mask, pass "
            "mask.sum(-1)."
        )
    if given.shape != x.shape[:-2]:
        raise ValueError(
            f"{where}: expected shape {tuple(x.shape[:-2])}, the leading axes of x, "
            f"got {tuple(given.shape)}. Pass the length of each sequence."
        )
    if given.device != x.device:
        raise TypeError(
            f"{where}: expected device {x.device}, as x has, got {given.device}. Move "
            "it with .to(x.device)."
        )


def stack(function: str, given: Any, layers: tuple[dict[str, Cell], ...]) -> Any:
    """Params of the form `params[layer][direction][name]`; returns the first cell's.

    Raises:
        ValueError: the structure or a shape is another.
    """
    remedy = "Pass the params that this layer's init made."
    if not isinstance(given, tuple | list) or len(given) != len(layers):
        kind = type(given).__name__
        got = f"{kind} of {len(given)}" if isinstance(given, tuple | list) else kind
        raise ValueError(
            f"nn.{function}: params: expected a tuple of {len(layers)}, one for each "
            f"layer, got {got}. {remedy}"
        )
    for number, (layer, each) in enumerate(zip(layers, given, strict=True)):
        if not isinstance(each, dict) or set(each) != set(layer):
            got = sorted(each) if isinstance(each, dict) else type(each).__name__
            raise ValueError(
                f"nn.{function}: params[{number}]: expected a dict with "
                f"{sorted(layer)}, got {got}. {remedy}"
            )
        for direction, cell in layer.items():
            where = f"{function} at [{number}][{direction!r}]"
            _checks.params(where, each[direction], cell.shapes)
    return given[0]["forward"]
