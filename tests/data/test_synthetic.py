# SPDX-License-Identifier: Apache-2.0
"""Drawn data sets: exact geometry without noise, moments with it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import data, random

Pair = tuple[Tensor, Tensor]
DRAWS: dict[str, Callable[[Tensor], Pair]] = {
    "regression": lambda key: data.regression(key, 7, (2.0, -3.4, 5.0), noise=0.3),
    "line": lambda key: data.line(key, 7, noise=0.3),
    "birds": lambda key: data.birds(key, 7),
    "circles": lambda key: data.circles(key, 7),
    "checkerboard": lambda key: data.checkerboard(key, 7, noise=0.3),
    "spirals": lambda key: data.spirals(key, 7, classes=3),
}
SHAPES = {
    "regression": ((7, 3), (7,)),
    "line": ((7, 1), (7, 1)),
    "birds": ((14, 2), (14,)),
    "circles": ((7, 2), (7,)),
    "checkerboard": ((7, 2), (7,)),
    "spirals": ((7, 2), (7,)),
}
each = pytest.mark.parametrize("name", DRAWS)


@pytest.fixture
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@each
def test_is_a_function_of_the_key(name: str) -> None:
    draw, key = DRAWS[name], random.key(3)
    x, y = draw(key)
    assert (x.shape, y.shape) == SHAPES[name]
    assert x.dtype == torch.float32
    assert y.dtype == (torch.float32 if name in ("regression", "line") else torch.int64)
    again = draw(random.key(3))
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    assert not torch.equal(x, draw(random.key(5))[0])
    assert torch.equal(key, random.key(3))
    assert x.unique(dim=0).shape == x.shape  # no number is used twice


@each
def test_is_the_same_on_every_device(name: str, device: torch.device) -> None:
    x, y = DRAWS[name](random.key(3))
    with torch.device("meta"):  # the key's device counts, not the default
        found = DRAWS[name](random.key(3, device=device))
    assert found[0].device.type == found[1].device.type == device.type
    assert_close(found[0].cpu(), x)
    assert_close(found[1].cpu(), y)


@each
def test_maps_over_keys_and_compiles(name: str) -> None:
    draw, keys = DRAWS[name], random.split(random.key(3), 2)
    one_by_one = [draw(key) for key in keys]
    x, y = torch.vmap(draw)(keys)
    for i, (x_one, y_one) in enumerate(one_by_one):
        assert_close(x[i], x_one)
        assert_close(y[i], y_one)
    compiled = torch.compile(draw, fullgraph=True, backend="eager")(keys[0])
    assert_close(compiled, one_by_one[0])


def test_maps_over_keys_while_compiling() -> None:
    draw, keys = torch.vmap(DRAWS["circles"]), random.split(random.key(3), 2)
    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    assert_close(compiled(keys), draw(keys))


@each
def test_has_the_default_dtype(name: str, double: None) -> None:
    x, y = DRAWS[name](random.key(3))
    assert x.dtype == torch.float64
    assert y.dtype in (torch.float64, torch.int64)


def test_noise_and_shape_may_be_mapped_over() -> None:
    key, sigma = random.key(3), torch.tensor([0.2, 0.7])
    x, _ = torch.vmap(lambda s: data.circles(key, 5, noise=s, factor=s))(sigma)
    for i, s in enumerate((0.2, 0.7)):
        assert_close(x[i], data.circles(key, 5, noise=s, factor=s)[0])
    weights = torch.tensor([[2.0, -3.4], [5.0, 7.0]])
    _, y = torch.vmap(lambda w: data.regression(key, 5, w, 0.3))(weights)
    assert_close(y[1], data.regression(key, 5, (5.0, 7.0), 0.3)[1])


def test_regression_is_the_linear_function() -> None:
    weight = torch.tensor([2.0, -3.4, 0.7], dtype=torch.float64)
    x, y = data.regression(random.key(3), 5, weight, 4.2)
    assert x.dtype == y.dtype == torch.float64
    true = 2.0 * x[:, 0] - 3.4 * x[:, 1] + 0.7 * x[:, 2] + 4.2
    assert_close(y, true, rtol=1e-12, atol=1e-12)
    _, same = data.regression(random.key(3), 5, torch.tensor([2, -3, 7]))
    assert same.dtype == torch.float32


def test_regression_has_normal_inputs_and_noise() -> None:
    n, weight = 40_000, torch.tensor([2.0, -3.4], dtype=torch.float64)
    x, y = data.regression(random.key(3), n, weight, 4.2, noise=0.7)
    noise = (y - x @ weight - 4.2) / 0.7
    for sample in (x[:, 0], x[:, 1], noise):
        _assert_normal(sample)
    # Nor do they depend on one another.
    together = torch.stack([x[:, 0], x[:, 1], noise])
    assert_close(torch.corrcoef(together), torch.eye(3).double(), atol=0.03, rtol=0)
    x_one, y_one = data.regression(random.key(3), n, (2.0,), noise=0.7)
    pair = torch.stack([x_one[:, 0], y_one - 2.0 * x_one[:, 0]])
    assert abs(torch.corrcoef(pair)[0, 1]) < 0.03
    # The inputs are those of other arguments, too.
    assert torch.equal(x, data.regression(random.key(3), n, -weight, noise=5.0)[0])


def test_line_is_the_line_over_its_interval() -> None:
    x, y = data.line(
        random.key(3), 40_000, slope=2.5, intercept=-0.7, low=3.0, high=5.0
    )
    assert_close(y, 2.5 * x - 0.7)
    assert x.min() >= 3.0
    assert x.max() < 5.0
    assert_close(x.mean(), torch.tensor(4.0), atol=0.02, rtol=0)
    assert_close(x.var(), torch.tensor(4 / 12), atol=0.01, rtol=0)
    noisy = data.line(random.key(3), 40_000, slope=2.5, intercept=-0.7, noise=1.3)
    noise = (noisy[1] - 2.5 * noisy[0] + 0.7) / 1.3
    _assert_normal(noise[:, 0].double())
    assert abs(torch.corrcoef(torch.cat([noisy[0], noise], dim=1).T)[0, 1]) < 0.03


def test_line_is_that_of_the_course_by_default() -> None:
    x, y = data.line(random.key(3), 200)
    assert_close(y, 3 * x + 2)
    assert -2 <= x.min() < -1.9 < 1.9 < x.max() < 2


def test_birds_are_two_normal_clouds() -> None:
    n = 40_000
    x, y = data.birds(random.key(3), n)
    assert torch.equal(y, torch.tensor([0] * n + [1] * n))
    for label, mean in enumerate(((8.0, 7.0), (5.0, 3.0))):
        for feature in range(2):
            found = x[y == label][:, feature].double()
            _assert_normal((found - mean[feature]) / 1.5)
    assert abs(torch.corrcoef(x[:n].T)[0, 1]) < 0.03
    assert len(data.birds(random.key(3))[0]) == 20


def test_circles_are_circles() -> None:
    x, y = data.circles(random.key(3), 7, noise=0.0, factor=0.3)
    assert y.tolist() == [0, 0, 0, 0, 1, 1, 1]
    radius = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.3, 0.3, 0.3])
    assert_close(x.norm(dim=1), radius)
    x, y = data.circles(random.key(3), 40_000, noise=0.0)
    # Uniform angles: no direction is preferred, up to the fourth harmonic.
    angle = torch.atan2(x[:, 1], x[:, 0]).double()
    for k in range(1, 5):
        assert (k * angle).cos().mean().abs() < 0.02
        assert (k * angle).sin().mean().abs() < 0.02
    noisy, _ = data.circles(random.key(3), 40_000, noise=0.2)
    _assert_normal(((noisy - x) / 0.2)[:, 0].double())
    _assert_normal(((noisy - x) / 0.2)[:, 1].double())


@pytest.mark.parametrize("squares", [1, 2, 3, 5])
def test_checkerboard_has_the_colours_of_its_squares(squares: int) -> None:
    x, y = data.checkerboard(random.key(3), 500, squares=squares)
    assert x.min() >= -1
    assert x.max() < 1
    edges = [-1 + 2 * i / squares for i in range(squares + 1)]
    for (a, b), label in zip(x.tolist(), y.tolist(), strict=True):
        column = sum(a >= edge for edge in edges[1:-1])
        row = sum(b >= edge for edge in edges[1:-1])
        assert label == (column + row) % 2
    noisy, same = data.checkerboard(random.key(3), 500, squares=squares, noise=0.3)
    assert torch.equal(y, same)
    assert_close((noisy - x).std(), torch.tensor(0.3), atol=0.03, rtol=0)


def test_checkerboard_is_uniform() -> None:
    x, y = data.checkerboard(random.key(3), 40_000)
    assert_close(x.mean(0), torch.zeros(2), atol=0.02, rtol=0)
    assert_close(x.var(0), torch.full((2,), 1 / 3), atol=0.01, rtol=0)
    assert_close(y.double().mean(), torch.tensor(0.5).double(), atol=0.02, rtol=0)
    assert y.unique().tolist() == [0, 1]


def test_spirals_turn_with_the_radius() -> None:
    x, y = data.spirals(random.key(3), 301, classes=3, turns=0.75, noise=0.0)
    assert y.bincount().tolist() == [101, 100, 100]
    assert torch.equal(y, y.sort().values)
    radius = x.norm(dim=1)
    angle = 2 * math.pi * (0.75 * radius + y / 3)
    assert_close(torch.atan2(x[:, 1], x[:, 0]).sin(), angle.sin(), atol=1e-5, rtol=0)
    assert_close(torch.atan2(x[:, 1], x[:, 0]).cos(), angle.cos(), atol=1e-5, rtol=0)
    assert radius.min() < 0.02
    assert 0.98 < radius.max() < 1
    noisy, _ = data.spirals(random.key(3), 301, classes=3, turns=0.75, noise=0.2)
    assert_close((noisy - x).std(), torch.tensor(0.2), atol=0.03, rtol=0)


def _assert_normal(sample: Tensor) -> None:
    # Mean, variance, skewness and kurtosis within 5 standard errors, and no fewer than
    # 20 000 numbers, so that a uniform sample (kurtosis 1.8) is refused.
    n = len(sample)
    assert n >= 20_000
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        found = sample.pow(power).mean().item()
        assert abs(found - moment) < 5 * math.sqrt(spread / n)


KEY = random.key(3)
untyped: Any = data
BAD: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("n", lambda: untyped.regression(KEY, 0, (2.0,)), ValueError, "1 or more, got 0"),
    ("n", lambda: untyped.line(KEY, -3), ValueError, "1 or more, got -3"),
    ("n", lambda: untyped.birds(KEY, 0), ValueError, "1 or more, got 0"),
    ("n", lambda: untyped.circles(KEY, 1), ValueError, "2 or more, got 1"),
    ("n", lambda: untyped.checkerboard(KEY, 0), ValueError, "1 or more, got 0"),
    ("n", lambda: untyped.spirals(KEY, 2, classes=3), ValueError, "3 or more, got 2"),
    ("n", lambda: untyped.birds(KEY, 2.5), TypeError, r"an int, got float 2\.5"),
    ("n", lambda: untyped.line(KEY, True), TypeError, "an int, got bool True"),
    ("classes", lambda: untyped.spirals(KEY, 5, classes=0), ValueError, "got 0"),
    ("squares", lambda: untyped.checkerboard(KEY, 5, squares=0), ValueError, "got 0"),
    ("noise", lambda: untyped.line(KEY, 5, noise=-0.1), ValueError, r"got -0\.1"),
    ("noise", lambda: untyped.circles(KEY, 5, noise=math.nan), ValueError, "got nan"),
    ("noise", lambda: untyped.spirals(KEY, 5, noise="a"), TypeError, "got str 'a'"),
    ("noise", lambda: untyped.checkerboard(KEY, 5, noise=-2), ValueError, "got -2"),
    (
        "noise",
        lambda: untyped.regression(KEY, 5, (2.0,), noise=math.inf),
        ValueError,
        "a finite number of 0 or more, got inf",
    ),
    ("sigma", lambda: untyped.birds(KEY, sigma=-1.5), ValueError, r"got -1\.5"),
    ("factor", lambda: untyped.circles(KEY, 5, factor=0), ValueError, "0 and 1, got 0"),
    ("factor", lambda: untyped.circles(KEY, 5, factor=1.0), ValueError, r"got 1\.0"),
    (
        "low",
        lambda: untyped.line(KEY, 5, low=3.0),
        ValueError,
        r"low = 3\.0 and high = 2",
    ),
    ("low", lambda: untyped.line(KEY, 5, low=-math.inf), ValueError, "low = -inf"),
    ("weight", lambda: untyped.regression(KEY, 5, ()), ValueError, r"got \(0,\)"),
    (
        "weight",
        lambda: untyped.regression(KEY, 5, torch.full((3, 2), 5.0)),
        ValueError,
        r"shape \(d,\), got \(3, 2\)",
    ),
    ("weight", lambda: untyped.regression(KEY, 5, "ab"), TypeError, "got str 'ab'"),
    (
        "weight",
        lambda: untyped.regression(KEY, 5, [[2.0]]),
        TypeError,
        r"list \[\[2\.0\]",
    ),
]


@pytest.mark.parametrize(("argument", "call", "kind", "text"), BAD)
def test_refuses(
    argument: str, call: Callable[[], Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=rf"^data\.\w+: {argument}: expected .*{text}"):
        call()


@pytest.mark.parametrize("draw", [data.birds, data.circles, data.line, data.spirals])
def test_refuses_a_seed_for_a_key(draw: Any) -> None:
    with pytest.raises(TypeError, match=r"key: expected one key.*random\.key\(3\)"):
        draw(3, 5)
