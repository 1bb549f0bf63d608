# SPDX-License-Identifier: Apache-2.0
"""What layers ask of their configuration, their parameters and their input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def size(function: str, name: str, value: object, minimum: int = 1) -> int:
    """An integer of at least `minimum`.

    Raises:
        TypeError: it is no integer.
        ValueError: it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"nn.{function}: {name}: expected an integer, got "
            f"{type(value).__name__}. Configuration is given when the layer is made."
        )
    if value < minimum:
        raise ValueError(
            f"nn.{function}: {name}: expected at least {minimum}, got {value}. "
            "Choose a larger one."
        )
    return value


def probability(function: str, name: str, value: object) -> float:
    """A number in [0, 1].

    Raises:
        TypeError: it is no number.
        ValueError: it is outside.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(
            f"nn.{function}: {name}: expected a number in [0, 1], got "
            f"{type(value).__name__}. Configuration is given when the layer is made."
        )
    if not 0 <= value <= 1:
        raise ValueError(
            f"nn.{function}: {name}: expected a number in [0, 1], got {value}. "
            f"It is the share that is dropped."
        )
    return float(value)


def floating(function: str, x: Tensor) -> None:
    """`x` is a floating-point tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"nn.{function}: x: expected a floating-point tensor, got "
            f"{type(x).__name__}. Convert it with torch.as_tensor."
        )
    if not x.is_floating_point():
        raise TypeError(
            f"nn.{function}: x: expected a floating-point tensor, got {x.dtype}. "
            "Convert to floating point, for images with x.float() / 255."
        )


def params(
    function: str, given: Any, expected: Mapping[str, tuple[int, ...]]
) -> list[Tensor]:
    """The parameters in the order of `expected`, a mapping from name to shape.

    Raises:
        ValueError: the structure or a shape is another than expected.
    """
    if not isinstance(given, dict) or len(given) != len(expected):
        raise ValueError(_structure(function, given, expected))
    tensors = []
    for name, shape in expected.items():
        if name not in given:
            raise ValueError(_structure(function, given, expected))
        tensor = given[name]
        if not isinstance(tensor, Tensor) or tensor.shape != shape:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else repr(tensor)
            raise ValueError(
                f"nn.{function}: params[{name!r}]: expected a tensor of shape {shape}, "
                f"got {got}. {_SAME_LAYER}"
            )
        tensors.append(tensor)
    return tensors


_SAME_LAYER = "Pass the params that this layer's init made."


def _structure(function: str, given: Any, expected: Mapping[str, Any]) -> str:
    kind = type(given).__name__
    got = f"a dict with {sorted(map(str, given))}" if isinstance(given, dict) else kind
    return (
        f"nn.{function}: params: expected a dict with {sorted(expected)}, got {got}. "
        f"{_SAME_LAYER}"
    )


def no_params(function: str, given: Any) -> None:
    """The parameters of a layer that has none.

    Raises:
        ValueError: they are not `()`.
    """
    if not isinstance(given, tuple) or len(given):
        raise ValueError(
            f"nn.{function}: params: expected (), got {type(given).__name__} of length "
            f"{len(given) if hasattr(given, '__len__') else 1}. {_SAME_LAYER}"
        )


def same_kind(function: str, x: Tensor, weight: Tensor) -> None:
    """`x` has the dtype (unless autocast converts it) and the device of the weights.

    Raises:
        TypeError: it has not.
    """
    if x.device != weight.device:
        raise TypeError(
            f"nn.{function}: x: expected device {weight.device}, as the params have, "
            f"got {x.device}. Move one of them with .to(device)."
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"nn.{function}: x: expected {weight.dtype}, as the params have, "
            f"got {x.dtype}. Convert with x.to({weight.dtype}) or fl.tree.cast."
        )
