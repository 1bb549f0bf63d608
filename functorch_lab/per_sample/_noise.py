# SPDX-License-Identifier: Apache-2.0
"""Signal and noise of gradients, estimated without bias and divided last.

Every quantity is a ratio of two sums. The sums of several sets of samples are added,
and only then divided: a mean of ratios need not converge to the ratio of the means,
and does not where the denominator comes near zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample._moments import Moments, square_sum
from functorch_lab.per_sample._quantiles import quantiles


@tree.dataclass
class NoiseScale:
    """How much samples disagree about the gradient.

    Attributes:
        signal: an unbiased estimate of `|G|^2`, where `G` is the expected gradient. It
            is below zero where the noise hides the signal: take more samples.
        noise: an unbiased estimate of `tr(Sigma)`, the summed variance of the
            gradient's components between samples.
        scale: `noise / signal`, in samples: the batch size at which noise and signal
            of the batch's gradient are as large as one another.
    """

    signal: Tensor
    noise: Tensor
    scale: Tensor


@tree.dataclass
class Statistics:
    """What `per_sample.statistics` computes; every field a tensor or a tree of them.

    Where it says "leaf", the trees are like params, with `()` for what is not
    differentiated. NaN is what no sample, or for a variance one sample, can tell.

    Attributes:
        samples: how many there were, without those that a mask left out. With a decay,
            how many the weighted updates are worth.
        loss_mean: mean of the losses.
        loss_variance: their unbiased variance.
        norm_mean: mean of the gradients' norms.
        norm_variance: their unbiased variance.
        norm_quantiles: quantiles of the norms, for the given shares of the samples.
        mean_norm: the norm of the mean gradient. With a decay, the root of the mean
            square of those of the updates.
        noise: the noise scale of all differentiated parameters together.
        leaf_noise: a `NoiseScale` for each leaf.
        diversity: `sum |g|^2 / |sum g|^2` of the samples: 1 / samples if all gradients
            are equal, 1 if they are orthogonal to each other.
        cosine: the mean cosine between a sample's gradient and the mean gradient, which
            the sample is part of: `1 / sqrt(samples)` for gradients without signal. A
            gradient that is zero counts as cosine 0.
        gsnr: for each parameter the squared mean of its gradient over its variance;
            `()` unless it was asked for.
    """

    samples: Tensor
    loss_mean: Tensor
    loss_variance: Tensor
    norm_mean: Tensor
    norm_variance: Tensor
    norm_quantiles: Tensor
    mean_norm: Tensor
    noise: NoiseScale
    leaf_noise: Any
    diversity: Tensor
    cosine: Tensor
    gsnr: Any


@tree.dataclass
class Sums:
    """Numerators and denominators, which may be added over sets of samples.

    Attributes:
        samples: number of samples.
        degrees: number of samples less one: the weight of a variance.
        loss: sum of the losses.
        loss_squares: sum of squared deviations from the set's mean.
        norm: sum of the norms.
        norm_squares: sum of squared deviations from the set's mean.
        histogram: of the norms.
        signal: `degrees |G|^2`, estimated, for each leaf.
        noise: `degrees tr(Sigma)`, estimated, for each leaf.
        lengths: `sum |g|^2`.
        length: `|sum g|^2`.
        mean_square: `samples |mean g|^2`.
        cosine: sum of the cosines to the set's mean.
        each_signal: as `signal`, for each parameter; `()` unless asked for.
        each_noise: as `noise`, for each parameter; `()` unless asked for.
    """

    samples: Tensor
    degrees: Tensor
    loss: Tensor
    loss_squares: Tensor
    norm: Tensor
    norm_squares: Tensor
    histogram: Tensor
    signal: Any
    noise: Any
    lengths: Tensor
    length: Tensor
    mean_square: Tensor
    cosine: Tensor
    each_signal: Any
    each_noise: Any


def sums_of(found: Moments) -> Sums:
    """Of one set of samples."""
    samples = found.samples
    degrees = (samples - 1).clamp(min=0)
    count = samples.clamp(min=1)

    def signal(square: Tensor, noise: Tensor) -> Tensor:
        # |mean|^2 exceeds |G|^2 by the noise of a mean, tr(Sigma) / samples.
        kind = square.dtype
        return degrees.to(kind) * square - noise / count.to(kind)

    mean_squares = tree.map(square_sum, found.gradient)
    mean_square = _total(mean_squares)
    inner = _total(tree.map(_inner, found.gradient, found.direction))
    cosine = torch.where(mean_square > 0, inner / mean_square.sqrt(), 0.0)
    each: Any = ()
    if tree.leaves(found.each_squares):
        each = tree.map(
            lambda mean, noise: signal(mean.square(), noise),
            found.gradient,
            found.each_squares,
        )
    return Sums(
        samples,
        degrees,
        samples * found.loss,
        found.loss_squares,
        samples * found.norm,
        found.norm_squares,
        found.histogram,
        tree.map(signal, mean_squares, found.squares),
        found.squares,
        _total(found.squares) + samples * mean_square,
        samples.square() * mean_square,
        samples * mean_square,
        samples * cosine,
        each,
        found.each_squares,
    )


def statistics_of(
    found: Sums, shares: tuple[float, ...], gsnr_floor: float
) -> Statistics:
    """The ratios."""

    def ratio(signal: Tensor, noise: Tensor) -> NoiseScale:
        signal, noise = signal / found.degrees, noise / found.degrees
        return NoiseScale(signal, noise, noise / signal)

    def gsnr(signal: Tensor, noise: Tensor) -> Tensor:
        floor = gsnr_floor * noise.mean()
        value = signal / torch.maximum(noise, floor)
        # Neither signal nor noise: a parameter that no sample uses.
        value = torch.where((signal == 0) & (noise == 0), 0.0, value)
        return torch.where(found.degrees > 0, value, float("nan"))

    each: Any = ()
    if tree.leaves(found.each_noise):
        each = tree.map(gsnr, found.each_signal, found.each_noise)
    return Statistics(
        samples=found.samples,
        loss_mean=found.loss / found.samples,
        loss_variance=found.loss_squares / found.degrees,
        norm_mean=found.norm / found.samples,
        norm_variance=found.norm_squares / found.degrees,
        norm_quantiles=quantiles(found.histogram, shares),
        mean_norm=(found.mean_square / found.samples).sqrt(),
        noise=ratio(_total(found.signal), _total(found.noise)),
        leaf_noise=tree.map(ratio, found.signal, found.noise),
        diversity=found.lengths / found.length,
        cosine=found.cosine / found.samples,
        gsnr=each,
    )


def _total(node: Any) -> Tensor:
    return torch.stack(tree.leaves(node)).sum()


def _inner(a: Tensor, b: Tensor) -> Tensor:
    kind = square_sum(a).dtype
    return (a.to(kind) * b.to(kind)).sum()
