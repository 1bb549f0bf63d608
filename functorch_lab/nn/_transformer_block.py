# SPDX-License-Identifier: Apache-2.0
"""One layer of a transformer: attention between positions, then a map of each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _checks, init
from functorch_lab.nn._activations import gelu, silu
from functorch_lab.nn._dropout import dropout as dropout_layer
from functorch_lab.nn._linear import linear
from functorch_lab.nn._norm import layer_norm, rms_norm
from functorch_lab.nn._transformer_attend import Attend, all_see, causal
from functorch_lab.nn._transformer_checks import (
    check_divides,
    check_mask,
    check_names,
    needed_key,
)
from functorch_lab.types import Layer

Activation = Callable[[Tensor], Tensor]
Norm = Literal["layer_norm", "rms_norm"]


def transformer_block(  # noqa: PLR0913  (what torch's layer has, and more kinds)
    embed_dim: int,
    num_heads: int,
    *,
    is_causal: bool = False,
    num_kv_heads: int | None = None,
    hidden: int | None = None,
    activation: Activation | None = None,
    norm: Norm = "layer_norm",
    norm_eps: float = 1e-5,
    gated: bool = False,
    bias: bool = True,
    dropout: float = 0.0,
) -> Layer:
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`: from `(..., T, embed_dim)`.

    A layer with the norms before the maps (pre-norm), of which `nn.transformer` and
    `nn.vit` are made; it has no positions of its own.

    Args:
        embed_dim: size of the last axis, divisible by `num_heads`.
        num_heads: heads of the queries, each of `embed_dim // num_heads` features.
        is_causal: whether a position sees itself and those before it only.
        num_kv_heads: heads of keys and values, a divisor of `num_heads`; by default as
            many.
        hidden: width of the map of each position; by default `4 * embed_dim`.
        activation: in that map; by default `nn.gelu`, or `nn.silu` if it is gated.
        norm: "layer_norm" or "rms_norm".
        norm_eps: of the norms.
        gated: whether the map is `down(activation(gate(x)) * up(x))` instead of
            `down(activation(up(x)))`.
        bias: whether the linear maps and layer norms have a bias.
        dropout: share dropped of the attention weights and of what each half adds;
            above 0, training needs a key.

    Returns:
        A layer.
        Its `apply` takes a `mask=` beside, bool `(..., T)`, True where there is a
        position to look at. Its params are "attention", with "norm", "qkv" (queries,
        keys and values, of all heads one after the other, in one weight) and "out", and
        "mlp", with "norm", "up", "down", and "gate" if there is one; weights are normal
        with standard deviation 0.02, biases zero. Its `apply` raises `ValueError` for
        params, an input or a mask of other shapes and when it trains with dropout
        without a key, and `TypeError` for an input that is not floating-point or
        differs from the params in dtype or device, and for a mask that is not bool.

    Raises:
        ValueError: a size below 1, heads that do not divide, an unknown norm, or
            `dropout` outside [0, 1].
        TypeError: a size that is no integer, or an `activation` that is no function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> block = fl.nn.transformer_block(8, 2, hidden=32)
        >>> params = block.init(fl.random.key(0))
        >>> params["attention"]["qkv"]["weight"].shape
        torch.Size([24, 8])
        >>> block.apply(params, torch.ones(3, 5, 8)).shape
        torch.Size([3, 5, 8])

    Source: Vaswani et al., Attention Is All You Need (2017), section 3.1,
    arXiv 1706.03762; pre-norm: Xiong et al. (2020), figure 1b, arXiv 2002.04745; gated:
    Shazeer, GLU Variants Improve Transformer (2020), equation 6, arXiv 2002.05202;
    fewer heads of keys: Ainslie et al. (2023), section 2.2, arXiv 2305.13245.
    """
    block = Block(
        "transformer_block",
        embed_dim,
        num_heads,
        num_kv_heads,
        hidden,
        activation or (silu if gated else gelu),
        norm,
        norm_eps,
        gated,
        bias,
        dropout,
    )

    def apply(
        params: Any,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Tensor:
        _checks.floating("transformer_block", x)
        if x.ndim < 2 or x.shape[-1] != embed_dim:
            raise ValueError(
                f"nn.transformer_block: x: expected shape (..., T, {embed_dim}), got "
                f"{tuple(x.shape)}. Positions come before the features."
            )
        check_mask("transformer_block", mask, x[..., 0])
        key = needed_key("transformer_block", dropout, key, train)
        attend = causal(mask) if is_causal else all_see(mask)
        return block.apply(params, x, attend, key)[0]

    return Layer(block.init, apply)


@dataclass(frozen=True)
class Block:
    """The layer without positions, and with any kind of attention.

    Attributes:
        function: the one that errors name.
        residual_std: standard deviation of the weights that write into `x`.
    """

    function: str
    embed_dim: int
    num_heads: int
    num_kv_heads: int | None
    hidden: int | None
    activation: Activation
    norm: Norm
    norm_eps: float
    gated: bool
    bias: bool
    dropout: float
    std: float = 0.02
    residual_std: float = 0.02

    def __post_init__(self) -> None:
        of = self.function
        width = _checks.size(of, "embed_dim", self.embed_dim)
        heads = self.num_heads
        check_divides(of, "num_heads", heads, "embed_dim", width)
        check_divides(of, "num_kv_heads", self.kv_heads, "num_heads", heads)
        _checks.size(of, "hidden", self.width)
        _checks.probability(of, "dropout", self.dropout)
        if self.norm not in _NORMS:
            raise ValueError(
                f"nn.{of}: norm: expected one of {list(_NORMS)}, got {self.norm!r}. "
                "Choose one of them."
            )
        if not callable(self.activation):
            raise TypeError(
                f"nn.{of}: activation: expected a function of a tensor, got "
                f"{type(self.activation).__name__}. Pass one such as fl.nn.relu."
            )
        _ = self.layers  # made now, as Dynamo should not have to

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def width(self) -> int:
        return 4 * self.embed_dim if self.hidden is None else self.hidden

    def norm_layer(self) -> Layer:
        if self.norm == "rms_norm":
            return rms_norm(self.embed_dim, eps=self.norm_eps)
        return layer_norm(self.embed_dim, eps=self.norm_eps, bias=self.bias)

    @functools.cached_property
    def layers(self) -> dict[str, dict[str, Layer]]:
        """The layers by the paths of their params."""
        qkv = (self.num_heads + 2 * self.kv_heads) * self.head_dim
        up = self._linear(self.embed_dim, self.width, self.std)
        mlp = {
            "norm": self.norm_layer(),
            "up": up,
            "down": self._linear(self.width, self.embed_dim, self.residual_std),
        }
        return {
            "attention": {
                "norm": self.norm_layer(),
                "qkv": self._linear(self.embed_dim, qkv, self.std),
                "out": self._linear(self.embed_dim, self.embed_dim, self.residual_std),
            },
            "mlp": {**mlp, "gate": up} if self.gated else mlp,
        }

    def _linear(self, in_features: int, out_features: int, std: float) -> Layer:
        return linear(
            in_features,
            out_features,
            bias=self.bias,
            weight_init=init.normal(std=std),
            bias_init=init.zeros(),
        )

    def init(self, key: Tensor) -> dict[str, dict[str, Any]]:
        number = sum(len(half) for half in self.layers.values())
        keys = iter(random.split(key, number).unbind())
        return {
            name: {each: layer.init(next(keys)) for each, layer in half.items()}
            for name, half in self.layers.items()
        }

    def apply(
        self, params: Any, x: Tensor, attend: Attend, key: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The layer, with dropout if there is a key; and what `attend` keeps."""
        check_names(self.function, "params", params, self.layers)
        for name, half in self.layers.items():
            check_names(self.function, f"params[{name!r}]", params[name], half)
        keys = (None,) * 3 if key is None else random.split(key, 3).unbind()
        y, kept = self._attention(params["attention"], x, attend, keys[0])
        x = x + dropped(y, self.dropout, keys[1])
        y = self._mlp(params["mlp"], x)
        return x + dropped(y, self.dropout, keys[2]), kept

    def _attention(
        self, params: Any, x: Tensor, attend: Attend, key: Tensor | None
    ) -> tuple[Tensor, Any]:
        layers = self.layers["attention"]
        h = layers["norm"].apply(params["norm"], x)
        heads = layers["qkv"].apply(params["qkv"], h)
        kv = self.kv_heads * self.head_dim
        # (..., T, heads * head_dim) to (..., heads, T, head_dim)
        query, keys, values = (
            each.unflatten(-1, (-1, self.head_dim)).transpose(-2, -3)
            for each in heads.split((self.embed_dim, kv, kv), -1)
        )
        options = {} if key is None else {"dropout": self.dropout, "dropout_key": key}
        y, kept = attend(query, keys, values, options)
        y = y.transpose(-2, -3).flatten(-2)
        return layers["out"].apply(params["out"], y), kept

    def _mlp(self, params: Any, x: Tensor) -> Tensor:
        layers = self.layers["mlp"]
        x = layers["norm"].apply(params["norm"], x)
        up = layers["up"].apply(params["up"], x)
        if self.gated:
            gate = layers["gate"].apply(params["gate"], x)
            up = self.activation(gate) * up
        else:
            up = self.activation(up)
        return layers["down"].apply(params["down"], up)


_NORMS = "layer_norm", "rms_norm"


def dropped(x: Tensor, p: float, key: Tensor | None) -> Tensor:
    return x if key is None else dropout_layer(p).apply((), x, key=key, train=True)


def scaled_std(std: float, num_layers: int) -> float:
    """Of the weights that write into `x`, each layer twice, so that `x` stays."""
    return std / math.sqrt(2 * num_layers)
