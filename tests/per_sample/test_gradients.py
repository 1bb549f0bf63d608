# SPDX-License-Identifier: Apache-2.0
"""Factors as a tree of uses, and the gradients that they stand for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab import per_sample
from functorch_lab.per_sample import DensePair, Direct, IndexPair, Unused
from per_sample_losses import MASK, batch, draw, flat, gradients, loss_fn, params


def kinds(factor: per_sample.Factor) -> list[type]:
    return sorted([type(use) for use in factor.uses], key=lambda kind: kind.__name__)


def test_a_factor_lists_the_uses_of_its_leaf():
    tree = {**params(), "idle": draw(2, 3, seed=9), "steps": torch.tensor(3)}
    factors = per_sample.factors(loss_fn)(tree, *batch())
    assert kinds(factors["words"]) == [DensePair, IndexPair]
    assert kinds(factors["deep"]["up"]) == [DensePair]
    assert kinds(factors["scale"][0]) == [Direct]
    assert kinds(factors["idle"]) == [Unused]
    assert factors["steps"] == ()
    (pair,) = factors["deep"]["up"].uses
    assert tuple(pair.left.shape) == (7, 1, 2, 5)
    assert tuple(pair.right.shape) == (7, 1, 2, 3)
    assert factors["idle"].materialize().shape == (7, 2, 3)


def test_every_method_of_a_factor_agrees_with_its_gradients():
    factors = per_sample.factors(loss_fn)(params(), *batch())
    weights = draw(7, seed=3)
    for path in ["words", "deep"]:
        factor = factors[path] if path == "words" else factors[path]["down"]
        formed = factor.materialize()
        against = draw(*factor.leaf(), seed=4)
        assert formed.shape == (7, *factor.leaf())
        pairs = [
            (factor.squared_norm(), formed.square().sum((1, 2))),
            (factor.inner(against), (formed * against).sum((1, 2))),
            (factor.weighted_sum(weights), torch.tensordot(weights, formed, 1)),
            (factor.weighted_sum(), formed.sum(0)),
            (factor.square_sum(), formed.square().sum(0)),
            (factor.masked(MASK).materialize(), formed * MASK[:, None, None]),
            (torch.cat(list(factor.materialized_blocks())), formed),
        ]
        for got, expected in pairs:
            assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_the_mean_of_a_batch_that_is_all_padding_is_zero():
    mask = torch.zeros(7, dtype=torch.bool)
    (values, norms), mean = per_sample.value_and_grad(loss_fn, chunk_size=3)(
        params(), *batch(), mask=mask
    )
    assert_close(values, torch.zeros(7).double())
    assert_close(norms, torch.zeros(7).double())
    assert_close(mean, fl.tree.zeros_like(params()))


def test_leaves_of_several_dtypes_keep_theirs():
    def mixed(params: Any, x: Tensor) -> Tensor:
        hidden = F.linear(x, params["half"]).sin().double()
        return F.linear(hidden, params["whole"]).square().sum()

    tree = {"half": draw(5, 3, seed=1).bfloat16(), "whole": draw(2, 5, seed=2)}
    x = draw(7, 3, seed=3).bfloat16()
    (values, norms), mean = per_sample.value_and_grad(mixed)(tree, x)
    found = per_sample.grads(mixed)(tree, x)
    assert (values.dtype, norms.dtype) == (torch.float64, torch.float64)
    expected = gradients(mixed, tree, (x,))
    for name, leaf in tree.items():
        assert mean[name].dtype == found[name].dtype == leaf.dtype
        assert_close(found[name], expected[name])
    # The product of bfloat16 factors is rounded in the oracle only.
    wide = flat({name: leaf.double() for name, leaf in expected.items()})
    assert_close(norms, wide.norm(dim=1), rtol=1e-2, atol=0)
    clipped = per_sample.clipped_sum(mixed, max_norm=1.0)(tree, x)
    assert clipped.sum["half"].dtype == torch.float32
    scales = (1 / wide.norm(dim=1)).clamp(max=1)
    total = torch.tensordot(scales, expected["whole"], 1)
    assert_close(clipped.sum["whole"], total, rtol=1e-2, atol=1e-2)
    spread = per_sample.variance(mixed)(tree, x)
    assert (spread["half"].dtype, spread["whole"].dtype) == (
        torch.float32,
        torch.float64,
    )


@pytest.mark.parametrize(
    "name",
    [
        *("factors", "grads", "values_and_grads", "value_and_grad", "norms"),
        *("squared_norms", "weighted_sum", "clipped_sum", "second_moment", "variance"),
    ],
)
def test_errors_name_the_function(name):
    make = getattr(per_sample, name)
    options: dict[str, Any] = {"max_norm": 1.0} if name == "clipped_sum" else {}
    with pytest.raises(
        ValueError, match=rf"^per_sample\.{name}: method: .* got 'fast'"
    ):
        make(loss_fn, method="fast", **options)
    more = {"weights": torch.ones(7)} if name == "weighted_sum" else {}
    with pytest.raises(ValueError, match=rf"^per_sample\.{name}: batch: .* got 7 at "):
        make(loss_fn, **options)(params(), *batch()[:2], batch()[2][:5], **more)
