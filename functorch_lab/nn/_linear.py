# SPDX-License-Identifier: Apache-2.0
"""The affine map."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _checks, init
from functorch_lab.types import Layer


def linear(
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> Layer:
    """`x @ weight.T + bias`: from `(..., in_features)` to `(..., out_features)`.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias: whether there is a bias.
        weight_init: an initializer for the weight; by default torch's, uniform on
            +-1/sqrt(in_features).
        bias_init: an initializer for the bias; by default the same distribution.

    Returns:
        A layer.
        Its params are "weight", of shape `(out_features, in_features)`, and "bias", of
        shape `(out_features,)`, if there is one. Its `apply` raises
        `ValueError` for params or an input of other shapes, and `TypeError` for an
        input that is not floating-point or differs from the params in dtype or device.

    Raises:
        ValueError: a size below 1.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.linear(2, 3)
        >>> params = layer.init(fl.random.key(0))
        >>> params["weight"].shape
        torch.Size([3, 2])
        >>> x = torch.tensor([2.0, 5.0])
        >>> layer.apply({"weight": torch.eye(3, 2), "bias": torch.ones(3)}, x)
        tensor([3., 6., 1.])
    """
    _checks.size("linear", "in_features", in_features)
    _checks.size("linear", "out_features", out_features)
    expected: dict[str, tuple[int, ...]] = {"weight": (out_features, in_features)}
    if bias:
        expected["bias"] = (out_features,)

    def init_(key: Tensor) -> dict[str, Tensor]:
        return torch_params(key, expected, weight_init, bias_init)

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        weight, *rest = _checks.params("linear", params, expected)
        _checks.floating("linear", x)
        if x.ndim == 0 or x.shape[-1] != in_features:
            raise ValueError(
                f"nn.linear: x: expected shape (..., {in_features}), got "
                f"{tuple(x.shape)}. Make the layer for the input's last axis, or "
                "flatten the input first."
            )
        _checks.same_kind("linear", x, weight)
        return F.linear(x, weight, *rest)

    return Layer(init_, apply)


def torch_params(
    key: Tensor,
    shapes: dict[str, tuple[int, ...]],
    weight_init: init.Initializer | None = None,
    bias_init: init.Initializer | None = None,
) -> dict[str, Tensor]:
    """Weight and bias from torch's distributions, unless initializers are given."""
    weight_key, bias_key = random.split(key).unbind()
    # kaiming_uniform with this slope has the bound 1/sqrt(fan_in), which is also the
    # bound of the bias.
    weight_init = weight_init or init.kaiming_uniform(a=math.sqrt(5.0))
    params = {"weight": weight_init(weight_key, shapes["weight"])}
    if "bias" in shapes:
        bound = 1.0 / math.sqrt(math.prod(shapes["weight"][1:]))
        bias_init = bias_init or init.uniform(-bound, bound)
        params["bias"] = bias_init(bias_key, shapes["bias"])
    return params
