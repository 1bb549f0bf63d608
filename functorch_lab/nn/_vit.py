# SPDX-License-Identifier: Apache-2.0
"""The vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _checks, _space, init
from functorch_lab.nn._activations import gelu
from functorch_lab.nn._conv import conv2d
from functorch_lab.nn._linear import linear
from functorch_lab.nn._positions import learned_positions
from functorch_lab.nn._transformer_attend import all_see
from functorch_lab.nn._transformer_block import Activation, Block, Norm, dropped
from functorch_lab.nn._transformer_checks import check_blocks, check_names, needed_key
from functorch_lab.types import Layer

_OF = "vit"
_STD = 0.02


def vit(  # noqa: PLR0913
    image_size: int | Sequence[int],
    patch_size: int | Sequence[int],
    num_classes: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    *,
    in_channels: int = 3,
    hidden: int | None = None,
    activation: Activation = gelu,
    norm: Norm = "layer_norm",
    norm_eps: float = 1e-6,
    bias: bool = True,
    dropout: float = 0.0,
) -> Layer:
    """A vision transformer: from images `(..., C, H, W)` to `(..., num_classes)`.

    An image is cut into patches, each of which is mapped to a vector. The transformer
    sees these and one more, the class token, from which the logits are read.

    Args:
        image_size: one integer, or (height, width), divisible by `patch_size`.
        patch_size: one integer, or (height, width).
        num_classes: number of logits.
        embed_dim: features of a patch, divisible by `num_heads`.
        num_layers: how many layers.
        num_heads: heads of the attention, each of `embed_dim // num_heads` features.
        in_channels: C.
        hidden: width of the map of each patch; by default `4 * embed_dim`.
        activation: in that map.
        norm: "layer_norm" or "rms_norm", before each half of a layer and at the end.
        norm_eps: of the norms.
        bias: whether the linear maps inside the layers, and the norms, have a bias.
        dropout: share dropped of the embedding, of the attention weights and of what
            each half of a layer adds; above 0, training needs a key.

    Returns:
        A layer.
        Its params are "patches" (a convolution), "class_token", of shape
        `(embed_dim,)`, "positions", of which the first is that of the class token,
        "blocks" (a tuple of params as `transformer_block` has them), "norm" and "head".
        Weights are normal with standard deviation 0.02, biases zero. Its `apply` raises
        `ValueError` for params of another model, for images of another size or number
        of channels, and when it trains with dropout without a key; `TypeError` for
        images that are not floating-point or differ from the params in dtype or device.

    Raises:
        ValueError: a size below 1, patches that do not divide the image, heads that do
            not divide, an unknown norm, or `dropout` outside [0, 1].
        TypeError: a size that is no integer, or an `activation` that is no function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.vit(8, 4, 10, 16, 2, 2, in_channels=1)
        >>> params = model.init(fl.random.key(0))
        >>> params["positions"]["weight"].shape  # 2 x 2 patches and the class token
        torch.Size([5, 16])
        >>> model.apply(params, torch.zeros(7, 1, 8, 8)).shape
        torch.Size([7, 10])

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words (2020), equations 1 to 4,
    arXiv 2010.11929.
    """
    block = Block(
        _OF,
        embed_dim,
        num_heads,
        None,
        hidden,
        activation,
        norm,
        norm_eps,
        False,
        bias,
        dropout,
    )
    _checks.size(_OF, "num_layers", num_layers)
    _checks.size(_OF, "num_classes", num_classes)
    _checks.size(_OF, "in_channels", in_channels)
    size = _space.numbers(_OF, "image_size", image_size, 2)
    patch = _space.numbers(_OF, "patch_size", patch_size, 2)
    if any(n % p for n, p in zip(size, patch, strict=True)):
        raise ValueError(
            f"nn.vit: patch_size: expected a divisor of image_size={size}, got "
            f"{patch}. Patches cover the image without overlap."
        )
    patches = math.prod(size) // math.prod(patch)
    small, zeros = init.normal(std=_STD), init.zeros()
    layers = {
        "patches": conv2d(
            in_channels,
            embed_dim,
            patch,
            stride=patch,
            weight_init=small,
            bias_init=zeros,
        ),
        "positions": learned_positions(patches + 1, embed_dim, weight_init=small),
        "norm": block.norm_layer(),
        "head": linear(embed_dim, num_classes, weight_init=small, bias_init=zeros),
    }
    made = _VisionTransformer(block, num_layers, layers, (in_channels, *size))
    return Layer(made.init, made.apply)


@dataclass(frozen=True)
class _VisionTransformer:
    """The model.

    Attributes:
        layers: those outside of the blocks, by name.
        image: shape of an image.
    """

    block: Block
    num_layers: int
    layers: dict[str, Layer]
    image: tuple[int, ...]

    def init(self, key: Tensor) -> dict[str, Any]:
        keys = random.split(key, self.num_layers + len(self.layers) + 1).unbind()
        blocks = tuple(self.block.init(k) for k in keys[: self.num_layers])
        rest = zip(self.layers.items(), keys[self.num_layers : -1], strict=True)
        token = init.normal(std=_STD)(keys[-1], (self.block.embed_dim,))
        return {
            "class_token": token,
            "blocks": blocks,
            **{name: layer.init(k) for (name, layer), k in rest},
        }

    def apply(
        self,
        params: Any,
        x: Tensor,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Tensor:
        self._check(params, x)
        p = self.block.dropout
        key = needed_key(_OF, p, key, train)
        number = self.num_layers + 1
        keys = (None,) * number if key is None else random.split(key, number).unbind()
        x = dropped(self._embedded(params, x), p, keys[-1])
        for each, k in zip(params["blocks"], keys[:-1], strict=True):
            x, _ = self.block.apply(each, x, all_see(None), k)
        x = self.layers["norm"].apply(params["norm"], x[..., 0, :])
        return self.layers["head"].apply(params["head"], x)

    def _embedded(self, params: Any, x: Tensor) -> Tensor:
        x = self.layers["patches"].apply(params["patches"], x)
        x = x.flatten(-2).transpose(-1, -2)  # (..., patches, embed_dim)
        token = params["class_token"].expand(*x.shape[:-2], 1, -1)
        x = torch.cat([token, x], -2)
        return self.layers["positions"].apply(params["positions"], x)

    def _check(self, params: Any, x: Tensor) -> None:
        """Params and images are of this model.

        Raises:
            ValueError: they are not.
        """
        check_names(
            _OF, "params", params, {"blocks": (), "class_token": (), **self.layers}
        )
        check_blocks(_OF, params["blocks"], self.num_layers)
        token = {"class_token": params["class_token"]}
        _checks.params(_OF, token, {"class_token": (self.block.embed_dim,)})
        _checks.floating(_OF, x)
        if x.shape[-3:] != self.image:
            raise ValueError(
                f"nn.vit: x: expected shape (..., {', '.join(map(str, self.image))}), "
                f"got {tuple(x.shape)}. Resize the images, with the channels before "
                "height and width, or make the model for theirs."
            )
