# SPDX-License-Identifier: Apache-2.0
"""Quantiles of norms, from counts in bins of equal width on a logarithmic scale.

The bins are always the same, so two histograms are merged by adding them, and what they
know of a quantile has a bounded relative error: Masson, Rim and Lee, DDSketch: A Fast
and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees (2019), section 2.1,
arXiv 1908.10693.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Norms from 2**-64 to 2**64. Below, squares underflow in float32; there, they overflow.
_LOWEST, _HIGHEST, _PER_OCTAVE = -64, 64, 32
# The first counts what is smaller, with the zeros, the last what is larger, with NaN.
BINS = (_HIGHEST - _LOWEST) * _PER_OCTAVE + 2


def histogram(norms: Tensor, weights: Tensor) -> Tensor:
    """How much weight, `(B,)`, falls in each bin, `(BINS,)`."""
    place = (torch.log2(norms) - _LOWEST) * _PER_OCTAVE + 1
    place = torch.nan_to_num(place, nan=BINS - 1).clamp(0, BINS - 1).long()
    zeros = torch.zeros(BINS, dtype=weights.dtype, device=weights.device)
    return zeros.scatter_add(0, place, weights)


def quantiles(counts: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The norms below which these shares of the samples lie; NaN without samples."""
    place = torch.arange(BINS, dtype=counts.dtype, device=counts.device)
    gamma = 2 ** (1 / _PER_OCTAVE)
    # As far from the lower end of its bin as from the upper, relative to either.
    values = torch.exp2((place - 1) / _PER_OCTAVE + _LOWEST) * (2 * gamma / (gamma + 1))
    values = torch.where(place == 0, 0.0, values)
    values = torch.where(place == BINS - 1, float("inf"), values)
    total = counts.sum()
    wanted = torch.tensor(shares, dtype=counts.dtype, device=counts.device)
    ranks = (wanted * (total - 1)).clamp(min=0)
    below = (counts.cumsum(0) <= ranks.unsqueeze(1)).sum(1).clamp(max=BINS - 1)
    return torch.where(total > 0, values[below], float("nan"))
