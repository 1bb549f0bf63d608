# SPDX-License-Identifier: Apache-2.0
"""Losses that write to what they compute with, or read memory past the axes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab import per_sample
from functorch_lab.transforms import _compile
from per_sample_cases._oracle import norms, one_by_one

X = torch.linspace(-1.5, 2.5, 21, dtype=torch.float64).reshape(3, 7).sin()
W = torch.linspace(0.2, 1.7, 35, dtype=torch.float64).reshape(5, 7).cos()


def expected(loss_fn: Any, w: Tensor) -> Tensor:
    (gradients,) = one_by_one(loss_fn, w, X).values()
    return gradients


def multiplied(w: Tensor, x: Tensor) -> Tensor:
    h = x * 2
    y = F.linear(h, w)
    h.mul_(3)
    return y.square().sum()


def multiplied_in_part(w: Tensor, x: Tensor) -> Tensor:
    h = x * 2
    y = h @ w.T
    h[2:] = 0.5
    return y.square().sum()


def looked_up(w: Tensor, x: Tensor) -> Tensor:
    index = (x[:2] > 0).long()
    y = F.embedding(index, w)
    index.add_(1)
    return y.square().sum()


@pytest.mark.parametrize("loss_fn", [multiplied, multiplied_in_part, looked_up])
@pytest.mark.parametrize("how", [lambda f: f, fl.jit], ids=["eager", "jit"])
def test_what_the_gradient_needs_is_not_overwritten(
    loss_fn: Any, how: Callable[..., Any]
) -> None:
    message = f"norms: {loss_fn.__name__}: expected a loss that keeps .* Compute a new"
    with pytest.raises(RuntimeError, match=message):
        how(per_sample.norms(loss_fn))(W, X)


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "vmap"])
def test_what_it_does_not_need_may_be_overwritten(nested: bool) -> None:
    def loss_fn(w: Tensor, x: Tensor) -> Tensor:
        h = x * 2
        with torch.no_grad():
            constant = F.linear(h, w)
        h.mul_(3)
        y = F.linear(h, w)
        y[1:].mul_(2)
        y += 1
        return (constant * y.relu_()).sum()

    of = per_sample.grads(loss_fn)
    found = fl.vmap(lambda w: of(w, X))(W[None])[0] if nested else of(W, X)
    torch.testing.assert_close(found, expected(loss_fn, W), rtol=1e-12, atol=1e-13)


def strided(w: Tensor, x: Tensor) -> Tensor:
    overlapping = w.as_strided((4, 3), (6, 2), 5)
    return F.linear(x[:3], overlapping).tanh().sum() + F.linear(x, w).cos().sum()


@pytest.mark.parametrize("method", ["auto", "vmap", "loop", "jit"])
def test_as_strided(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    if method == "jit":
        found = fl.jit(per_sample.grads(strided))(W, X)
    else:
        found = per_sample.grads(strided, method=method)(W, X)
    torch.testing.assert_close(found, expected(strided, W), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", ["auto", "vmap"])
@pytest.mark.parametrize(
    ("leaf", "loss_fn"),
    [
        (W.T.contiguous().T, strided),
        (W.repeat(2, 1)[2:], strided),
        (W, lambda w, x: strided(w[1:], x)),
    ],
    ids=["transposed", "offset", "view"],
)
def test_as_strided_elsewhere_in_memory(leaf: Any, loss_fn: Any, method: Any) -> None:
    with pytest.raises(ValueError, match="as_strided: expected a contiguous param"):
        per_sample.grads(loss_fn, method=method)(leaf, X)


@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_a_strided_parameter_is_not_written_to(method: Any) -> None:
    def loss_fn(w: Tensor, x: Tensor) -> Tensor:
        w.as_strided((2,), (1,)).mul_(2)
        return F.linear(x, w).sum()

    before = W.clone()
    with pytest.raises(RuntimeError, match="leaves its parameters as they are"):
        per_sample.norms(loss_fn, method=method)(W, X)
    torch.testing.assert_close(W, before, rtol=0, atol=0)


def test_a_tensor_that_all_samples_share_is_not_written_to() -> None:
    def loss_fn(w: Tensor, x: Tensor) -> Tensor:
        rows = torch.zeros(5, dtype=w.dtype)
        rows[:] = F.linear(x, w)
        return rows.square().sum()

    with pytest.raises(RuntimeError, match=r"rows\[:\] = .* to a tensor that all"):
        per_sample.norms(loss_fn)(W, X)


def test_one_tensor_as_two_leaves_has_two_gradients() -> None:
    def loss_fn(params: Any, x: Tensor) -> Tensor:
        hidden = F.linear(x, params["a"]).tanh() @ params["b"]
        return F.linear(hidden, params["a"]).sin().sum()

    params = {"a": W, "b": W}
    found = per_sample.grads(loss_fn)(params, X)
    apart = one_by_one(loss_fn, {"a": W.clone(), "b": W.clone()}, X)
    torch.testing.assert_close(found, apart, rtol=1e-12, atol=1e-13)


def test_norms_with_fresh_parameters_are_traced_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_compile, "BACKEND", "eager")

    def loss_fn(params: Any, x: Tensor) -> Tensor:
        return F.linear(x, params["w"]).tanh().square().sum() * params["s"].sin()

    jitted = fl.debug.assert_max_traces(1)(fl.jit(per_sample.norms(loss_fn)))
    for scale in (0.5, 0.7, 1.3):
        params = {"s": torch.tensor(scale, dtype=W.dtype), "w": W * scale}
        found = jitted(params, X * scale)
        lengths = norms(one_by_one(loss_fn, params, X * scale))
        torch.testing.assert_close(found, lengths, rtol=1e-12, atol=1e-13)
