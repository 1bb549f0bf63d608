"""vmap against Python loops and jax."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.testing import assert_close

from functorch_lab import random, tree
from functorch_lab.transforms import grad, mean_over_batch, value_and_grad, vmap

A = torch.arange(2.0, 17.0).reshape(5, 3)
B = torch.arange(3.0, 13.0).reshape(2, 5) / 7


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


def test_axes_in_and_out_equal_jax():
    def f(a, b):
        return {"outer": a[:, None] * b, "sum": a.sum() + b.sum()}

    dims = {"in_dims": (0, 1), "out_dims": {"outer": 2, "sum": 0}}
    ours = vmap(f, **dims)(A, B)
    theirs = jax.vmap(f, in_axes=(0, 1), out_axes=dims["out_dims"])(
        jnp.asarray(A.numpy()), jnp.asarray(B.numpy())
    )
    for name, value in ours.items():
        assert_close(value, torch.tensor(theirs[name].tolist()))


def test_keyword_arguments_are_mapped():
    out = vmap(lambda a, *, b: a.sum() * b)(A, b=B[0])
    assert_close(out, torch.stack([a.sum() * b for a, b in zip(A, B[0], strict=True)]))


def test_trees_none_and_numbers_pass():
    @tree.dataclass
    class Pair:
        left: torch.Tensor
        right: torch.Tensor

    def f(pair, scale, mask=None):
        assert mask is None
        return Pair(pair.left * scale, pair.right.sum()), (), None, 2.5

    pair, hole, none, number = vmap(f, in_dims=(0, None))(Pair(A, B.T), 3)
    assert_close(pair.left, A * 3)
    assert_close(pair.right, B.sum(0))
    assert hole == ()
    assert none is None
    assert_close(number, torch.full((5,), 2.5))


def test_prefix_of_in_dims_and_unmapped_results():
    tree_ = {"x": A, "shared": B}
    out, same = vmap(
        lambda t, k: (t["x"] @ t["shared"][0, :3] * k, t["shared"]),
        in_dims=({"x": 0, "shared": None}, None),
        out_dims=(0, None),
    )(tree_, torch.tensor(2.0))
    assert_close(out, A @ B[0, :3] * 2)
    assert_close(same, B)


def test_no_samples_give_no_results():
    assert vmap(torch.sin, chunk_size=2)(A[:0]).shape == (0, 3)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7])
def test_chunks_change_nothing(chunk_size):
    f = lambda a: (a * a.sum(), a.prod())  # noqa: E731
    assert_close(vmap(f, chunk_size=chunk_size)(A), vmap(f)(A))


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda: vmap(torch.add)(A, B), ValueError, r"5 at args\[0\] and 2 at args\[1"),
        (lambda: vmap(torch.sin)(A[0, 0]), ValueError, r"that has an axis 0, got sha"),
        (lambda: vmap(torch.sin, in_dims=2)(A), ValueError, "has an axis 2"),
        (lambda: vmap(torch.sin, in_dims=(0, 0))(A), ValueError, "one entry for each"),
        (lambda: vmap(torch.sin, in_dims=None)(A), ValueError, "at least one mapped"),
        (lambda: vmap(lambda a, n: a * n)(A, 3), TypeError, r"args\[1\]: .* got int 3"),
        (lambda: vmap(lambda a: "text")(A), TypeError, "tensors as results, got str"),
        (lambda: vmap(torch.sin, out_dims=(0, 0))(A), ValueError, "out_dims: expected"),
        (lambda: vmap(torch.sin, out_dims=None)(A), ValueError, "depends on a mapped"),
        (
            lambda: vmap(lambda a: a if a.sum() > 0 else -a)(A),
            RuntimeError,
            "needs no tensor's value.*torch.where",
        ),
        (lambda: vmap(torch.rand_like)(A), RuntimeError, "Pass a key to each sample"),
        (lambda: vmap(torch.sin, chunk_size=0), ValueError, "chunk_size: expected at"),
        (lambda: vmap(any_(A)), TypeError, "vmap: fn: expected a function"),
        (lambda: vmap(lambda a, *, k: a)(A, k=B), ValueError, r"kwargs\['k'\]"),
    ],
)
def test_wrong_use_is_named(call, kind, match):
    with pytest.raises(kind, match=match):
        call()


def squared(w, x, y):
    return (w @ x - y) ** 2


def test_mean_over_batch_is_the_mean_of_the_samples():
    w, y = torch.tensor([0.3, -0.7, 1.1]), B[0]
    loop = torch.stack([squared(w, A[i], y[i]) for i in range(5)]).mean()
    assert_close(mean_over_batch(squared)(w, A, y), loop)
    grads = torch.stack([grad(squared)(w, A[i], y[i]) for i in range(5)]).mean(0)
    assert_close(grad(mean_over_batch(squared))(w, A, y), grads)


def test_mean_over_batch_gives_each_sample_its_key():
    def noisy(w, x, *, key):
        noise = random.normal(key)
        return (w * x).sum() + noise, noise

    key = random.key(3)
    mean, noise = mean_over_batch(noisy, has_aux=True)(A[0], A, key=key)
    expected = torch.stack([random.normal(k) for k in random.split(key, 5)])
    assert_close(noise, expected)
    assert_close(mean, (A * A[0]).sum(1).mean() + expected.mean())
    assert len(set(noise.tolist())) == 5


def logs(w, x, y):
    # Infinite at x = 0, with an infinite derivative, and NaN below.
    value = (w * x["x"].log()).sum() * y + x["n"]
    return value, {"x": x["x"], "n": x["n"], "big": value > 3}


@pytest.mark.parametrize("garbage", [0.0, -5.0, torch.nan, 3.5])
def test_masked_samples_change_nothing(garbage):
    w = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    x = {"x": A.double().abs() + 0.25, "n": torch.arange(5) + 2}
    y = B[0, :1].double() + torch.linspace(0.5, 2.5, 5).double()
    x["x"][[0, 3]] = garbage
    mask = torch.tensor([False, True, True, False, True])
    rows = [1, 2, 4]
    loss = mean_over_batch(logs, has_aux=True)
    (found, aux), grads = value_and_grad(loss, has_aux=True)(w, x, y, mask=mask)

    w = w.clone().requires_grad_()
    samples = [({k: v[i] for k, v in x.items()}, y[i]) for i in rows]
    expected = torch.stack([logs(w, *s)[0] for s in samples]).mean()
    expected.backward()
    assert_close(found, expected.detach(), rtol=1e-12, atol=0)
    assert_close(grads, w.grad, rtol=1e-12, atol=0)
    want = {"x": torch.zeros(5, 3).double(), "n": torch.zeros(5).long()}
    want["x"][rows], want["n"][rows] = x["x"][rows], x["n"][rows]
    assert_close({k: aux[k] for k in want}, want)
    assert not aux["big"][~mask].any()


def test_masked_mean_under_vmap_and_of_no_samples():
    w = torch.tensor([0.3, -0.7, 1.1])
    masks = torch.tensor([[True, False, True, True, True], [False] * 5])
    loss = mean_over_batch(squared)
    values, grads = vmap(
        lambda mask: value_and_grad(loss)(w, A, B[0, 0].expand(5), mask=mask)
    )(masks)
    kept = A[masks[0]]
    expected = value_and_grad(loss)(w, kept, B[0, 0].expand(4))
    assert_close((values[0], grads[0]), expected)
    assert_close((values[1], grads[1]), (torch.tensor(0.0), torch.zeros(3)))


def test_masked_mean_in_half_precision_does_not_overflow():
    x = torch.full((71,), 1500.0, dtype=torch.float16)
    mean = mean_over_batch(lambda w, x: w + x)(x[0], x, mask=torch.arange(71) > 3)
    assert (mean.dtype, mean.item()) == (torch.float16, 3000.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda f: f(A[0], A, B[0], mask=A[:, 0]), "mask: .*bool.*, got a tensor"),
        (
            lambda f: f(A[0], A, B[0], mask=A[:3, 0] > 0),
            r"mask: .*\(5,\), got .*\(3,\)",
        ),
        (lambda f: f(A[0], A, B[0], mask=True), r"mask: .*got bool True"),
        (lambda f: f(A[0]), "expected batch arguments"),
        (lambda f: f(A[0], torch.tensor(2.0)), "leading sample axis"),
        (lambda f: f(A[0], A[:0], B[0, :0]), r"empty batch of shape \(0, 3\)"),
        (lambda f: f(A[0], A, B[0, :3]), "expected mapped axes of one size"),
        (lambda f: f(A[:, 0], B.T, B.T), r"0-d loss for each sample, got \(2,\)"),
        (
            lambda f: mean_over_batch(lambda w, x: (w @ x, x))(A[0], A),
            r"got a tuple\. Set has_aux=True",
        ),
    ],
)
def test_mean_over_batch_names_what_is_wrong(call, match):
    batch_loss = mean_over_batch(
        lambda w, x, y: squared(w, x, y) if y.ndim == 0 else x * y
    )
    with pytest.raises(ValueError, match=match):
        call(batch_loss)
