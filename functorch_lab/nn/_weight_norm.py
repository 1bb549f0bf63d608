# SPDX-License-Identifier: Apache-2.0
"""Weights by length and direction."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.nn._reparametrized import (
    Reparametrized,
    Where,
    check_where,
    chosen,
    inner_apply,
    reparametrized,
)
from functorch_lab.nn._stateful import AnyPart, Part
from functorch_lab.types import Layer, StatefulLayer


@overload
def weight_norm(
    layer: Part, *, dim: int | None = 0, where: Where = "*weight"
) -> Layer: ...
@overload
def weight_norm(
    layer: AnyPart, *, dim: int | None = 0, where: Where = "*weight"
) -> Layer | StatefulLayer: ...
def weight_norm(
    layer: AnyPart, *, dim: int | None = 0, where: Where = "*weight"
) -> Layer | StatefulLayer:
    """The layer with weights `g * v / |v|`: their lengths and directions are trained.

    The params are `{"base": params, "g": lengths}`. `params` are like those of
    `layer`, but only the direction of a chosen weight counts: it is `v`. `lengths` is a
    tree of their structure, with `g` in the place of each chosen weight and `()` in
    that of any other leaf. At first `g` is `|v|`, so that the layer does what `layer`
    does. `merge` computes the params of `layer`.

    A direction of zero length gives a weight of zero, which stays zero in training.

    Args:
        layer: a layer, stateful or not, also one of `from_module`.
        dim: the axis along which each entry has a length of its own: with 0 each output
            of `linear` and `conv2d`, with 1 each of `conv_transpose2d`. `None`: one
            length for the whole weight.
        where: which leaves: a pattern over dotted paths as in `tree.select`, or
            `predicate(path, leaf)`. Those of fewer than 2 axes stay.

    Returns:
        A layer, stateful if `layer` is.
        `g` has as many axes as its weight, of size 1 all but `dim`. `init(key)` draws
        the base; `init(key, base=made)` begins with what `layer.init` or a training
        returned: params, or `(params, state)` of a stateful layer. `init` raises
        `ValueError` if no leaf is chosen or one has no axis `dim`, `TypeError` for a
        `base` of another kind; `apply` raises `ValueError` if the params are others.

    Raises:
        TypeError: `dim` is no integer, `where` neither pattern nor predicate, or
            `layer` no layer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.linear(2, 1, bias=False)
        >>> normed = fl.nn.weight_norm(layer)
        >>> base = {"weight": torch.tensor([[3.0, 4.0]])}
        >>> params = normed.init(fl.random.key(0), base=base)
        >>> params["g"]
        {'weight': tensor([[5.]])}
        >>> params["g"]["weight"] = torch.tensor([[10.0]])
        >>> fl.nn.merge(normed, params)
        {'weight': tensor([[6., 8.]])}

    Source: Salimans and Kingma, Weight Normalization: A Simple Reparameterization to
    Accelerate Training of Deep Neural Networks (2016), equation 2, arXiv 1602.07868.
    """
    if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
        raise TypeError(
            f"nn.weight_norm: dim: expected an integer or None, got "
            f"{type(dim).__name__}. Choose an axis of the weight."
        )
    check_where("weight_norm", where)

    def start(key: Tensor, base: Any) -> Any:
        paths = chosen("weight_norm", where, base)

        def length(path: str, leaf: Tensor) -> Any:
            if path not in paths:
                return ()
            if dim is not None and not -leaf.ndim <= dim < leaf.ndim:
                raise ValueError(
                    f"nn.weight_norm: dim: expected an axis of {path} of shape "
                    f"{tuple(leaf.shape)}, got {dim}. Choose 0 for its outputs."
                )
            return _norm(leaf, dim)

        return tree.map_with_path(length, base)

    def weight(v: Tensor, g: Any) -> Tensor | None:
        norm = _norm(v, dim)
        if not isinstance(g, Tensor) or g.shape != norm.shape:
            return None
        return v * (g / torch.where(norm == 0, 1.0, norm))

    inner = inner_apply("weight_norm", layer)
    made = Reparametrized("weight_norm", "g", inner, weight)
    return reparametrized(layer, made, start)


def _norm(v: Tensor, dim: int | None) -> Tensor:
    """The length along all axes but one."""
    kept = None if dim is None else dim % v.ndim
    rest = [axis for axis in range(v.ndim) if axis != kept]
    return torch.linalg.vector_norm(v, dim=rest, keepdim=True)
