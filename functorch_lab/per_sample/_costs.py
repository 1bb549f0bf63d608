# SPDX-License-Identifier: Apache-2.0
"""What the alternatives cost between which a use chooses."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from functorch_lab.per_sample._frame import wide
from functorch_lab.per_sample._uses import DensePair, Direct, IndexPair, Unused


class Cost(NamedTuple):
    """What one way of computing costs, for all samples together.

    Attributes:
        bytes: of what it forms beside the factors.
        flops: multiplications and additions.
    """

    bytes: int
    flops: int

    def __str__(self) -> str:
        return f"{shortened(self.bytes)}B {shortened(self.flops)}flop"


class Costs(NamedTuple):
    """Of a use: what is kept of it, and its ways to norms and sums.

    Attributes:
        route: which of them gives the norms.
        kept: bytes of the factors.
        gram: norms from inner products between positions; None if that is no way.
        materialized: norms from one gradient for each sample.
        weighted_sum: of the gradients of all samples.
    """

    route: str
    kept: int
    gram: Cost | None
    materialized: Cost
    weighted_sum: Cost


def costs(use: Any) -> Costs:
    """The costs of a use, as the formulas of its shapes."""
    if isinstance(use, DensePair):
        return _dense(use)
    if isinstance(use, IndexPair):
        return _index(use)
    if isinstance(use, Direct):
        size = wide(use.value).element_size()
        count, each = use.value.shape[0], math.prod(use.value.shape[1:])
        squares = Cost(0, 2 * count * each)
        total = Cost(each * size, 2 * count * each)
        kept = count * each * use.value.element_size()
        return Costs("direct", kept, None, squares, total)
    if isinstance(use, Unused):
        return Costs("unused: gradient zero", 0, None, Cost(0, 0), Cost(0, 0))
    return _convolution(use)


def _dense(use: DensePair) -> Costs:
    count, groups, positions, rows = use.left.shape
    columns, size = use.right.shape[3], wide(use.left).element_size()
    matrices, products = groups * rows * columns, groups * positions**2
    kept = _bytes(use.left) + _bytes(use.right)
    is_gram = positions == 1 or use.prefers_gram()
    return Costs(
        "factored, Gram" if is_gram else "factored, materialised",
        kept,
        Cost(2 * count * products * size, 2 * count * products * (rows + columns)),
        Cost(count * matrices * size, 2 * count * matrices * (positions + 1)),
        Cost(matrices * size, 2 * count * matrices * positions),
    )


def _index(use: IndexPair) -> Costs:
    count, positions, columns = use.values.shape
    rows, size = use.frame.dims()[1], wide(use.values).element_size()
    looked_up = count * positions * columns
    return Costs(
        "factored, Gram",
        _bytes(use.index) + _bytes(use.values),
        Cost(looked_up * size, 3 * looked_up),
        Cost(count * rows * columns * size, looked_up + 2 * count * rows * columns),
        Cost(rows * columns * size, 2 * looked_up),
    )


def _convolution(use: Any) -> Costs:
    count, size = use.signal.shape[0], wide(use.signal).element_size()
    ways = {
        name: Cost(count * way.numbers * size, 2 * count * way.products)
        for name, way in use.costs().items()
    }
    gradients = ways.pop("gradients")
    matrices = math.prod(use.frame.dims())
    return Costs(
        "factored, Gram" if use.route() in ways else "factored, materialised",
        _bytes(use.signal) + _bytes(use.response),
        min(ways.values(), key=lambda way: way.flops),
        gradients,
        Cost(matrices * size, gradients.flops),
    )


def _bytes(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size()


def shortened(number: float) -> str:
    """Three digits and a unit."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} T"
