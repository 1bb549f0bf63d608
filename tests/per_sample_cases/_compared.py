# SPDX-License-Identifier: Apache-2.0
"""A function of parameters and one sample, against one backward pass each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import functorch_lab as fl
from per_sample_cases._oracle import one_by_one
from per_sample_cases._row import draw

Params = dict[str, Tensor]
BATCH = 3


def curved(y: Tensor) -> Tensor:
    """A loss to which every number contributes in its own way."""
    weights = torch.linspace(0.3, 1.7, y.numel(), dtype=y.dtype)
    return (weights * y.reshape(-1).sin()).sum()


def samples(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """A batch of samples of these shapes."""
    return tuple(draw(BATCH, *s, seed=41 + i) for i, s in enumerate(shapes))


def parameters(**shapes: tuple[int, ...]) -> Params:
    """Parameters of these shapes."""
    return {k: draw(*s, seed=71 + i) for i, (k, s) in enumerate(shapes.items())}


def routes(found: Any) -> dict[str, list[str]]:
    """The kinds of the uses of each leaf."""
    return {k: [type(use).__name__ for use in f.uses] for k, f in found.items()}


def distance(got: Tensor, expected: Tensor) -> float:
    """`|got - expected| / |expected|`."""
    scale = expected.double().norm().clamp(min=1e-30)
    return ((got.double() - expected.double()).norm() / scale).item()


def compare(
    forward: Callable[..., Tensor],
    params: Params,
    *batch: Tensor,
    jit: bool = False,
    tolerance: float = 1e-12,
    **expected: Any,
) -> None:
    """Factors, norms and the mean gradient are the loop's, by the routes expected.

    Args:
        forward: of the parameters and one sample.
        params: float64.
        batch: samples, first axis.
        jit: whether the factors are asked of the compiled function, and they alone.
        tolerance: relative to the gradient.
        expected: the kinds of each leaf's uses, with spaces between.
    """

    def loss(leaves: Params, *sample: Tensor) -> Tensor:
        return curved(forward(leaves, *sample))

    wanted = one_by_one(loss, params, *batch)
    made = fl.per_sample.factors(loss)
    found = (fl.jit(made) if jit else made)(params, *batch)
    assert routes(found) == {k: kinds.split() for k, kinds in expected.items()}
    squares = torch.stack([w.flatten(1).square().sum(1) for w in wanted.values()])
    for name, grads in wanted.items():
        assert distance(found[name].materialize(), grads) < tolerance, name
        square = grads.flatten(1).square().sum(1)
        assert distance(found[name].squared_norm(), square) < tolerance, name
    if jit:
        return
    value_and_grad = fl.per_sample.value_and_grad(loss)
    (_, norms), mean = value_and_grad(params, *batch)
    assert distance(norms, squares.sum(0).sqrt()) < tolerance
    for name, grads in wanted.items():
        assert distance(mean[name], grads.mean(0)) < tolerance, name
