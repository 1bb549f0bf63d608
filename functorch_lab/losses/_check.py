# SPDX-License-Identifier: Apache-2.0
"""What the losses ask of their arguments: kinds, dtypes, shapes, and known labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def floating(function: str, **arguments: Tensor) -> None:
    """Every named argument is a floating-point tensor.

    Raises:
        TypeError: one is not.
    """
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"losses.{function}: {name}: expected a floating-point tensor, "
                f"got {type(value).__name__}. Convert it with torch.as_tensor."
            )
        if not value.is_floating_point():
            raise TypeError(
                f"losses.{function}: {name}: expected a floating-point tensor, "
                f"got {value.dtype}. Convert it, for example with {name}.float()."
            )


def same_shape(function: str, **arguments: Tensor) -> None:
    """Both named arguments have one shape.

    Raises:
        ValueError: they do not.
    """
    (name_a, a), (name_b, b) = arguments.items()
    if a.shape != b.shape:
        raise ValueError(
            f"losses.{function}: {name_b}: expected the shape of {name_a}, "
            f"{tuple(a.shape)}, got {tuple(b.shape)}. Reshape one of them: "
            "broadcasting would compare every element with every other."
        )


def class_axis(function: str, name: str, scores: Tensor) -> None:
    """`scores` is floating-point and has a class axis, the last one.

    Raises:
        ValueError: it has no axis.
    """
    floating(function, **{name: scores})
    if scores.ndim == 0:
        raise ValueError(
            f"losses.{function}: {name}: expected shape (..., classes), got (). "
            "The last axis holds one entry per class."
        )


def labels(function: str, name: str, scores: Tensor, target: Tensor) -> None:
    """`target` holds one integer label per row of `scores`.

    Raises:
        TypeError: it holds something else.
        ValueError: it has another shape, or a label that is no class of `scores`.
    """
    if not isinstance(target, Tensor):
        raise TypeError(
            f"losses.{function}: target: expected a tensor of integer labels, "
            f"got {type(target).__name__}. Convert it with torch.as_tensor."
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f"losses.{function}: target: expected integer labels, got {target.dtype}. "
            "Convert them with target.long()."
        )
    if target.shape != scores.shape[:-1]:
        raise ValueError(
            f"losses.{function}: target: expected integer labels of shape "
            f"{tuple(scores.shape[:-1])} for {name} of shape {tuple(scores.shape)}, "
            f"got {tuple(target.shape)}. {_remedy(scores, target)}"
        )
    classes = scores.shape[-1]
    if not _readable(target) or target.numel() == 0:
        return
    target = target.long()
    low, high = target.aminmax()
    if int(low) < 0 or int(high) >= classes:
        index = ((target < 0) | (target >= classes)).nonzero()[0].tolist()
        place = f" at index {tuple(index)}" if index else ""
        raise ValueError(
            f"losses.{function}: target: expected labels in 0 .. {classes - 1}, got "
            f"{int(target[tuple(index)])}{place}. "
            "Check the data with data.check_classification."
        )


def _readable(labels: Tensor) -> bool:
    """Whether labels can be looked at: not traced or mapped, and not on a device."""
    torch_c: Any = torch._C
    return (
        not torch.compiler.is_dynamo_compiling()
        and type(labels) is Tensor  # no FakeTensor
        and labels.device.type == "cpu"  # elsewhere the host would wait for the device
        and not torch_c._functorch.is_functorch_wrapped_tensor(labels)
        and torch_c._len_torch_dispatch_stack() == 0  # make_fx
    )


def _remedy(scores: Tensor, target: Tensor) -> str:
    if target.shape == scores.shape:
        return "Convert a one-hot target with target.argmax(-1)."
    if target.shape == (*scores.shape[:-1], 1):
        return "Drop the last axis with target.squeeze(-1)."
    return "The class axis is the last one; give one label for each remaining index."


def interval(
    function: str, name: str, value: float | Tensor, low: float, high: float
) -> None:
    """A number is in [low, high]; a tensor's value is not read.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, Tensor) and not low <= value <= high:
        raise ValueError(
            f"losses.{function}: {name}: expected a number in [{low:g}, {high:g}], "
            f"got {value}. Choose one inside."
        )


def positive(function: str, name: str, value: float | Tensor) -> None:
    """A number is above 0; a tensor's value is not read.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, Tensor) and not value > 0:
        raise ValueError(
            f"losses.{function}: {name}: expected a number above 0, got {value}. "
            "Choose a positive one."
        )
