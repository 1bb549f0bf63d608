# SPDX-License-Identifier: Apache-2.0
"""Norms: their routes, their precision, their derivative, and what they cost."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import functorch_lab as fl
from functorch_lab import per_sample
from functorch_lab.per_sample import DensePair, IndexPair, _blocks
from functorch_lab.per_sample._frame import Frame
from per_sample_losses import draw, flat, gradients, mlp_loss_fn, mlp_params

# Rows 2 and 3 of three groups, (3, 5, 7) in all.
FRAME = Frame((3, 5, 7), (3, 5, 7), (0, 0, 0), (3, 5, 7), (0,), (1,), (2,))
TABLE = Frame((11, 5), (11, 5), (0, 0), (11, 5), (), (0,), (1,))


def pair(positions: int) -> DensePair:
    left, right = draw(6, 3, positions, 5, seed=1), draw(6, 3, positions, 7, seed=2)
    return DensePair(left, right, FRAME)


def matrix_norms(left: Tensor, right: Tensor) -> Tensor:
    """Of gradients that are formed in float64."""
    matrices = torch.einsum("bgtr,bgtc->bgrc", left.double(), right.double())
    return matrices.flatten(1).norm(dim=1)


@pytest.mark.parametrize("numbers", [2**24, 150, 1], ids=["whole", "blocks", "single"])
@pytest.mark.parametrize("gram", [True, False], ids=["gram", "matrices"])
def test_both_routes_and_blocks_of_samples_agree(gram, numbers, monkeypatch):
    monkeypatch.setattr(DensePair, "prefers_gram", lambda self: gram)
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    use = pair(2)
    expected = matrix_norms(use.left, use.right)
    assert_close(use.squared_norm().sqrt(), expected, rtol=1e-13, atol=0)


def test_the_route_with_fewer_products_is_taken():
    # 5 rows and 7 columns have 35 products; each pair of positions has 5 and 7.
    assert pair(2).prefers_gram()
    assert not pair(3).prefers_gram()


class Largest(TorchDispatchMode):
    """The most numbers in one new tensor."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not func.is_view:
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "matrices"])
def test_no_buffer_is_larger_than_allowed(gram, monkeypatch):
    monkeypatch.setattr(DensePair, "prefers_gram", lambda self: gram)
    use = pair(7)
    with Largest() as whole:
        use.squared_norm()
    monkeypatch.setattr(_blocks, "NUMBERS", 600)
    with Largest() as bounded:
        use.squared_norm()
    assert bounded.numbers <= 600 < whole.numbers


@pytest.mark.parametrize("wide", [1.0, 1e-2, 1e-3])
@pytest.mark.parametrize("side", ["input", "delta"])
def test_float32_keeps_its_digits_where_terms_cancel(wide, side):
    # Nearly the same input at each position, and deltas that add up to nothing.
    same = draw(6, 3, 1, 16, seed=1) + wide * draw(6, 3, 4, 16, seed=2)
    apart = draw(6, 3, 4, 32, seed=3)
    apart = (apart - apart.mean(2, keepdim=True)).float()
    left, right = (apart, same.float()) if side == "input" else (same.float(), apart)
    shape = (3, left.shape[3], right.shape[3])
    frame = Frame(shape, shape, (0, 0, 0), shape, (0,), (1,), (2,))
    use = DensePair(left, right, frame)
    assert use.prefers_gram()
    expected = matrix_norms(left, right)
    assert_close(use.squared_norm().sqrt().double(), expected, rtol=1e-5, atol=0)


def test_float32_keeps_its_digits_between_two_uses_of_a_weight():
    # Twins that are nearly alike: the two gradients nearly cancel.
    def loss_fn(w: Tensor, x: Tensor, step: Tensor) -> Tensor:
        return F.linear(x + step, w).sin().sum() - F.linear(x, w).sin().sum()

    w, x = draw(32, 16, seed=1), draw(3, 16, seed=2)
    step = 1e-2 * draw(3, 16, seed=3)
    exact = [leaf.float().double() for leaf in (w, x, step)]
    expected = flat(
        gradients(lambda p, *s: loss_fn(p["w"], *s), {"w": exact[0]}, tuple(exact[1:]))
    )
    got = per_sample.norms(loss_fn)(w.float(), x.float(), step.float())
    # The difference of the sines itself has five digits left.
    assert_close(got.double(), expected.norm(dim=1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("positions", [1, 2, 13])
def test_rows_that_are_looked_up_again_add_up(positions):
    index = torch.randint(
        11, (6, positions), generator=torch.Generator().manual_seed(2)
    )
    use = IndexPair(index, draw(6, positions, 5, seed=4), TABLE)
    table = torch.zeros(6, 11, 5, dtype=torch.float64)
    for i in range(6):
        for t in range(positions):
            table[i, index[i, t]] += use.values[i, t]
    assert_close(use.squared_norm(), table.square().sum((1, 2)), rtol=1e-13, atol=0)
    assert_close(use.distinct().materialize(), table, rtol=1e-13, atol=1e-13)


def test_the_derivative_of_norms_is_that_of_the_norms_of_gradients():
    params, x = mlp_params(), draw(3, 3, seed=8)
    got = fl.grad(lambda p: per_sample.norms(mlp_loss_fn)(p, x).sum())(params)
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        value = mlp_loss_fn(dict(zip(params, leaves, strict=True)), x[i])
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        total = total + torch.cat([g.flatten() for g in grads]).norm()
    expected = torch.autograd.grad(total, leaves)
    assert_close(list(got.values()), list(expected), rtol=1e-12, atol=1e-12)


def test_the_derivative_is_zero_where_the_norm_is():
    # As that of torch.linalg.norm at zero.
    def loss_fn(w: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, w).square().sum()

    w, x = draw(2, 3, seed=1), torch.stack([torch.zeros(3), torch.ones(3)]).double()
    for per in [None, {"all": "*"}]:
        norms = per_sample.norms(loss_fn, per=per)

        def total(w: Tensor, norms: Any = norms) -> Tensor:
            return torch.stack(fl.tree.leaves(norms(w, x))).sum()

        second = per_sample.norms(loss_fn)
        alone = fl.grad(lambda w, second=second: second(w, x[1:]).sum())(w)
        assert_close(fl.grad(total)(w), alone)


def test_norms_under_an_outer_vmap():
    models = {
        name: torch.stack([leaf, 2 * leaf]) for name, leaf in mlp_params().items()
    }
    x = draw(5, 3, seed=8)
    got = fl.vmap(lambda p: per_sample.norms(mlp_loss_fn)(p, x))(models)
    for i in range(2):
        params = {name: leaf[i] for name, leaf in models.items()}
        expected = flat(gradients(mlp_loss_fn, params, (x,))).norm(dim=1)
        assert_close(got[i], expected, rtol=1e-12, atol=0)


def test_what_norms_are_per_is_checked():
    params, x = mlp_params(), draw(3, 3, seed=8)
    with pytest.raises(ValueError, match=r"^per_sample\.norms: per: .* got 'up'\. Wr"):
        per_sample.norms(mlp_loss_fn, per="up")
    with pytest.raises(
        TypeError, match=r"squared_norms: per: expected a dict .* \{'a': 3\}"
    ):
        per_sample.squared_norms(mlp_loss_fn, per={"a": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"norms: per: expected at least one group"):
        per_sample.norms(mlp_loss_fn, per={})
    norms = per_sample.norms(mlp_loss_fn, per={"all": "*", "first": "upp"})
    message = r"^per_sample\.norms: per: first: .* 'upp', .* no leaf\. Nearest: up\b"
    with pytest.raises(ValueError, match=message):
        norms(params, x)
    frozen = per_sample.norms(mlp_loss_fn, per={"first": "up"}, wrt="down")
    with pytest.raises(ValueError, match=r"per: first: .* Nearest: down\."):
        frozen(params, x)
