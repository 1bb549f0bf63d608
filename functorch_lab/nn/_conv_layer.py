# SPDX-License-Identifier: Apache-2.0
"""What convolutions and transposed ones have in common: channels, params, layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from functorch_lab.nn import _checks, _space, init
from functorch_lab.nn._linear import torch_params
from functorch_lab.types import Layer


@dataclass(frozen=True)
class Convolution:
    """A convolution without its geometry.

    Attributes:
        name: of the function that makes it.
        rank: number of axes of space.
    """

    name: str
    rank: int
    in_channels: int
    out_channels: int
    groups: int
    bias: bool
    weight_init: init.Initializer | None
    bias_init: init.Initializer | None

    def __post_init__(self) -> None:
        groups = _checks.size(self.name, "groups", self.groups)
        for what in ("in_channels", "out_channels"):
            channels = _checks.size(self.name, what, getattr(self, what))
            if channels % groups:
                raise ValueError(
                    f"nn.{self.name}: groups: expected a divisor of {what}={channels}, "
                    f"got {groups}. Choose a divisor of both."
                )

    def layer(
        self,
        weight: tuple[int, ...],
        check: Callable[[Tensor], None],
        function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    ) -> Layer:
        """The layer.

        Args:
            weight: shape of the weight.
            check: raises for an input that the geometry does not take.
            function: of a batch, the weight and the bias.
        """
        expected = {"weight": weight}
        if self.bias:
            expected["bias"] = (self.out_channels,)

        def init_(key: Tensor) -> dict[str, Tensor]:
            return torch_params(key, expected, self.weight_init, self.bias_init)

        def apply(
            params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
        ) -> Tensor:
            weight, *rest = _checks.params(self.name, params, expected)
            _space.check(self.name, x, self.rank, self.in_channels)
            check(x)
            _checks.same_kind(self.name, x, weight)
            bias = rest[0] if rest else None
            return _space.over_space(lambda x: function(x, weight, bias), x, self.rank)

        return Layer(init_, apply)
