# SPDX-License-Identifier: Apache-2.0
"""Second moment and variance of the gradients of a batch, number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.per_sample._factor import Factor
from functorch_lab.per_sample._frame import wide
from functorch_lab.per_sample._uses import per_axis


@_checks.curried
def second_moment(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The mean over the samples of the squares of their gradients' numbers.

    It is the diagonal of the empirical Fisher matrix when the loss is a negative
    log-likelihood. Where a parameter multiplies at one position it is a product of the
    squares of the factors; for more positions gradients are formed of as many samples
    at a time as a buffer of 64 MiB holds, one at least. The options are those of
    `grads`.

    Returns:
        The function `second_moment_fn(params, *batch, keys=None, mask=None)`, called as
        that of `grads`. It returns a tree like params, float32 or better, with `()` at
        leaves that are not differentiated; with `has_aux`, `(moment, aux)`. Masked
        samples do not count; if all are masked it is zero.

    Raises:
        TypeError: as `grads`.
        ValueError: as `grads`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> moment = per_sample.second_moment(lambda w, x: (w * x).sum())
        >>> moment(torch.ones(2), torch.tensor([[3.0, 4.0], [1.0, 2.0]]))
        tensor([ 5., 10.])

    Source: Dangel, Kunstner, Hennig, "BackPACK: Packing more into Backprop", 2020,
    Appendix A.1, arXiv:1912.10985.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("second_moment", loss_fn, options)

    def second_moment_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            return (), selected.tree([factor.square_sum() for factor in part.factors])

        _, total, aux = run(
            "second_moment", loss_fn, options, params, batch, keys, mask, contract
        )
        count = len(tree.leaves(batch)[0]) if mask is None else mask.sum().clamp(min=1)
        moment = tree.map(lambda leaf: leaf / count, total)
        return (moment, aux) if has_aux else moment

    return second_moment_fn


@tree.dataclass
class Spread:
    """Mean and summed squared deviations of some samples, as trees like params."""

    count: Tensor
    mean: Any
    squares: Any


@_checks.curried
def variance(
    loss_fn: Callable[..., Any],
    *,
    correction: int = 1,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The variance over the samples of each number of their gradients.

    Deviations from the mean are squared, not squares subtracted, whose difference
    cancels where the mean dominates; chunks are merged by their means. The one
    exception: for float32 factors at one position, where the product of squares saves
    forming the gradients, the two terms are subtracted in float64, and seven digits
    are left where the mean is ten thousand times the deviation.

    Args:
        loss_fn: as for `grads`.
        correction: the sum of squares is divided by the number of samples less this;
            1 makes the estimate unbiased, as in `torch.var`.
        wrt: as for `grads`.
        method: as for `grads`.
        chunk_size: as for `grads`.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        The function `variance_fn(params, *batch, keys=None, mask=None)`, called as that
        of `grads`. It returns a tree like params, float32 or better, with `()` at
        leaves that are not differentiated; with `has_aux`, `(variance, aux)`. Masked
        samples do not count. Where no more samples are left than `correction`, it
        is nan, as that of `torch.var`.

    Raises:
        TypeError: as `grads`; the correction is no int.
        ValueError: as `grads`; the correction is negative.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> variance = per_sample.variance(lambda w, x: (w * x).sum())
        >>> variance(torch.ones(2), torch.tensor([[3.0, 4.0], [1.0, 8.0]]))
        tensor([2., 8.])

    Source: the merging is that of Chan, Golub, LeVeque, "Algorithms for Computing the
    Sample Variance: Analysis and Recommendations", 1983, equations 1.5,
    doi:10.1080/00031305.1983.10483115.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("variance", loss_fn, options)
    _check_correction(correction)

    def variance_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        leaves: Any = None

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            nonlocal leaves
            leaves = selected.tree(selected.leaves)
            real = torch.ones_like(part.values) if part.mask is None else part.mask
            count = real.sum(dtype=wide(part.values).dtype)
            pairs = [spread(factor, count, part.mask) for factor in part.factors]
            mean = selected.tree([mean for mean, _ in pairs])
            return (), Spread(count, mean, selected.tree([s for _, s in pairs]))

        _, every, aux = run(
            "variance", loss_fn, options, params, batch, keys, mask, contract, _merged
        )
        freedom = (every.count - correction).clamp(min=0)
        found = tree.map(
            lambda squares, leaf: (squares / freedom).to(
                torch.promote_types(leaf.dtype, torch.float32)
            ),
            every.squares,
            leaves,
        )
        return (found, aux) if has_aux else found

    return variance_fn


def spread(factor: Factor, count: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean of a leaf's gradients, and the sum of their squared deviations."""
    some = count.clamp(min=1)
    kept = tree.leaves(factor)[-1]
    if factor.is_thin() and kept.dtype != torch.float64 and kept.device.type != "mps":
        exact = tree.map(_double, factor)
        mean, total = exact.weighted_sum() / some, exact.square_sum()
        return mean, (total - count * mean.square()).clamp(min=0)
    mean = factor.weighted_sum() / some
    squares = torch.zeros_like(mean)
    begin = 0
    for block in factor.materialized_blocks():
        deviations = (block - mean).square()
        if mask is not None:
            kept = mask[begin : begin + len(block)]
            deviations = deviations * per_axis(kept, deviations)
        squares = squares + deviations.sum(0)
        begin += len(block)
    return mean, squares


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _merged(a: Spread, b: Spread) -> Spread:
    """Of the samples of both."""
    count = a.count + b.count
    share = b.count / count.clamp(min=1)
    step = tree.map(torch.sub, b.mean, a.mean)
    mean = tree.map(lambda x, d: x + d * share, a.mean, step)
    squares = tree.map(
        lambda x, y, d: x + y + d.square() * (a.count * share),
        a.squares,
        b.squares,
        step,
    )
    return Spread(count, mean, squares)


def _check_correction(correction: object) -> None:
    if not isinstance(correction, int):
        raise TypeError(
            "per_sample.variance: correction: expected an int, got "
            f"{type(correction).__name__}. Pass 1 for the unbiased estimate."
        )
    if correction < 0:
        raise ValueError(
            f"per_sample.variance: correction: expected at least 0, got {correction}. "
            "Pass 1 for the unbiased estimate."
        )
