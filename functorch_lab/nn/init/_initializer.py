# SPDX-License-Identifier: Apache-2.0
"""What an initializer is, and what it asks of a shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Initializer = Callable[..., Tensor]
"""`initializer(key, shape, dtype=None)`."""


def device_of(name: str, key: object) -> torch.device:
    """Of the key, which says no more to an initializer without chance.

    Raises:
        TypeError: it is no key.
    """
    if not isinstance(key, Tensor):
        raise TypeError(
            f"nn.init.{name}: key: expected a key, got {type(key).__name__}. Make one "
            "with fl.random.key(0)."
        )
    return key.device


def axes(
    name: str, shape: Sequence[int], least: int, most: float = math.inf
) -> tuple[int, ...]:
    """The shape, of so many axes.

    Raises:
        ValueError: it has fewer or more of them.
    """
    if not least <= len(shape) <= most:
        number = str(least) if most == least else f"{least} to {most}"
        number = f"at least {least}" if most == math.inf else number
        raise ValueError(
            f"nn.init.{name}: shape: expected {number} axes, (out, in, ...), got "
            f"{tuple(shape)}. Initialise biases with zeros() or uniform()."
        )
    return tuple(shape)


def fans(name: str, shape: Sequence[int]) -> tuple[int, int]:
    """Numbers of inputs and outputs that a weight of this shape connects.

    Raises:
        ValueError: the shape has fewer than 2 axes, or no elements.
    """
    out, in_, *kernel = axes(name, shape, 2)
    if math.prod(shape) == 0:
        raise ValueError(
            f"nn.init.{name}: shape: expected sizes of at least 1, got "
            f"{tuple(shape)}. Fill an empty tensor with zeros()."
        )
    return in_ * math.prod(kernel), out * math.prod(kernel)
