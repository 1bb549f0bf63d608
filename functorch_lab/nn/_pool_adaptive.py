# SPDX-License-Identifier: Apache-2.0
"""Pooling to a given size, over one to three axes of space and any leading axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, _space
from functorch_lab.types import Layer

OutputSize = int | Sequence[int | None] | None


def adaptive_avg_pool1d(output_size: OutputSize) -> Layer:
    """Means of `output_size` windows: from `(..., C, L)` to `(..., C, L')`.

    `adaptive_avg_pool2d` says what `output_size` may be and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> x = torch.tensor([[2.0, 5.0, 8.0]])
        >>> fl.nn.adaptive_avg_pool1d(2).apply((), x)  # windows of 2 that overlap
        tensor([[3.5000, 6.5000]])
    """
    return _adaptive("adaptive_avg_pool1d", 1, F.adaptive_avg_pool1d, output_size)


def adaptive_avg_pool2d(output_size: OutputSize) -> Layer:
    """Means of windows, so many: from `(..., C, H, W)` to `(..., C, H', W')`.

    Window i of H' reaches from `floor(i H / H')` to `ceil((i + 1) H / H')`: together
    they cover the image, and overlap where H' does not divide H.

    Args:
        output_size: one integer, or one for each axis: (H', W'); `None` keeps the size
            of an axis.

    Returns:
        A layer with params `()`. Its `apply` raises `ValueError` for an image of fewer
        than 3 axes or without pixels, `TypeError` unless it is floating-point.

    Raises:
        ValueError: a size below 1, or too many of them.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> fl.nn.adaptive_avg_pool2d(1).apply((), image)
        tensor([[[2.5000]]])
        >>> fl.nn.adaptive_avg_pool2d((None, 1)).apply((), image)
        tensor([[[1.5000],
                 [3.5000]]])
    """
    return _adaptive("adaptive_avg_pool2d", 2, F.adaptive_avg_pool2d, output_size)


def adaptive_avg_pool3d(output_size: OutputSize) -> Layer:
    """Means of windows, so many: from `(..., C, D, H, W)` to `(..., C, D', H', W')`.

    `adaptive_avg_pool2d` says what `output_size` may be and what is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> volume = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> fl.nn.adaptive_avg_pool3d(1).apply((), volume).flatten()
        tensor([3.5000])
    """
    return _adaptive("adaptive_avg_pool3d", 3, F.adaptive_avg_pool3d, output_size)


def adaptive_max_pool1d(output_size: OutputSize) -> Layer:
    """Largest values of `output_size` windows: from `(..., C, L)` to `(..., C, L')`.

    `adaptive_avg_pool2d` says where the windows are, what `output_size` may be and what
    is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> x = torch.tensor([[2.0, 5.0, 8.0]])
        >>> fl.nn.adaptive_max_pool1d(2).apply((), x)
        tensor([[5., 8.]])
    """
    return _adaptive("adaptive_max_pool1d", 1, F.adaptive_max_pool1d, output_size)


def adaptive_max_pool2d(output_size: OutputSize) -> Layer:
    """Largest values of windows: from `(..., C, H, W)` to `(..., C, H', W')`.

    `adaptive_avg_pool2d` says where the windows are, what `output_size` may be and what
    is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> image = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> fl.nn.adaptive_max_pool2d(1).apply((), image)
        tensor([[[4.]]])
    """
    return _adaptive("adaptive_max_pool2d", 2, F.adaptive_max_pool2d, output_size)


def adaptive_max_pool3d(output_size: OutputSize) -> Layer:
    """Largest values of windows: `(..., C, D, H, W)` to `(..., C, D', H', W')`.

    `adaptive_avg_pool2d` says where the windows are, what `output_size` may be and what
    is raised.

    Example:
        >>> import torch, functorch_lab as fl
        >>> volume = torch.arange(8.0).reshape(1, 2, 2, 2)
        >>> fl.nn.adaptive_max_pool3d((2, 1, 1)).apply((), volume).flatten()
        tensor([3., 7.])
    """
    return _adaptive("adaptive_max_pool3d", 3, F.adaptive_max_pool3d, output_size)


def _adaptive(
    name: str, rank: int, function: Callable[..., Tensor], output_size: OutputSize
) -> Layer:
    sizes = _space.per_axis(name, "output_size", output_size, rank)
    for size in sizes:
        if size is not None:
            _checks.size(name, "output_size", size)

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        _checks.no_params(name, params)
        _space.check(name, x, rank)
        _space.check_extent(name, x, (1,) * rank)
        target = tuple(
            n if size is None else size
            for n, size in zip(x.shape[-rank:], sizes, strict=True)
        )
        return _space.over_space(lambda x: function(x, target), x, rank)

    return Layer(lambda key: (), apply)
