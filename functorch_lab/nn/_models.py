# SPDX-License-Identifier: Apache-2.0
"""Small whole models, to start with and to compare against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.nn._activations import relu
from functorch_lab.nn._conv import conv2d
from functorch_lab.nn._dropout import dropout as dropout_layer
from functorch_lab.nn._linear import linear
from functorch_lab.nn._pool import max_pool2d
from functorch_lab.nn._sequential import Part, sequential
from functorch_lab.types import Layer


def mlp(
    in_features: int,
    hidden: Sequence[int],
    out_features: int,
    *,
    activation: Callable[[Tensor], Tensor] = relu,
    dropout: float = 0.0,
) -> Layer:
    """A multi-layer perceptron: from `(..., in_features)` to `(..., out_features)`.

    Args:
        in_features: size of the last axis of the input.
        hidden: sizes of the hidden layers; empty for a linear model.
        out_features: size of the last axis of the output.
        activation: what follows each hidden layer.
        dropout: share dropped after each activation, in [0, 1]; above 0, training needs
            a key.

    Returns:
        A `sequential` layer.

    Raises:
        ValueError: a size below 1, or `dropout` outside [0, 1].
        TypeError: a size that is no integer.

    Example:
        >>> import functorch_lab as fl
        >>> model = fl.nn.mlp(64, [128, 128], 10)
        >>> fl.tree.size(model.init(fl.random.key(0)))  # 65*128 + 129*128 + 129*10
        26122
    """
    _check_sizes("mlp", "hidden", hidden)
    noise: list[Part] = [dropout_layer(dropout)] if dropout != 0 else []
    layers: list[Part] = []
    for size in hidden:
        layers += [linear(in_features, size), activation, *noise]
        in_features = size
    return sequential(*layers, linear(in_features, out_features))


def cnn(
    in_channels: int,
    channels: Sequence[int],
    out_features: int,
    *,
    kernel_size: int = 3,
    activation: Callable[[Tensor], Tensor] = relu,
    dropout: float = 0.0,
) -> Layer:
    """A small convolutional network: from `(..., C, H, W)` to `(..., out_features)`.

    One stage for each entry of `channels`: two convolutions that keep the size, each
    followed by the activation; between stages, max pooling halves height and width.
    After the last stage the mean over space and a linear layer, so that images of any
    size fit, from `2 ** (len(channels) - 1)` pixels.

    Args:
        in_channels: C.
        channels: channels of each stage, at least one.
        out_features: size of the last axis of the output.
        kernel_size: of all convolutions.
        activation: what follows each convolution.
        dropout: share dropped before the linear layer, in [0, 1]; above 0, training
            needs a key.

    Returns:
        A `sequential` layer.

    Raises:
        ValueError: a size below 1, no channels, or `dropout` outside [0, 1].
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.cnn(1, [32, 64, 128], 10, dropout=0.3)
        >>> params = model.init(fl.random.key(0))
        >>> model.apply(params, torch.zeros(7, 1, 8, 8)).shape
        torch.Size([7, 10])

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks (2014), section
    2.1, arXiv 1409.1556; the mean over space: Lin et al., Network in Network (2013),
    section 3.2, arXiv 1312.4400.
    """
    _check_sizes("cnn", "channels", channels)
    if not channels:
        raise ValueError(
            "nn.cnn: channels: expected at least one stage, got none. "
            "Give the number of channels of each stage, for example [32, 64]."
        )
    layers: list[Part] = []
    for stage, size in enumerate(channels):
        if stage:
            layers.append(max_pool2d(2))
        for _ in range(2):
            layers += [
                conv2d(in_channels, size, kernel_size, padding="same"),
                activation,
            ]
            in_channels = size
    layers.append(_mean_over_space)
    if dropout != 0:
        layers.append(dropout_layer(dropout))
    return sequential(*layers, linear(in_channels, out_features))


def _mean_over_space(x: Tensor) -> Tensor:
    return x.mean((-2, -1))


def _check_sizes(function: str, name: str, sizes: Sequence[int]) -> None:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise TypeError(
            f"nn.{function}: {name}: expected a sequence of sizes, got "
            f"{type(sizes).__name__}. Write [{sizes}] for one."
        )
    for size in sizes:
        _checks.size(function, name, size)
