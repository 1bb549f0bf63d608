# SPDX-License-Identifier: Apache-2.0
"""What pools with windows have in common: the window, and the layer around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from functorch_lab.nn import _checks, _space
from functorch_lab.types import Layer

Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def window_of(
    name: str,
    rank: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
) -> Window:
    """Kernel, stride and padding.

    Raises:
        ValueError: the padding is above half the kernel.
    """
    kernel = _space.numbers(name, "kernel_size", kernel_size, rank)
    step = kernel if stride is None else _space.numbers(name, "stride", stride, rank)
    pads = _space.numbers(name, "padding", padding, rank, minimum=0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ValueError(
            f"nn.{name}: padding: expected at most half of kernel_size={kernel}, got "
            f"{pads}. A window of padding alone has no value."
        )
    return kernel, step, pads


def pool_layer(
    name: str,
    function: Callable[[Tensor], Tensor],
    window: Window,
    dilation: Sequence[int] | None = None,
    *,
    padding_helps: bool = True,
) -> Layer:
    """The layer.

    Args:
        name: of the function that makes it.
        function: of a batch.
        window: what `window_of` returned.
        dilation: distance between the elements of a window.
        padding_helps: whether a window larger than the input may fit into its padding.
    """
    kernel, _, pads = window
    rank = len(kernel)
    dilation = dilation or (1,) * rank
    reach = _space.reach_of(kernel, dilation)
    totals = [2 * p for p in pads] if padding_helps else None
    remedy = _space.SMALLER_KERNEL if padding_helps else "Use a smaller kernel."
    # A window that begins in the padding could step over all there is.
    steps = [d if p else 1 for d, p in zip(dilation, pads, strict=True)]

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params(name, params)
        _space.check(name, x, rank)
        _space.check_extent(name, x, reach, totals, remedy)
        _space.check_extent(name, x, steps, remedy="Dilate less, or do not pad.")
        return _space.over_space(function, x, rank)

    return Layer(lambda key: (), apply)
