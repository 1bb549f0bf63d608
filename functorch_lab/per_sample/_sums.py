# SPDX-License-Identifier: Apache-2.0
"""Sums of the gradients of samples, each with a weight of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.per_sample._uses import chosen
from functorch_lab.transforms._flat import kind_of


@_checks.curried
def weighted_sum(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """`sum_i weights[i] gradient[i]` over the samples.

    The gradients are not formed. The options are those of `grads`.

    Returns:
        The function `weighted_sum_fn(params, *batch, weights, keys=None, mask=None)`,
        called as that of `grads`; `weights` is `(B,)`, of any real dtype. It returns a
        tree like params, float32 or better, with `()` at leaves that are not
        differentiated; with `has_aux`, `(sum, aux)`. Masked samples count nothing,
        whatever their weight. A weight of zero does not: a gradient that is not
        finite makes the sum so; `clipped_sum` leaves such samples out.

    Raises:
        TypeError: as `grads`; the weights are no tensor of real numbers.
        ValueError: as `grads`; there is not one weight for each sample.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> total = per_sample.weighted_sum(lambda w, x: (w * x).sum())
        >>> x = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
        >>> total(torch.ones(2), x, weights=torch.tensor([2.0, -1.0]))
        tensor([5., 6.])
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("weighted_sum", loss_fn, options)

    def weighted_sum_fn(
        params: Any,
        *batch: Any,
        weights: Tensor | None = None,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        size = _checks.batch("weighted_sum", batch, keys, mask)
        weights = _checked(weights, size)
        rest = iter(weights.split(chunk_size or size))

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            each = next(rest)
            if part.mask is not None:
                each = chosen(part.mask, each)
            sums = [factor.weighted_sum(each) for factor in part.factors]
            return (), selected.tree(sums)

        _, total, aux = run(
            "weighted_sum", loss_fn, options, params, batch, keys, mask, contract
        )
        return (total, aux) if has_aux else total

    return weighted_sum_fn


def _checked(weights: object, size: int) -> Tensor:
    if not isinstance(weights, Tensor) or weights.is_complex():
        raise TypeError(
            f"per_sample.weighted_sum: weights: expected a tensor of {size} real "
            f"numbers, got {kind_of(weights)}. Write weights=torch.tensor(weights)."
        )
    if tuple(weights.shape) != (size,):
        raise ValueError(
            f"per_sample.weighted_sum: weights: expected shape ({size},), one for each "
            f"sample, got {tuple(weights.shape)}. Check how they are made."
        )
    return weights
