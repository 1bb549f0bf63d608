"""What the abstract run sees: tensors that outlive it."""

import functools

import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile

X = torch.tensor([0.7, -1.2])


@pytest.fixture(autouse=True)
def traced_only(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")


def test_what_a_cache_keeps_is_named():
    @functools.lru_cache
    def table(n):
        return torch.arange(n) * 3.0

    kept = r"test_abstract.py:\d+ makes a tensor \(2,\) of float32, which is still held"
    with pytest.warns(UserWarning, match=f"jit: <lambda>: .*{kept}"):
        fl.jit(lambda x: x * table(2))(X)
    table.cache_clear()
    with pytest.warns(UserWarning, match=f"eval_shape: <lambda>: .*{kept}"):
        fl.eval_shape(lambda x: x * table(2), X)
    # Made before, it has its numbers in both.
    table.cache_clear()
    table(2)
    assert_close(fl.jit(lambda x: x * table(2))(X), X * torch.tensor([0.0, 3.0]))


def test_what_is_assigned_to_an_object_outside_is_named():
    seen = []

    def f(x):
        seen.append(x * 2)
        return x + seen[-1]

    with pytest.warns(UserWarning, match=r"makes a tensor \(2,\) .* an object outside"):
        fl.eval_shape(f, X)


def test_results_their_views_and_garbage_are_not_kept():
    def f(x):
        cycle = [x * 3]
        cycle.append(cycle)
        table = torch.outer(x, x)
        return table.T, table[0], fl.grad(lambda x: (x**3).sum())(x), x

    w = X.clone().requires_grad_()
    fl.eval_shape(f, X)
    fl.eval_shape(lambda x: (x * w).exp(), X)
