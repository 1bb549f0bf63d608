# SPDX-License-Identifier: Apache-2.0
"""More elements in space, or fewer, by interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, _space
from functorch_lab.types import Layer

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def upsample(
    size: int | Sequence[int] | None = None,
    *,
    scale_factor: float | Sequence[float] | None = None,
    mode: Literal["nearest", "linear", "bilinear", "trilinear"] = "nearest",
    align_corners: bool = False,
    spatial_dims: int,
) -> Layer:
    """Interpolation to another size: from `(..., C, *space)` to `(..., C, *space')`.

    Args:
        size: what each axis of space shall have, one integer for all or one for each.
        scale_factor: in place of `size`, by what each axis is multiplied; the result is
            rounded down.
        mode: "nearest", or linear in each axis, which torch calls "linear" in one,
            "bilinear" in two and "trilinear" in three dimensions.
        align_corners: whether the centres of the outermost elements stay where they are
            (of "linear" modes only); otherwise their outer edges do.
        spatial_dims: the number of axes of space: 1, 2 or 3.

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` for an input of fewer
        than `spatial_dims + 1` axes or one of which nothing is left, and `TypeError`
        unless it is floating-point.

    Raises:
        ValueError: not exactly one of `size` and `scale_factor`, one that is not above
            0, a mode of other dimensions, or `align_corners` with "nearest".
        TypeError: a size that is no integer, or a factor that is no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> x = torch.tensor([[2.0, 6.0]])
        >>> fl.nn.upsample(scale_factor=2, spatial_dims=1).apply((), x)
        tensor([[2., 2., 6., 6.]])
        >>> fl.nn.upsample(4, mode="linear", spatial_dims=1).apply((), x)
        tensor([[2., 3., 5., 6.]])
    """
    if spatial_dims not in _LINEAR:
        raise ValueError(
            f"nn.upsample: spatial_dims: expected 1, 2 or 3, got {spatial_dims!r}. "
            "Count the axes after the channels."
        )
    if mode not in {"nearest", _LINEAR[spatial_dims]}:
        raise ValueError(
            f"nn.upsample: mode: expected 'nearest' or {_LINEAR[spatial_dims]!r} with "
            f"spatial_dims={spatial_dims}, got {mode!r}. Choose one."
        )
    if align_corners and mode == "nearest":
        raise ValueError(
            "nn.upsample: align_corners: expected False with mode='nearest', got True. "
            f"Leave it out, or use mode={_LINEAR[spatial_dims]!r}."
        )
    if (size is None) == (scale_factor is None):
        raise ValueError(
            "nn.upsample: size, scale_factor: expected exactly one of them, got "
            f"{'neither' if size is None else 'both'}. Give the size or the factor."
        )
    corners = None if mode == "nearest" else align_corners
    sizes, factors = None, None
    if size is not None:
        sizes = _space.numbers("upsample", "size", size, spatial_dims)
    else:
        factors = _factors(scale_factor, spatial_dims)

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params("upsample", params)
        _space.check("upsample", x, spatial_dims)
        # Rounded down, a factor below 1 needs that many elements for one to be left.
        least = [math.ceil(1 / min(f, 1)) for f in factors or (1,) * spatial_dims]
        _space.check_extent("upsample", x, least)
        return _space.over_space(
            lambda x: F.interpolate(x, sizes, factors, mode, corners), x, spatial_dims
        )

    return Layer(lambda key: (), apply)


def _factors(given: Any, spatial_dims: int) -> list[float]:
    """One factor for each axis.

    Raises:
        TypeError: one is no number.
        ValueError: one is not above 0, or there is another number of them.
    """
    factors = _space.per_axis("upsample", "scale_factor", given, spatial_dims)
    for factor in factors:
        if not isinstance(factor, int | float) or isinstance(factor, bool):
            raise TypeError(
                "nn.upsample: scale_factor: expected a number, got "
                f"{type(factor).__name__}. Configuration is given when the layer is "
                "made."
            )
        if not 0 < factor < math.inf:
            raise ValueError(
                "nn.upsample: scale_factor: expected a finite number above 0, got "
                f"{factor}. It multiplies the size of each axis."
            )
    return [float(factor) for factor in factors]
