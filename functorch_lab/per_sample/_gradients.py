# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients themselves: as factors, as tensors, as their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run


def factors(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The gradient of each sample's loss in factored form."""
    options = Options(wrt, method, None, has_aux, keep_batch_axis)
    _checks.options("factors", loss_fn, options)

    def factors_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            return selected.tree(part.factors), ()

        found, _, aux = run(
            "factors", loss_fn, options, params, batch, keys, mask, contract
        )
        return (found, aux) if has_aux else found

    return factors_fn


def grads(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The gradient of each sample's loss: a tree like params with `(B, *leaf)` leaves."""
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("grads", loss_fn, options)

    def grads_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        found, _, aux = run(
            "grads", loss_fn, options, params, batch, keys, mask, _materialized
        )
        return (found, aux) if has_aux else found

    return grads_fn


def _materialized(part: Part, selected: Selected) -> tuple[Any, Any]:
    pairs = zip(part.factors, selected.leaves, strict=True)
    return selected.tree([f.materialize().to(leaf.dtype) for f, leaf in pairs]), ()


def value_and_grad(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """Losses, norms and the mean gradient in one backward pass."""
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("value_and_grad", loss_fn, options)

    def value_and_grad_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            square = sum([factor.squared_norm() for factor in part.factors])
            sums = [factor.weighted_sum() for factor in part.factors]
            return (part.values, torch.as_tensor(square).sqrt()), selected.tree(sums)

        pair, total, aux = run(
            "value_and_grad", loss_fn, options, params, batch, keys, mask, contract
        )
        count = pair[0].shape[0] if mask is None else mask.sum().clamp(min=1)
        mean = tree.map(
            lambda part, leaf: leaf if part is None else (part / count).to(leaf.dtype),
            total,
            _like(total, params),
        )
        return ((*pair, aux), mean) if has_aux else (pair, mean)

    return value_and_grad_fn


def _like(kept: Any, params: Any) -> Any:
    """The leaves of params at which `kept` has one."""
    structure = tree.structure(params)
    marks = structure.along(kept) or []
    pairs = zip(marks, tree.leaves(params), strict=True)
    return structure.unflatten([() if isinstance(m, tuple) else p for m, p in pairs])
