# SPDX-License-Identifier: Apache-2.0
"""One gradient for each sample, and what one learns from it."""

from functorch_lab.per_sample._factor import Factor
from functorch_lab.per_sample._gradients import factors, grads, value_and_grad
from functorch_lab.per_sample._norms import norms
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused

__all__ = [
    "DensePair",
    "Direct",
    "Factor",
    "IndexPair",
    "Unused",
    "factors",
    "grads",
    "norms",
    "value_and_grad",
]
