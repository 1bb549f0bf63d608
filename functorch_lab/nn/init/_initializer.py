# SPDX-License-Identifier: Apache-2.0
"""What an initializer is, and what it asks of a shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

Initializer = Callable[..., Tensor]
"""`initializer(key, shape, dtype=None)`."""


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
