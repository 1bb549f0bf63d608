# SPDX-License-Identifier: Apache-2.0
"""The largest of several affine maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from functorch_lab.nn import _checks, init
from functorch_lab.nn._linear import linear
from functorch_lab.types import Layer


def maxout(
    in_features: int,
    out_features: int,
    *,
    pieces: int = 2,
    bias: bool = True,
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """Each output is the largest of `pieces` affine maps of the input.

    From `(..., in_features)` to `(..., out_features)`: a layer and its activation in
    one. Where several maps are the largest, they share the derivative.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        pieces: the number of maps for each output.
        bias: whether the maps have a bias.
        weight_init: an initializer for the weight; by default that of `linear`.
        bias_init: an initializer for the bias; by default that of `linear`.

    Returns:
        A layer.
        Its params and errors are those of `linear(in_features, out_features * pieces)`;
        the maps of one output are neighbours: rows `i * pieces` to `(i + 1) * pieces`
        of the weight belong to output i.

    Raises:
        ValueError: a size below 1.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.maxout(1, 1, bias=False)  # the absolute value
        >>> params = {"weight": torch.tensor([[1.0], [-1.0]])}
        >>> layer.apply(params, torch.tensor([[-3.0], [5.0]]))
        tensor([[3.],
                [5.]])

    Source: Goodfellow et al., Maxout Networks (2013), section 3, arXiv 1302.4389.
    """
    _checks.size("maxout", "in_features", in_features)
    _checks.size("maxout", "out_features", out_features)
    _checks.size("maxout", "pieces", pieces)
    maps = linear(
        in_features,
        out_features * pieces,
        bias=bias,
        weight_init=weight_init,
        bias_init=bias_init,
    )

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        values = maps.apply(params, x)
        return values.unflatten(-1, (out_features, pieces)).amax(-1)

    return Layer(maps.init, apply)
