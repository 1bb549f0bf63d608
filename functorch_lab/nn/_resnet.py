# SPDX-License-Identifier: Apache-2.0
"""Residual networks of basic blocks, with the structure and names of torchvision's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from functorch_lab.nn import _checks, _space, init
from functorch_lab.nn._activations import relu
from functorch_lab.nn._batch_norm import batch_norm
from functorch_lab.nn._compose import compose
from functorch_lab.nn._conv import conv2d
from functorch_lab.nn._linear import linear
from functorch_lab.nn._norm_groups import group_norm, groups_for
from functorch_lab.nn._pool import max_pool2d
from functorch_lab.nn._sequential import sequential
from functorch_lab.types import Layer, StatefulLayer

Norm = Literal["batch", "group"] | Callable[[int], Any]
AnyLayer = Layer | StatefulLayer


def resnet(
    blocks: Sequence[int],
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    width: int = 64,
    small_images: bool = False,
    norm: Norm = "batch",
) -> Layer | StatefulLayer:
    """A residual network: from `(..., in_channels, H, W)` to `(..., num_classes)`.

    A convolution, stages of residual blocks, the mean over space, and a linear layer.
    A block is two 3x3 convolutions, each with a norm, beside a shortcut; every stage
    but the first begins by halving height and width and doubling the channels. Params,
    their names and initial distributions are those of torchvision's networks of basic
    blocks: "layer2.0.bn1.weight" there is `params["layer2"][0]["bn1"]["weight"]` here,
    and so is the state of batch norm.

    Args:
        blocks: how many blocks each stage has: (2, 2, 2, 2) is ResNet-18, and
            (3, 4, 6, 3) is ResNet-34.
        num_classes: the size of the output's last axis.
        in_channels: of the images.
        width: the channels of the first stage.
        small_images: whether the first convolution is 3x3 with stride 1, as for images
            of 32x32; otherwise it is 7x7 with stride 2, and a max pooling with stride 2
            follows.
        norm: what follows each convolution: "batch", whose statistics make the network
            a stateful layer; "group", `group_norm` with 32 groups (fewer where 64 does
            not divide the channels: the largest divisor that leaves two in each), which
            treats every sample alone; or a function from a number of channels to a
            layer for `(..., channels, H, W)`.

    Returns:
        A layer, stateful if its norms are.
        Its `apply` raises `ValueError` for images of other channels, for params or a
        state of another model, and, with "batch" in training, for one sample, samples
        of a `vmap`, or a batch of one value per channel in the last stage; and
        `TypeError` for images that are not floating-point or differ from the params in
        dtype or device.

    Raises:
        ValueError: a size below 1, no stage, or an unknown `norm`.
        TypeError: a size that is no integer, `blocks` that are no sequence, or a `norm`
            that is neither a name nor a function that returns a layer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.resnet((1, 1), 5, width=2, small_images=True)
        >>> params, state = model.init(fl.random.key(0))
        >>> params["layer2"][0]["downsample"][0]["weight"].shape
        torch.Size([4, 2, 1, 1])
        >>> y, state = model.apply(params, state, torch.ones(3, 3, 8, 8), train=True)
        >>> y.shape, state["bn1"]["num_batches_tracked"]
        (torch.Size([3, 5]), tensor(1))

    Source: He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition (2015),
    table 1, its shortcuts by projection option B, arXiv 1512.03385.
    """
    return _resnet(
        "resnet", blocks, (num_classes, in_channels, width), small_images, norm
    )


def resnet18(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    width: int = 64,
    small_images: bool = False,
    norm: Norm = "batch",
) -> Layer | StatefulLayer:
    """ResNet-18: `resnet` with four stages of two blocks.

    `resnet` says what the options mean and what is raised.

    Example:
        >>> import functorch_lab as fl
        >>> model = fl.nn.resnet18(10, in_channels=1, width=4, norm="group")
        >>> params = model.init(fl.random.key(0))
        >>> fl.tree.size(params["conv1"]), fl.tree.size(params["fc"])  # 4*7*7, 33*10
        (196, 330)
    """
    sizes = num_classes, in_channels, width
    return _resnet("resnet18", (2, 2, 2, 2), sizes, small_images, norm)


def _resnet(
    name: str,
    blocks: Sequence[int],
    sizes: tuple[int, int, int],
    small_images: bool,
    norm: Norm,
) -> Layer | StatefulLayer:
    """`sizes` are num_classes, in_channels and width."""
    _check_blocks(name, blocks)
    labels = ("num_classes", "in_channels", "width")
    num_classes, in_channels, width = (
        _checks.size(name, label, size)
        for label, size in zip(labels, sizes, strict=True)
    )
    make_norm = _norm_of(name, norm)
    kernel, stride = (3, 1) if small_images else (7, 2)
    parts: dict[str, AnyLayer] = {
        "conv1": _conv(in_channels, width, kernel, stride),
        "bn1": make_norm(width),
    }
    pool = max_pool2d(3, stride=2, padding=1)
    inputs, stages = width, [f"layer{i + 1}" for i in range(len(blocks))]
    for i, (stage, number) in enumerate(zip(stages, blocks, strict=True)):
        outputs, stride = width * 2**i, 2 if i else 1
        first = _block(inputs, outputs, stride, make_norm)
        others = [_block(outputs, outputs, 1, make_norm) for _ in range(number - 1)]
        parts[stage] = sequential(first, *others)
        inputs = outputs
    parts["fc"] = linear(inputs, num_classes)
    halvings = len(blocks) - 1 + (0 if small_images else 2)

    def forward(m: Any, x: Tensor) -> Tensor:
        _space.check(name, x, 2, in_channels)
        if m.train and norm == "batch":
            _check_batch(name, x, in_channels, halvings)
        y = relu(m.bn1(m.conv1(_space.channels_last(x))))
        if not small_images:
            y = pool.apply((), y)
        for stage in stages:
            y = getattr(m, stage)(y)
        return m.fc(y.mean((-2, -1)))

    return compose(forward, **parts)


def _block(
    inputs: int, outputs: int, stride: int, make_norm: Callable[[int], AnyLayer]
) -> AnyLayer:
    """Two convolutions beside a shortcut, which follows their change of shape."""
    parts: dict[str, AnyLayer] = {
        "conv1": _conv(inputs, outputs, 3, stride),
        "bn1": make_norm(outputs),
        "conv2": _conv(outputs, outputs, 3, 1),
        "bn2": make_norm(outputs),
    }
    projects = stride != 1 or inputs != outputs
    if projects:
        projection = _conv(inputs, outputs, 1, stride)
        parts["downsample"] = sequential(projection, make_norm(outputs))

    def forward(m: Any, x: Tensor) -> Tensor:
        y = relu(m.bn1(m.conv1(x)))
        y = m.bn2(m.conv2(y))
        return relu(y + (m.downsample(x) if projects else x))

    return compose(forward, **parts)


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> Layer:
    return conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=False,
        weight_init=init.kaiming_normal(mode="fan_out", nonlinearity="relu"),
    )


def _norm_of(name: str, norm: Any) -> Callable[[int], AnyLayer]:
    """From a number of channels to the norm after a convolution.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a function that returns a layer.
    """
    expected = f'nn.{name}: norm: expected "batch", "group" or a function of a number'
    remedy = "Write for example `lambda n: nn.instance_norm(n, spatial_dims=2)`."
    layer_kinds = (Layer, StatefulLayer)
    makers: dict[Any, Callable[[int], Any]] = {
        "batch": lambda n: batch_norm(n, spatial_dims=2),
        "group": lambda n: group_norm(groups_for(n), n, spatial_dims=2),
    }
    if isinstance(norm, str) and norm not in makers:
        raise ValueError(f"{expected} of channels, got {norm!r}. {remedy}")
    if not isinstance(norm, str) and (
        isinstance(norm, layer_kinds) or not callable(norm)
    ):
        got = type(norm).__name__
        raise TypeError(f"{expected} of channels, got {got}. {remedy}")
    maker = makers[norm] if isinstance(norm, str) else norm

    def make(channels: int) -> AnyLayer:
        layer = maker(channels)
        if not isinstance(layer, layer_kinds):
            got = f"one that returns {type(layer).__name__}"
            raise TypeError(f"{expected} of channels to a layer, got {got}. {remedy}")
        return layer

    return make


def _check_blocks(name: str, blocks: Sequence[int]) -> None:
    """`blocks` has a number of blocks for each stage.

    Raises:
        TypeError: it is no sequence of integers.
        ValueError: it is empty, or one is below 1.
    """
    if not isinstance(blocks, Sequence) or isinstance(blocks, str):
        raise TypeError(
            f"nn.{name}: blocks: expected a sequence of numbers, got "
            f"{type(blocks).__name__}. Give one for each stage, such as (2, 2, 2, 2)."
        )
    if not blocks:
        raise ValueError(
            f"nn.{name}: blocks: expected at least one stage, got none. Give a number "
            "of blocks for each, such as (2, 2, 2, 2)."
        )
    for number in blocks:
        _checks.size(name, "blocks", number)


def _check_batch(name: str, x: Tensor, in_channels: int, halvings: int) -> None:
    """`x` is a batch that has statistics in the last stage too.

    Raises:
        ValueError: it is one sample, or has one value per channel there.
    """
    alone = f'train=False, or nn.{name}(norm="group"), which treats samples alone.'
    if x.ndim == 3:
        raise ValueError(
            f"nn.{name}: x: expected a batch, of shape (batch, {in_channels}, height, "
            f"width), with train=True, got one sample, {tuple(x.shape)}. Give a batch, "
            f"or use {alone}"
        )
    pixels = [-(-n // 2**halvings) for n in x.shape[-2:]]
    if math.prod([*x.shape[:-3], *pixels]) < 2:
        raise ValueError(
            f"nn.{name}: x: expected more than one value per channel after "
            f"{halvings} halvings of height and width, with train=True, got shape "
            f"{tuple(x.shape)}. Give a larger batch or larger images, or use {alone}"
        )
