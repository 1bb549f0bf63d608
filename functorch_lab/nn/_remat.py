# SPDX-License-Identifier: Apache-2.0
"""Layers that keep little for the backward pass."""

from __future__ import annotations

from typing import overload

from functorch_lab.nn._stateful import AnyPart, Part, as_layer
from functorch_lab.transforms import checkpoint
from functorch_lab.types import Layer, StatefulLayer


@overload
def remat(layer: Part) -> Layer: ...
@overload
def remat(layer: AnyPart) -> Layer | StatefulLayer: ...
def remat(layer: AnyPart) -> Layer | StatefulLayer:
    """The layer; a gradient keeps its params and inputs, and computes the rest again.

    `functorch_lab.checkpoint` around `layer.apply`, which says where it takes effect:
    in the outermost `grad`, eager and under `jit`. Around each block of a model,
    `repeat(remat(block), n)`, the memory for activations is that of the blocks' inputs
    and of one block, for one more forward pass.

    Args:
        layer: a layer, stateful or not, or a plain function of one tensor.

    Returns:
        A layer with the params, and the state, of `layer`: the key is the same when it
        computes again, and so is the mask of dropout.

    Raises:
        TypeError: `layer` is neither a layer nor a function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> calls = []
        >>> def cube(x):
        ...     calls.append("cube")
        ...     return x * x * x
        >>> model = fl.nn.remat(cube)
        >>> fl.grad(lambda x: model.apply((), x))(torch.tensor(2.0)), len(calls)
        (tensor(12.), 2)

    Source: T. Chen, B. Xu, C. Zhang, C. Guestrin, Training Deep Nets with Sublinear
    Memory Cost, 2016, algorithm 1, arXiv 1604.06174.
    """
    if isinstance(layer, StatefulLayer):
        return StatefulLayer(layer.init, checkpoint(layer.apply))
    plain = as_layer("remat", "layer", layer)
    return Layer(plain.init, checkpoint(plain.apply))
