# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning by a change of low rank."""

from __future__ import annotations

import math
from typing import Any, overload

from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.nn import _checks, init
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
def lora(
    layer: Part, rank: int, *, alpha: float | None = None, where: Where = "*weight"
) -> Layer: ...
@overload
def lora(
    layer: AnyPart, rank: int, *, alpha: float | None = None, where: Where = "*weight"
) -> Layer | StatefulLayer: ...
def lora(
    layer: AnyPart, rank: int, *, alpha: float | None = None, where: Where = "*weight"
) -> Layer | StatefulLayer:
    """The layer with `alpha / rank * b @ a` added to weights: low-rank adaptation.

    The params are `{"base": params, "lora": adapters}`. `params` are those of `layer`;
    `adapters` is a tree of their structure, with `{"a": ..., "b": ...}` in the place of
    each chosen weight and `()` in that of any other leaf. To train the adapters alone,
    differentiate with respect to `params["lora"]`, as below, or freeze the rest with
    `optim.freeze(optimizer, "base.*")`. `merge` computes the params of `layer`.

    `a` begins as the weight of a linear layer of torch does, `b` at zero: at first the
    layer does what `layer` does. A weight of more than 2 axes counts as a matrix of its
    first axis times all others: `(out, in * kernel)` of a convolution. Put `lora`
    inside `repeat`, whose first axis is that of the copies.

    Every call forms the adapted weights, and a gradient theirs; optimizer states and
    gradients are kept for the adapters alone. There is no dropout in front of `a`.

    Args:
        layer: a layer, stateful or not, also one of `from_module`.
        rank: columns of `b` and rows of `a`.
        alpha: the change is multiplied by `alpha / rank`; by default by 1.
        where: which leaves are adapted: a pattern over dotted paths as in
            `tree.select`, or `predicate(path, leaf)`. Those of fewer than 2 axes stay.

    Returns:
        A layer, stateful if `layer` is.
        Its `init(key)` draws the base, too. With `init(key, base=made)` it begins with
        what `layer.init` or a training returned: params, or `(params, state)` of a
        stateful layer. `init` raises `ValueError` if no leaf is chosen or one is
        smaller than `rank`, `TypeError` for a `base` of another kind; `apply` raises
        `ValueError` if the params are others.

    Raises:
        ValueError: `rank` is below 1, or `alpha` not above 0.
        TypeError: `rank` is no integer, `alpha` no number, `where` neither pattern nor
            predicate, or `layer` no layer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.linear(2, 3)
        >>> adapted = fl.nn.lora(layer, rank=1)
        >>> pretrained = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
        >>> params = adapted.init(fl.random.key(0), base=pretrained)
        >>> adapted.apply(params, torch.tensor([2.0, 5.0]))
        tensor([7., 7., 7.])
        >>> def loss(adapters, base, x):
        ...     return adapted.apply({"base": base, "lora": adapters}, x).sum()
        >>> adapters = {"weight": {"a": torch.ones(1, 2), "b": torch.zeros(3, 1)}}
        >>> adapters["bias"] = ()
        >>> grads = fl.grad(loss)(adapters, params["base"], torch.tensor([2.0, 5.0]))
        >>> grads["weight"]["b"].flatten(), grads["bias"]
        (tensor([7., 7., 7.]), ())

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021),
    equation 3 and section 4.1, arXiv 2106.09685.
    """
    _checks.size("lora", "rank", rank)
    factor = _factor(alpha, rank)
    check_where("lora", where)

    def start(key: Tensor, base: Any) -> Any:
        paths = chosen("lora", where, base)
        keys = dict(zip(paths, random.split(key, len(paths)).unbind(), strict=True))

        def adapter(path: str, leaf: Tensor) -> Any:
            if path not in keys:
                return ()
            _check_rank(path, leaf, rank)
            # The distribution of torch.nn.Linear's weight.
            draw, columns = init.kaiming_uniform(a=math.sqrt(5.0)), _columns(leaf)
            a = draw(keys[path], (rank, columns), leaf.dtype)
            return {"a": a, "b": a.new_zeros(leaf.shape[0], rank)}

        return tree.map_with_path(adapter, base)

    def adapted(before: Tensor, more: Any) -> Tensor | None:
        if not isinstance(more, dict) or set(more) != {"a", "b"}:
            return None
        a, b = more["a"], more["b"]
        expected = (rank, _columns(before)), (before.shape[0], rank)
        if (getattr(a, "shape", None), getattr(b, "shape", None)) != expected:
            return None
        # Adapters may be of a higher precision than the weights.
        return before + ((factor * b) @ a).reshape(before.shape).to(before.dtype)

    inner = inner_apply("lora", layer)
    return reparametrized(layer, Reparametrized("lora", "lora", inner, adapted), start)


def _factor(alpha: Any, rank: int) -> float:
    if alpha is None:
        return 1.0
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise TypeError(
            f"nn.lora: alpha: expected a number, got {type(alpha).__name__}. "
            "Configuration is given when the layer is made."
        )
    if not alpha > 0:
        raise ValueError(
            f"nn.lora: alpha: expected a number above 0, got {alpha}. Leave it out for "
            "a factor of 1."
        )
    return alpha / rank


def _columns(leaf: Tensor) -> int:
    return math.prod(leaf.shape[1:])


def _check_rank(path: str, leaf: Tensor, rank: int) -> None:
    most = min(leaf.shape[0], _columns(leaf))
    if rank > most:
        raise ValueError(
            f"nn.lora: rank: expected at most {most}, the rank of {path} of shape "
            f"{tuple(leaf.shape)}, got {rank}. Choose a lower rank, or other leaves "
            "with where=."
        )
