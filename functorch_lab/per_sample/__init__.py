# SPDX-License-Identifier: Apache-2.0
"""One gradient for each sample, and what one learns from it."""

from functorch_lab.per_sample._accumulator import Accumulator
from functorch_lab.per_sample._clip import Clipped, ClippedSum, clipped_sum
from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._difficulty import Difficulty, difficulty
from functorch_lab.per_sample._explain import Explanation, explain
from functorch_lab.per_sample._factor import Factor
from functorch_lab.per_sample._forgetting import Forgetting, forgetting
from functorch_lab.per_sample._gradients import (
    factors,
    grads,
    value_and_grad,
    values_and_grads,
)
from functorch_lab.per_sample._gram import cosine_similarity, gram
from functorch_lab.per_sample._independent import Independence, check_independent
from functorch_lab.per_sample._noise import NoiseScale, Statistics
from functorch_lab.per_sample._norms import norms, squared_norms
from functorch_lab.per_sample._products import inner_products
from functorch_lab.per_sample._project import project
from functorch_lab.per_sample._statistics import statistics
from functorch_lab.per_sample._sums import weighted_sum
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused
from functorch_lab.per_sample._variance import second_moment, variance
from functorch_lab.per_sample._verify import Check, check

__all__ = [
    "Accumulator",
    "Check",
    "Clipped",
    "ClippedSum",
    "ConvPair",
    "DensePair",
    "Difficulty",
    "Direct",
    "Explanation",
    "Factor",
    "Forgetting",
    "Independence",
    "IndexPair",
    "NoiseScale",
    "Statistics",
    "Unused",
    "check",
    "check_independent",
    "clipped_sum",
    "cosine_similarity",
    "difficulty",
    "explain",
    "factors",
    "forgetting",
    "grads",
    "gram",
    "inner_products",
    "norms",
    "project",
    "second_moment",
    "squared_norms",
    "statistics",
    "value_and_grad",
    "values_and_grads",
    "variance",
    "weighted_sum",
]
