# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Dropout: the share that is kept, the scale, the keys."""

import math

import pytest
import torch
from torch.func import grad, vmap

from functorch_lab import nn, random

KEY = random.key(3)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keeps_the_right_share_and_the_mean(p):
    n = 40_000
    x = torch.full((n,), 0.7)
    y = nn.dropout(p).apply((), x, key=KEY, train=True)
    kept = (y != 0).float().mean()
    assert abs(kept - (1 - p)) < 4 * math.sqrt(p * (1 - p) / n)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 0.7 / (1 - p)))


def test_is_the_identity_outside_of_training():
    x = torch.linspace(-1.0, 2.0, 15).reshape(3, 5)
    for y in (
        nn.dropout(0.5).apply((), x),
        nn.dropout(0.5).apply((), x, key=KEY),
        nn.dropout(0.0).apply((), x, train=True),
        nn.dropout(0).apply((), x, key=KEY, train=True),
    ):
        torch.testing.assert_close(y, x, rtol=0, atol=0)


def test_drops_everything_with_p_1():
    x = torch.tensor([2.0, math.inf, math.nan])
    y = nn.dropout(1.0).apply((), x, key=KEY, train=True)
    torch.testing.assert_close(y, torch.zeros(3))


def test_the_mask_is_a_function_of_the_key():
    x, layer = torch.full((50,), 0.7), nn.dropout(0.5)
    first = layer.apply((), x, key=KEY, train=True)
    again = layer.apply((), x, key=KEY, train=True)
    other = layer.apply((), x, key=random.key(4), train=True)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_gradient_is_the_mask():
    x, layer = torch.linspace(0.5, 2.0, 35), nn.dropout(0.3)

    def loss(x):
        return layer.apply((), x, key=KEY, train=True).sum()

    scale = layer.apply((), x, key=KEY, train=True) / x
    torch.testing.assert_close(grad(loss)(x), scale)
    # An infinite activation that is dropped leaves no NaN behind.
    dropped = scale == 0
    wild = torch.where(dropped, math.inf, x)
    torch.testing.assert_close(grad(loss)(wild), scale)


def test_every_sample_has_its_own_mask_under_vmap():
    x, layer = torch.full((5, 64), 0.7), nn.dropout(0.5)
    keys = random.split(KEY, 5)

    def apply(x, key):
        return layer.apply((), x, key=key, train=True)

    actual = vmap(apply)(x, keys)
    loop = torch.stack([apply(a, k) for a, k in zip(x, keys, strict=True)])
    torch.testing.assert_close(actual, loop, rtol=0, atol=0)
    assert len({tuple(row.tolist()) for row in actual}) == 5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout2d_drops_whole_channels(p):
    n, x = 20_000, torch.tensor([[0.7, 0.3, -0.2], [1.3, 2.1, -0.9]])
    images = x.repeat(n // 5, 5, 1, 1)
    y = nn.dropout2d(p).apply((), images, key=KEY, train=True)
    kept = (y != 0).all(-1).all(-1)
    expected = torch.where(kept[..., None, None], images / (1 - p), 0.0)
    torch.testing.assert_close(y, expected)
    assert abs(kept.float().mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / n)
    # Neither the samples nor the channels of one share their fate.
    assert len({tuple(row.tolist()) for row in kept}) > 5


def test_dropout2d_draws_one_number_of_dropout_for_each_channel():
    x, layer = torch.full((3, 5, 2, 7), 0.7), nn.dropout2d(0.3)
    y = layer.apply((), x, key=KEY, train=True)
    one = nn.dropout(0.3).apply((), x[..., 0, 0], key=KEY, train=True)
    torch.testing.assert_close(y, one[..., None, None].expand_as(x), rtol=0, atol=0)


def test_dropout2d_of_a_sample_and_of_a_batch():
    x, layer = torch.full((3, 5, 2, 7), 0.7), nn.dropout2d(0.5)
    keys = random.split(KEY, 3)

    def apply(x, key):
        return layer.apply((), x, key=key, train=True)

    actual = vmap(apply)(x, keys)
    loop = torch.stack([apply(a, k) for a, k in zip(x, keys, strict=True)])
    torch.testing.assert_close(actual, loop, rtol=0, atol=0)
    one_mask = vmap(apply, (0, None))(x, KEY)
    torch.testing.assert_close(one_mask, apply(x[0], KEY).expand_as(x))
    torch.testing.assert_close(layer.apply((), x), x, rtol=0, atol=0)


def test_compiles_without_a_break():
    torch.compiler.reset()
    x, layer = torch.full((7, 5), 0.7), nn.dropout(0.4)

    def apply(x, key):
        return layer.apply((), x, key=key, train=True)

    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, KEY), apply(x, KEY), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.dropout(1.5), ValueError, r"p: .*\[0, 1\], got 1.5"),
        (lambda: nn.dropout(math.nan), ValueError, "got nan"),
        (lambda: nn.dropout(torch.ones(2)), TypeError, "p: .* got Tensor"),
        (
            lambda: nn.dropout().apply((), torch.ones(2), train=True),
            ValueError,
            "nn.dropout: key: expected a key with train=True, got None. Pass key=",
        ),
        (
            lambda: nn.dropout().apply((), torch.ones(2).long(), key=KEY, train=True),
            TypeError,
            "got torch.int64",
        ),
        (lambda: nn.dropout2d(-0.1), ValueError, r"nn.dropout2d: p: .*got -0.1"),
        (
            lambda: nn.dropout2d().apply((), torch.ones(2, 3, 5), train=True),
            ValueError,
            "nn.dropout2d: key: expected a key with train=True, got None",
        ),
        (
            lambda: nn.dropout2d().apply((), torch.ones(2, 3), key=KEY, train=True),
            ValueError,
            r"\(..., channels, height, width\), got \(2, 3\)",
        ),
        (
            lambda: nn.dropout().apply({}, torch.ones(2)),
            ValueError,
            r"params: expected \(\), got dict of length 0",
        ),
    ],
)
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
