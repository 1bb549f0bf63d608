# SPDX-License-Identifier: Apache-2.0
"""Inner products of each sample's gradient with one tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab import tree as trees
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.transforms._flat import is_differentiable, kind_of


@_checks.curried
def inner_products(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The inner product of each sample's gradient with one tree.

    With a validation gradient as the tree, it tells by how much a small step along a
    sample's gradient would lower the validation loss; with an update, how much of it
    each sample asked for. No per-sample gradient is formed.

    Args:
        loss_fn: as for `grads`.
        wrt: as for `grads`.
        method: as for `grads`.
        chunk_size: as for `grads`.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        The function `products_fn(params, *batch, tree, keys=None, mask=None)`, called
        as that of `grads`, which returns `(B,)` in float32 or better, or
        `(products, aux)` with `has_aux`. `tree` is like params, with the shapes of its
        leaves. A leaf that is not differentiated does not count, nor one for which
        `tree` has a hole `()`. Masked samples have product zero.

    Raises:
        TypeError: as `grads`; a leaf of `tree` is no floating-point tensor.
        ValueError: as `grads`; `tree` is built otherwise than params, has a leaf of
            another shape, or holes at all leaves that are differentiated.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda p, x: (p["w"] * x).sum() + 2 * p["b"]
        >>> params = {"w": torch.ones(2), "b": torch.tensor(1.0)}
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
        >>> v = {"w": torch.tensor([1.0, -1.0]), "b": torch.tensor(10.0)}
        >>> per_sample.inner_products(loss_fn)(params, x, tree=v)
        tensor([19., 15.])

    Source: Pruthi, Liu, Kale, Sundararajan, "Estimating Training Data Influence by
    Tracing Gradient Descent", 2020, arXiv:2002.08484, where such
    products, added up along the training, are the influence of samples on a loss.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("inner_products", loss_fn, options)

    def products_fn(
        params: Any,
        *batch: Any,
        tree: Any = None,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        marks = _leaves(params, tree)

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            pairs = zip(part.factors, selected.numbers, strict=True)
            products = [
                factor.inner(marks[number])
                for factor, number in pairs
                if isinstance(marks[number], Tensor)
            ]
            if not products:
                paths = [trees.paths(params)[number] for number in selected.numbers]
                raise ValueError(
                    "per_sample.inner_products: tree: expected a leaf for one that is "
                    f"differentiated, got holes at {', '.join(paths)}. Leave wrt out, "
                    "or choose leaves that tree has."
                )
            return sum(products[1:], products[0]), ()

        found, _, aux = run(
            "inner_products", loss_fn, options, params, batch, keys, mask, contract
        )
        return (found, aux) if has_aux else found

    return products_fn


def _leaves(params: Any, tree: Any) -> list[Any]:
    """What the tree has at each leaf of params: a tensor of its shape, or a hole."""
    where = "per_sample.inner_products: tree"
    marks = trees.structure(params).along(tree)
    if marks is None:
        trees.check_same_structure(
            params,
            tree,
            what="per_sample.inner_products",
            names=("params", "tree"),
            remedy="Pass a tree like params; a hole is ().",
            check_dtype=False,
        )
        marks = trees.leaves(tree)
    triples = zip(trees.paths(params), trees.leaves(params), marks, strict=True)
    for path, leaf, mark in triples:
        if isinstance(mark, tuple) and not mark:
            continue
        if not isinstance(mark, Tensor) or (
            is_differentiable(leaf) and not is_differentiable(mark)
        ):
            raise TypeError(
                f"{where}: expected a floating-point tensor, got {kind_of(mark)} at "
                f"{path}. Pass a tree like params; a hole is ()."
            )
        if mark.shape != leaf.shape:
            raise ValueError(
                f"{where}: expected shape {tuple(leaf.shape)}, got "
                f"{tuple(mark.shape)} at {path}. Pass a tree like params."
            )
    return marks
