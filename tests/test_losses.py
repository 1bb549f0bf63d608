# SPDX-License-Identifier: Apache-2.0
"""Losses against torch.nn.functional, optax and closed forms, in float64."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from functorch_lab import losses

GENERATOR = np.random.default_rng(3)


def normal(*shape, scale=1.0):
    return torch.from_numpy(scale * GENERATOR.standard_normal(shape))


def probabilities(*shape):
    return torch.softmax(normal(*shape, scale=2.0), -1)


A, B = normal(5, 3, scale=2.0), normal(5, 3, scale=2.0)
LOGITS, LABELS = normal(7, 5, scale=3.0), torch.tensor([4, 1, 3, 1, 2, 4, 3])
SOFT = probabilities(7, 5)
LOG_PROBS = torch.log_softmax(LOGITS, -1)


def in_jax(function):
    """A torch function that computes value and gradient in jax, in float64."""

    class Oracle(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            with jax.enable_x64(True):
                x, y = jnp.asarray(x.detach().numpy()), jnp.asarray(y.numpy())
                value, pullback = jax.vjp(lambda x: function(x, y), x)
            ctx.pullback = pullback
            return torch.from_numpy(np.array(value))

        @staticmethod
        def backward(ctx, *grads):
            with jax.enable_x64(True):
                return torch.from_numpy(
                    np.array(ctx.pullback(jnp.asarray(grads[0].numpy()))[0])
                ), None

    return Oracle.apply


def pinball(x, y):
    return torch.maximum(0.7 * (y - x), -0.3 * (y - x))


def focal_loop(x, y):
    p = torch.softmax(x, -1)[torch.arange(len(y)), y]
    return -((1 - p) ** 1.5) * torch.log(p)


def none(function, **options):
    return lambda x, y: function(x, y, reduction="none", **options)


# Each entry: ours, the oracle, prediction, target.
CASES = {
    "squared_error": (losses.squared_error, none(F.mse_loss), A, B),
    "absolute_error": (losses.absolute_error, none(F.l1_loss), A, B),
    "mse": (losses.mse, F.mse_loss, A, B),
    "mae": (losses.mae, F.l1_loss, A, B),
    "huber": (losses.huber, none(F.huber_loss), A, B),
    "huber, delta": (
        lambda x, y: losses.huber(x, y, delta=2.3),
        in_jax(lambda x, y: optax.losses.huber_loss(x, y, delta=2.3)),
        A,
        B,
    ),
    "log_cosh": (losses.log_cosh, in_jax(optax.losses.log_cosh), A, B),
    "quantile": (lambda x, y: losses.quantile(x, y, q=0.7), pinball, A, B),
    "binary_cross_entropy_with_logits": (
        losses.binary_cross_entropy_with_logits,
        none(F.binary_cross_entropy_with_logits),
        A,
        torch.sigmoid(B),
    ),
    "cross_entropy": (losses.cross_entropy, none(F.cross_entropy), LOGITS, LABELS),
    "cross_entropy, smooth": (
        lambda x, y: losses.cross_entropy(x, y, label_smoothing=0.3),
        none(F.cross_entropy, label_smoothing=0.3),
        LOGITS,
        LABELS,
    ),
    "cross_entropy, soft": (losses.cross_entropy, none(F.cross_entropy), LOGITS, SOFT),
    "cross_entropy, soft, smooth": (
        lambda x, y: losses.cross_entropy(x, y, label_smoothing=0.3),
        none(F.cross_entropy, label_smoothing=0.3),
        LOGITS,
        SOFT,
    ),
    "nll": (losses.nll, none(F.nll_loss), LOG_PROBS, LABELS),
    "kl_div": (
        losses.kl_div,
        lambda x, y: F.kl_div(x, y, reduction="none").sum(-1),
        LOG_PROBS,
        SOFT,
    ),
    "kl_div, optax": (
        losses.kl_div,
        in_jax(optax.losses.kl_divergence),
        LOG_PROBS,
        SOFT,
    ),
    "kl_div, log_target": (
        lambda x, y: losses.kl_div(x, y, log_target=True),
        lambda x, y: F.kl_div(x, y, reduction="none", log_target=True).sum(-1),
        LOG_PROBS,
        SOFT.log(),
    ),
    "hinge": (
        losses.hinge,
        in_jax(optax.losses.multiclass_hinge_loss),
        LOGITS,
        LABELS,
    ),
    "hinge, margin": (
        lambda x, y: losses.hinge(x, y, margin=2.5),
        lambda x, y: torch.stack(
            [
                max((2.5 + r[j] - r[k]).relu() for j in range(5) if j != k)
                for r, k in zip(x, y, strict=True)
            ]
        ),
        LOGITS,
        LABELS,
    ),
    "focal": (
        lambda x, y: losses.focal(x, y, gamma=1.5),
        focal_loop,
        LOGITS,
        LABELS,
    ),
    "focal, gamma 0": (
        lambda x, y: losses.focal(x, y, gamma=0.0),
        none(F.cross_entropy),
        LOGITS,
        LABELS,
    ),
}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def value_and_gradient(function, x, y):
    x = x.clone().requires_grad_()
    value = function(x, y)
    weights = torch.linspace(0.3, 1.7, value.numel(), dtype=x.dtype)
    return value.detach(), torch.autograd.grad(value.flatten() @ weights, x)[0]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_match_the_oracle(name):
    ours, oracle, x, y = CASES[name]
    before = x.clone(), y.clone()
    value, gradient = value_and_gradient(ours, x, y)
    expected, expected_gradient = value_and_gradient(oracle, x, y)
    close(value, expected)
    close(gradient, expected_gradient)
    torch.testing.assert_close((x, y), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_vmap_of_grad_matches_a_loop_over_samples(name):
    ours, oracle, x, y = CASES[name]
    if "optax" in name or name in {"log_cosh", "hinge", "huber, delta"}:
        oracle = ours  # one sample at a time, without vmap; the oracle is above
    actual = vmap(grad(lambda x, y: ours(x, y).sum()))(x, y)
    rows = []
    for i in range(len(x)):
        row = x[i : i + 1].clone().requires_grad_()
        rows.append(torch.autograd.grad(oracle(row, y[i : i + 1]).sum(), row)[0])
    close(actual, torch.cat(rows))


@pytest.mark.parametrize("name", CASES)
def test_compiles_without_a_break(name):
    ours, _, x, y = CASES[name]
    torch.compiler.reset()

    def gradient(x, y):
        return grad(lambda x: ours(x, y).sum())(x), ours(x, y)

    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    close(compiled(x, y), gradient(x, y))


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"mse", "mae"}))
def test_leading_axes_are_samples(name):
    ours, _, x, y = CASES[name]
    x2, y2 = torch.stack([x, x + 0.5]), torch.stack([y, y])
    close(ours(x2, y2), torch.stack([ours(x, y), ours(x + 0.5, y)]))


def test_a_single_sample_gives_a_scalar():
    value = losses.cross_entropy(LOGITS[0], LABELS[0])
    close(value, F.cross_entropy(LOGITS[:1], LABELS[:1]))
    assert value.shape == ()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_dtype(dtype):
    expected = F.cross_entropy(LOGITS, LABELS, reduction="none")
    close(losses.cross_entropy(LOGITS, LABELS.to(dtype)), expected)


@pytest.mark.parametrize(
    ("function", "error", "curvature"),
    [
        (losses.huber, 0.0, 1.0),
        (losses.log_cosh, 0.0, 1.0),
        (losses.huber, 3.0, 0.0),
        (losses.log_cosh, 0.7, 1 / math.cosh(0.7) ** 2),
    ],
)
def test_second_derivatives(function, error, curvature):
    x, y = torch.tensor([error, 0.4], dtype=torch.float64)
    second = grad(grad(lambda x: function(x, y)))(x + y)
    close(second, torch.tensor(curvature, dtype=torch.float64))


def test_extreme_inputs_stay_finite_and_precise():
    far = torch.tensor([300.0, -300.0])
    value = losses.log_cosh(far, torch.tensor([0.5, 0.5]))
    expected = torch.tensor([299.5 - math.log(2), 300.5 - math.log(2)])
    torch.testing.assert_close(value, expected)
    target = torch.tensor([1.0, 0.0])
    value = losses.binary_cross_entropy_with_logits(far.sign() * 40, target)
    # An absolute tolerance would pass 0 for exp(-40).
    torch.testing.assert_close(
        value, torch.full((2,), math.exp(-40.0)), rtol=1e-5, atol=0
    )
    certain = torch.tensor([200.0, -200.0])
    slope = grad(lambda x: losses.focal(x, torch.tensor(0), gamma=0.5))(certain)
    torch.testing.assert_close(slope, torch.zeros(2))
    divergence = losses.kl_div(torch.log(torch.tensor([0.25, 0.75])), target)
    torch.testing.assert_close(divergence, torch.tensor(math.log(4)))


LABELLED = [losses.cross_entropy, losses.nll, losses.hinge, losses.focal]


@pytest.mark.parametrize("bad", [5, -1, -100])
@pytest.mark.parametrize("loss", LABELLED)
def test_a_label_out_of_range_raises(loss, bad):
    target = LABELS.clone()
    target[2] = bad
    message = (
        rf"^losses\.{loss.__name__}: target: expected labels in 0 \.\. 4, "
        rf"got {bad} at index \(2,\)\. Check .* data\.check_classification\.$"
    )
    with pytest.raises(ValueError, match=message):
        loss(LOGITS, target)
    with pytest.raises(ValueError, match=rf"in 0 \.\. 4, got {bad}\. Check"):
        loss(LOGITS[2], target[2])
    with pytest.raises(RuntimeError, match=f"index {bad} is out of bounds"):
        vmap(loss)(LOGITS, target)


def test_labels_that_cannot_be_read_are_not_checked():
    loss, bad = losses.nll, LABELS + 1
    graph = make_fx(loss)(LOGITS, LABELS)
    close(graph(LOGITS, LABELS), loss(LOGITS, LABELS))
    assert loss(LOGITS.to("meta"), bad.to("meta")).shape == (7,)
    with FakeTensorMode() as mode:
        fakes = mode.from_tensor(LOGITS), mode.from_tensor(bad)
        assert loss(*fakes).shape == (7,)
    assert loss(LOGITS[:0], LABELS[:0]).shape == (0,)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_label_out_of_range_raises_when_compiled():
    compiled = torch.compile(losses.cross_entropy, fullgraph=True)
    close(compiled(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, reduction="none"))
    with pytest.raises(RuntimeError, match="out of bounds"):
        compiled(LOGITS, LABELS + 1)


ELEMENTWISE = {
    "squared_error": losses.squared_error,
    "absolute_error": losses.absolute_error,
    "mse": losses.mse,
    "mae": losses.mae,
    "huber": losses.huber,
    "log_cosh": losses.log_cosh,
    "quantile": lambda x, y: losses.quantile(x, y, q=0.3),
    "binary_cross_entropy_with_logits": losses.binary_cross_entropy_with_logits,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_losses_never_broadcast(name):
    with pytest.raises(ValueError, match=rf"losses.{name}: .*\(5, 1\), got \(5,\)"):
        ELEMENTWISE[name](A[:, :1], B[:, 0])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_losses_refuse_other_kinds(name):
    with pytest.raises(TypeError, match=rf"losses.{name}: .*got torch.int64"):
        ELEMENTWISE[name](A.long(), B)
    with pytest.raises(TypeError, match=rf"losses.{name}: .*got list"):
        ELEMENTWISE[name](A, B.tolist())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: losses.cross_entropy(LOGITS, LABELS[:, None]), ValueError,
         r"expected integer labels of shape \(7,\) .* got \(7, 1\).*squeeze"),
        (lambda: losses.cross_entropy(LOGITS, SOFT.round().long()), ValueError,
         r"got \(7, 5\). Convert a one-hot target with target.argmax"),
        (lambda: losses.cross_entropy(LOGITS, LABELS.double()), ValueError,
         r"expected probabilities of .*\(7, 5\), got \(7,\).*target.long\(\)"),
        (lambda: losses.cross_entropy(LOGITS, SOFT[:, :3]), ValueError,
         r"got \(7, 3\).*class axis is the last"),
        (lambda: losses.cross_entropy(LOGITS, LABELS > 2), TypeError,
         "expected integer labels, got torch.bool"),
        (lambda: losses.cross_entropy(LABELS, LABELS), TypeError,
         "logits: expected a floating-point tensor, got torch.int64"),
        (lambda: losses.cross_entropy(LOGITS, cast(Any, 3)), TypeError, "got int"),
        (lambda: losses.cross_entropy(LOGITS[0, 0], LABELS[0]), ValueError,
         r"expected shape \(..., classes\), got \(\)"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, label_smoothing=1.2), ValueError,
         r"label_smoothing: expected a number in \[0, 1\], got 1.2"),
        (lambda: losses.nll(LOG_PROBS, SOFT), TypeError, "got torch.float64"),
        (lambda: losses.kl_div(LOG_PROBS, LABELS), TypeError, "target: .*torch.int64"),
        (lambda: losses.kl_div(LOG_PROBS, SOFT[:2]), ValueError, r"got \(2, 5\)"),
        (lambda: losses.hinge(LOGITS, LABELS[:3]), ValueError, r"got \(3,\)"),
        (lambda: losses.hinge(LOGITS, LABELS, margin=0.0), ValueError, "margin: .*0.0"),
        (lambda: losses.focal(LOGITS, LABELS, gamma=-1.0), ValueError, "gamma: .*-1"),
        (lambda: losses.huber(A, B, delta=-2.0), ValueError, "delta: .*got -2"),
        (lambda: losses.quantile(A, B, q=1.5), ValueError, r"q: .*\[0, 1\], got 1.5"),
        (lambda: losses.l2_penalty({"a": 3.0}), TypeError, "a leaf of type float"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("option", ["label_smoothing", "delta", "q", "gamma", "margin"])
def test_options_may_be_tensors(option):
    function, x, y = {
        "label_smoothing": (losses.cross_entropy, LOGITS, LABELS),
        "delta": (losses.huber, A, B),
        "q": (losses.quantile, A, B),
        "gamma": (losses.focal, LOGITS, LABELS),
        "margin": (losses.hinge, LOGITS, LABELS),
    }[option]
    number = torch.tensor(0.375, dtype=torch.float64)
    close(function(x, y, **{option: number}), function(x, y, **{option: 0.375}))


def test_penalties_sum_over_the_floating_leaves_of_a_tree():
    tree = {"b": [A, ()], "a": (B, torch.tensor([3, 5]))}
    flat = np.concatenate([A.numpy().ravel(), B.numpy().ravel()])
    close(losses.l1_penalty(tree), torch.tensor(np.linalg.norm(flat, 1)))
    close(losses.l2_penalty(tree), torch.tensor(np.linalg.norm(flat, 2) ** 2))
    gradient = grad(lambda a: losses.l2_penalty({"a": a, "b": B}))(A)
    close(gradient, 2 * A)
    torch.testing.assert_close(losses.l1_penalty(()), torch.tensor(0.0))
