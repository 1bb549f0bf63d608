# SPDX-License-Identifier: Apache-2.0
"""Means and centred squares of the gradients of a set of samples.

Centred squares are merged, not squares, whose difference cancels: Chan, Golub and
LeVeque, Algorithms for Computing the Sample Variance (1983), equations 1.5,
doi:10.1080/00031305.1983.10483115.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample._call import Part, Selected
from functorch_lab.per_sample._quantiles import BINS, histogram
from functorch_lab.per_sample._variance import spread


@tree.dataclass
class Moments:
    """What is kept of a set of samples whose gradients are at the same params.

    Attributes:
        samples: how many.
        loss: their mean loss.
        loss_squares: sum of the squared deviations from it.
        norm: the mean norm of their gradients.
        norm_squares: sum of the squared deviations from it.
        histogram: of the norms.
        gradient: the mean gradient, a tree like params.
        direction: the mean of the gradients scaled to norm 1.
        squares: for each leaf the sum of `|gradient - mean|^2`.
        each_squares: the same for each parameter; `()` unless it is asked for.
    """

    samples: Tensor
    loss: Tensor
    loss_squares: Tensor
    norm: Tensor
    norm_squares: Tensor
    histogram: Tensor
    gradient: Any
    direction: Any
    squares: Any
    each_squares: Any


def precise(device: torch.device) -> torch.dtype:
    """The dtype of sums that are one number: float64, where there is one."""
    return torch.float32 if device.type == "mps" else torch.float64


def no_moments(selected: Selected, *, each: bool) -> Moments:
    """Of no samples."""
    leaf = selected.leaves[0]
    zero = torch.zeros((), dtype=precise(leaf.device), device=leaf.device)

    def zeros() -> Any:
        return selected.tree(
            [torch.zeros_like(leaf, dtype=_wide(leaf)) for leaf in selected.leaves]
        )

    loss, loss_squares, norm, norm_squares = [zero.clone() for _ in range(4)]
    return Moments(
        zero,
        loss,
        loss_squares,
        norm,
        norm_squares,
        zero.new_zeros(BINS),
        zeros(),
        zeros(),
        selected.tree([zero.clone() for _ in selected.leaves]),
        zeros() if each else (),
    )


def moments(part: Part, selected: Selected, *, each: bool) -> Moments:
    """Of the samples of one chunk."""
    kind = precise(part.values.device)
    mask = part.mask
    keep = (torch.ones_like(part.values) if mask is None else mask).to(kind)
    samples = keep.sum()
    count = samples.clamp(min=1)
    leaf_squares = [factor.squared_norm() for factor in part.factors]
    norms = torch.stack([square.to(kind) for square in leaf_squares]).sum(0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)

    def several(squares: Tensor) -> Tensor:  # one deviates by nothing, not by rounding
        return torch.where(samples > 1, squares.clamp(min=0), 0.0)

    gradient, direction, squares, grown = [], [], [], []
    for leaf, factor, found in zip(
        selected.leaves, part.factors, leaf_squares, strict=True
    ):
        wide = _wide(leaf)
        share = 1 / count.to(wide)
        mean = factor.weighted_sum().to(wide) * share
        gradient.append(mean)
        direction.append(factor.weighted_sum(inverse.to(found.dtype)).to(wide) * share)
        if each:
            _, deviations = spread(factor, samples.to(wide), mask)
            grown.append(several(deviations.to(wide)))
            squares.append(several(deviations.to(kind).sum()))
        else:
            centred = found.to(kind).sum() - samples * square_sum(mean)
            squares.append(several(centred))
    loss, loss_squares = _centred(part.values.to(kind), keep)
    norm, norm_squares = _centred(norms, keep)
    return Moments(
        samples,
        loss,
        loss_squares,
        norm,
        norm_squares,
        histogram(norms, keep),
        selected.tree(gradient),
        selected.tree(direction),
        selected.tree(squares),
        selected.tree(grown) if each else (),
    )


def _wide(leaf: Tensor) -> torch.dtype:
    """The dtype of sums for each parameter."""
    return torch.promote_types(leaf.dtype, torch.float32)


def _centred(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of the squared deviations from it, of values that are kept."""
    mean = (values * keep).sum() / keep.sum().clamp(min=1)
    return mean, ((values - mean).square() * keep).sum()


def square_sum(leaf: Tensor) -> Tensor:
    """`|leaf|^2`."""
    return leaf.to(precise(leaf.device)).square().sum()


def merged(a: Moments, b: Moments) -> Moments:
    """Of the samples of both."""
    samples = a.samples + b.samples
    share = b.samples / samples.clamp(min=1)
    between = a.samples * share

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return a + (b - a) * share.to(a.dtype)

    def squares(a: Tensor, b: Tensor, gap: Tensor) -> Tensor:
        return a + b + gap * between.to(gap.dtype)

    step = tree.map(torch.sub, b.gradient, a.gradient)
    grown: Any = ()
    if tree.leaves(a.each_squares):
        apart = tree.map(torch.square, step)
        grown = tree.map(squares, a.each_squares, b.each_squares, apart)
    return Moments(
        samples,
        mean(a.loss, b.loss),
        squares(a.loss_squares, b.loss_squares, (b.loss - a.loss).square()),
        mean(a.norm, b.norm),
        squares(a.norm_squares, b.norm_squares, (b.norm - a.norm).square()),
        a.histogram + b.histogram,
        tree.map(mean, a.gradient, b.gradient),
        tree.map(mean, a.direction, b.direction),
        tree.map(squares, a.squares, b.squares, tree.map(square_sum, step)),
        grown,
    )
