# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false
"""mlp and cnn: their layers, their shapes, and what they learn."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from functorch_lab import losses, nn, random, tree

KEY = random.key(3)


def test_mlp_is_linear_maps_and_activations():
    model = nn.mlp(3, [5, 7], 2, activation=nn.tanh)
    params = model.init(KEY)
    shapes = [tuple(p["weight"].shape) for p in params if p != ()]
    assert shapes == [(5, 3), (7, 5), (2, 7)]
    x = h = torch.linspace(-1.0, 1.4, 6).reshape(2, 3)
    for i, p in enumerate(p for p in params if p != ()):
        h = F.linear(torch.tanh(h) if i else h, p["weight"], p["bias"])
    torch.testing.assert_close(model.apply(params, x), h)
    assert len(nn.mlp(3, (), 2).init(KEY)) == 1


def test_cnn_is_convolutions_pooling_and_a_mean():
    model = nn.cnn(2, [3, 5], 7, activation=nn.elu)
    params = model.init(KEY)
    x = torch.linspace(-1.0, 1.4, 3 * 2 * 9 * 6).reshape(3, 2, 9, 6)
    weights = [p for p in params if p != ()]
    assert [tuple(p["weight"].shape) for p in weights] == [
        (3, 2, 3, 3),
        (3, 3, 3, 3),
        (5, 3, 3, 3),
        (5, 5, 3, 3),
        (7, 5),
    ]
    h = x
    for i, p in enumerate(weights[:-1]):
        h = F.max_pool2d(h, 2) if i == 2 else h
        h = F.elu(F.conv2d(h, p["weight"], p["bias"], padding=1))
    expected = h.mean((-2, -1)) @ weights[-1]["weight"].T + weights[-1]["bias"]
    torch.testing.assert_close(model.apply(params, x), expected)
    torch.testing.assert_close(model.apply(params, x[1]), expected[1])


def images_or_rows(params):
    shape = (6,) if params[0]["weight"].ndim == 2 else (6, 5, 5)
    return torch.linspace(-1.0, 1.4, torch.Size(shape).numel()).reshape(shape)


@pytest.mark.parametrize("model", [nn.mlp(6, [5, 5], 3), nn.cnn(6, [5], 3)])
def test_dropout_is_off_by_default(model):
    params = model.init(KEY)
    x = images_or_rows(params)
    y = model.apply(params, x, train=True)
    torch.testing.assert_close(y, model.apply(params, x))


@pytest.mark.parametrize(
    "model", [nn.mlp(6, [50], 3, dropout=0.5), nn.cnn(6, [50], 3, dropout=0.5)]
)
def test_dropout_needs_a_key_in_training_only(model):
    params = model.init(KEY)
    x = images_or_rows(params)
    a, b = (model.apply(params, x, key=k, train=True) for k in random.split(KEY))
    assert not torch.equal(a, b)
    model.apply(params, x)
    with pytest.raises(ValueError, match=r"nn.dropout at \[\d\]: key: .* got None"):
        model.apply(params, x, train=True)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_compiled_for_real_equals_eager():
    # The smallest model with a layer of each kind: inductor takes seconds per kernel.
    model = nn.sequential(nn.cnn(2, [3], 5), nn.layer_norm(5), nn.mlp(5, [], 3))
    params = model.init(KEY)
    x = torch.linspace(-1.0, 1.4, 2 * 30).reshape(2, 5, 6)
    compiled = torch.compile(model.apply, fullgraph=True)
    torch.testing.assert_close(compiled(params, x), model.apply(params, x))


def test_cnn_learns_digits_in_a_few_epochs():
    digits: Any = load_digits()
    mixed = random.permutation(KEY, len(digits.target))
    x = torch.tensor(digits.images, dtype=torch.float32)[mixed].unsqueeze(1) / 8 - 1
    y = torch.tensor(digits.target)[mixed]
    train, test = slice(0, 1408), slice(1408, None)
    model = nn.cnn(1, [16, 32], 10)
    params = tree.map(torch.Tensor.requires_grad_, model.init(KEY))
    optimizer = torch.optim.Adam(tree.leaves(params), lr=1e-2)
    x_train, y_train = x[train], y[train]
    order = random.permutation(KEY, len(x_train)).reshape(-1, 64)
    for _ in range(6):
        for batch in order:
            logits = model.apply(params, x_train[batch])
            optimizer.zero_grad()
            losses.cross_entropy(logits, y_train[batch]).mean().backward()
            optimizer.step()
    accuracy = (model.apply(params, x[test]).argmax(-1) == y[test]).float().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.mlp(3, [5, 0], 2), ValueError, "nn.mlp: hidden: .* got 0"),
        (
            lambda: nn.mlp(3, 5, 2),
            TypeError,
            r"nn.mlp: hidden: .* got int. Write \[5\]",
        ),
        (lambda: nn.mlp(3, [5], 2, dropout=2.0), ValueError, "p: .* got 2.0"),
        (lambda: nn.cnn(3, [], 2), ValueError, "nn.cnn: channels: .* got none"),
        (lambda: nn.cnn(0, [5], 2), ValueError, "in_channels: .* got 0"),
        (
            lambda: nn.cnn(1, [2, 3, 5], 2).apply(
                nn.cnn(1, [2, 3, 5], 2).init(KEY), torch.zeros(1, 3, 3)
            ),
            ValueError,
            r"nn.max_pool2d at \[9\]: x: .* got \(3, 1, 1\)",
        ),
    ],
)
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
