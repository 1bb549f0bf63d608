# SPDX-License-Identifier: Apache-2.0
"""Several axes become one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.types import Layer


def flatten(start_dim: int = -3) -> Layer:
    """Merges the axes from `start_dim` to the last one, by default channels and space.

    Counted from the end, so that an unbatched sample is never misread: the default
    makes `(C * H * W,)` of an image `(C, H, W)`, and `(n, C * H * W)` of a batch.

    Args:
        start_dim: the first of the merged axes, negative.

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` for an input with
        fewer axes.

    Raises:
        ValueError: `start_dim` is not negative.
        TypeError: `start_dim` is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.nn.flatten().apply((), torch.zeros(7, 2, 3, 5)).shape
        torch.Size([7, 30])
    """
    _checks.size("flatten", "start_dim", start_dim, minimum=-64)
    if start_dim >= 0:
        raise ValueError(
            f"nn.flatten: start_dim: expected a negative axis, got {start_dim}. Count "
            "from the end: -3 merges (channels, height, width)."
        )

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params("flatten", params)
        if x.ndim < -start_dim:
            raise ValueError(
                f"nn.flatten: x: expected at least {-start_dim} axes, got shape "
                f"{tuple(x.shape)}. Choose a start_dim nearer to 0."
            )
        return x.flatten(start_dim)

    return Layer(lambda key: (), apply)
