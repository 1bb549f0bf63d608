# SPDX-License-Identifier: Apache-2.0
"""Lesson 8: its paths and numbers against NumPy in float64 and torch.optim."""

import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from course import run
from functorch_lab import lessons
from functorch_lab.transforms import _failure

GRADIENTS = {
    "bowl": lambda x, y: (x, y),
    "ravine": lambda x, y: (x, 25 * y),
    "double_well": lambda x, y: (4 * x * (x**2 - 1) + 0.3, 2 * y),
    "rosenbrock": lambda x, y: (
        -2 * (1 - x) - 400 * x * (y - x**2),
        200 * (y - x**2),
    ),
}
LOSSES = {
    "bowl": lambda x, y: (x**2 + y**2) / 2,
    "ravine": lambda x, y: (x**2 + 25 * y**2) / 2,
    "double_well": lambda x, y: (x**2 - 1) ** 2 + 0.3 * x + y**2,
    "rosenbrock": lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
}
DIVIDED = ("RMSProp", "Adagrad", "Adam")


def lesson(name):
    return run("optimizers").variables[name]


def printed():
    return run("optimizers").printed


def numbers(label):
    """The numbers of the printed line that begins so, behind its label."""
    lines = [line for line in printed().splitlines() if line.startswith(label)]
    assert len(lines) == 1, (label, lines)
    rest = lines[0].removeprefix(label)
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?", rest)]


def surfaces():
    return {surface.__name__: surface for surface in lesson("levels")}


def starts():
    return lesson("starts").double().numpy()


def updates(method, lr):
    """The rule of a method as a function of the gradients so far, in NumPy."""
    mean, square, count = 0.0, 0.0, 0

    def update(g):
        nonlocal mean, square, count
        count += 1
        if method == "momentum":
            mean = 0.9 * mean + g
            return -lr * mean
        if method == "RMSProp":
            square = 0.97 * square + 0.03 * g**2
            return -lr * g / (np.sqrt(square) + 1e-8)
        if method == "Adagrad":
            square = square + g**2
            return -lr * g / (np.sqrt(square) + 1e-10)
        if method == "Adam":
            mean = 0.9 * mean + 0.1 * g
            square = 0.999 * square + 0.001 * g**2
            root = np.sqrt(square / (1 - 0.999**count)) + 1e-8
            return -lr * mean / (1 - 0.9**count) / root
        return -lr * g

    return update


@np.errstate(all="ignore")
def walk(surface, update, points, noise):
    """The path of points (..., 2) with noise (..., steps, 2), steps first."""
    path = [points]
    for step in range(noise.shape[-2]):
        x, y = path[-1][..., 0], path[-1][..., 1]
        g = np.stack(GRADIENTS[surface](x, y), -1) + noise[..., step, :]
        path.append(path[-1] + update(g))
    return np.stack(path)


def loss_at(surface, points):
    return LOSSES[surface](points[..., 0], points[..., 1])


def best_paths(surface, method):
    pair = surfaces()[surface], method
    return lesson("paths")[pair][lesson("best")[pair]]


@pytest.mark.parametrize("name", GRADIENTS)
def test_surfaces_and_their_lowest_points(name):
    points = torch.tensor([[0.7, -1.3], [-1.1, 0.4]], dtype=torch.float64)
    value, grads = fl.vmap(fl.value_and_grad(surfaces()[name]))(points)
    x, y = points.numpy().T
    assert_close(value, torch.tensor(LOSSES[name](x, y)), rtol=1e-12, atol=0)
    expected = torch.tensor(np.stack(GRADIENTS[name](x, y), -1))
    assert_close(grads, expected, rtol=1e-12, atol=1e-14)
    lowest = np.array(lesson("lowest")[surfaces()[name]], float)
    assert np.abs(GRADIENTS[name](*lowest)).max() < 0.05


def test_the_left_well_is_the_deeper_one():
    left, _, right = np.sort(np.roots([4, 0, -4, 0.3]).real)
    assert round(left, 2) == -1.04
    well = LOSSES["double_well"]
    assert well(left, 0) < well(right, 0)


def test_too_small_right_too_large():
    for lr in (0.004, 0.07, 0.082):
        x, y = -1.8 * (1 - lr) ** 100, 0.7 * (1 - 25 * lr) ** 100
        (loss,) = numbers(f"lr {lr:<5}  loss after 100 steps")
        assert loss == pytest.approx((x**2 + 25 * y**2) / 2, rel=0.05, abs=1e-9)
    assert numbers("across") == pytest.approx([2 / 25, 1 - 0.07 * 25])
    assert numbers("along") == pytest.approx([2.0, 1 - 0.07])


def test_all_starting_points_at_once():
    found = lesson("together")
    powers = np.arange(101)[None, :, None]
    factor = np.array([1 - 0.07, 1 - 25 * 0.07])
    expected = torch.tensor(starts()[:, None] * factor**powers).float()
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert "one path: (101, 2)  all paths at once: (5, 101, 2)" in printed()


@pytest.mark.parametrize(
    ("name", "make", "theirs"),
    [
        ("momentum", {"lr": 0.1}, (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})),
        ("rmsprop", {"lr": 0.1}, (torch.optim.RMSprop, {"lr": 0.1})),
        ("adam", {"lr": 0.1}, (torch.optim.Adam, {"lr": 0.1})),
        ("adagrad", {"lr": 0.1}, (torch.optim.Adagrad, {"lr": 0.1})),
    ],
)
def test_the_pairs_are_torch_s_optimizers(name, make, theirs):
    pair = lesson(name)(**make)
    params = {"w": torch.tensor([[0.3, -1.7, 2.2]]), "b": torch.tensor([0.9, -0.4])}
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    kind, options = theirs
    optimizer = kind(leaves, **options)
    state = pair.init(params)
    for scale in (1.3, -0.2, 0.7, 5.0):
        grads = {key: scale * leaf**2 for key, leaf in params.items()}
        for leaf, g in zip(leaves, grads.values(), strict=True):
            leaf.grad = g.clone()
        optimizer.step()
        found, state = pair.update(grads, state, params)
        params = fl.tree.add(params, found)
    for leaf, found in zip(leaves, params.values(), strict=True):
        assert_close(found, leaf.detach(), rtol=1e-4, atol=1e-5)


def test_first_steps_and_the_loss_of_mine_and_of_the_library():
    g = np.array(GRADIENTS["rosenbrock"](*starts()[0]))
    first = {
        "momentum": 0.0005 * np.linalg.norm(g),
        "RMSProp": 0.01 * 10 * np.sqrt(2),  # 1 / sqrt(1 - alpha) times too long
        "Adam": 0.1 * np.sqrt(2),
    }
    for name, length in first.items():
        step, mine, library = numbers(name + " " * (10 - len(name)) + "first step")
        assert step == pytest.approx(length, abs=1e-4)
        assert mine == pytest.approx(library, abs=2e-4)


@pytest.mark.parametrize("method", ["gradient descent", "SGD", "momentum", *DIVIDED])
def test_the_sweep(method):
    rates = lesson("rates").double().numpy()
    noise = np.zeros((5, 100, 2))
    if method == "SGD":
        noise = lesson("normal").double().numpy()
    points = np.broadcast_to(starts(), (9, 5, 2))
    for column, surface in enumerate(surfaces()):
        lr = rates[:, None, None]
        end = walk(surface, updates(method, lr), points, noise)[-1]
        with np.errstate(all="ignore"):
            expected = loss_at(surface, end).mean(1)
        pair = surfaces()[surface], method
        found = lesson("losses")[pair].double().numpy()
        best = lesson("best")[pair]
        calm = rates <= rates[best]  # beyond, rounding may decide where a run goes
        assert np.isfinite(expected[calm]).all()
        assert found[calm] == pytest.approx(expected[calm], rel=2e-2, abs=1e-5)
        assert (found[:best] > found.min() + 1e-3).all()
        assert found[best] <= found.min() + 1e-3
        label = method + " " * (16 - len(method))
        lines = [s for s in printed().splitlines() if s.startswith(label)]
        shown = float(lines[0].removeprefix(label).split()[column])
        assert shown == pytest.approx(rates[best], abs=1e-4)


@pytest.mark.parametrize("surface", ["ravine", "rosenbrock"])
def test_who_has_a_cliff(surface):
    losses = lesson("losses")
    for method in lesson("methods"):
        finite = losses[surfaces()[surface], method].isfinite()
        assert bool(finite.all()) == (method in DIVIDED)
    plain, noisy = [
        losses[surfaces()["rosenbrock"], m] for m in ("gradient descent", "SGD")
    ]
    finite = plain.isfinite()
    assert_close(noisy[finite], plain[finite], rtol=5e-2, atol=0)


def test_on_the_bowl():
    straight = best_paths("bowl", "gradient descent")
    crossed = (
        straight[:, :, 0] * straight[:, :1, 1]
        - straight[:, :, 1] * (straight[:, :1, 0])
    )
    assert crossed.abs().max() < 1e-5
    noisy = best_paths("bowl", "SGD")[:, -1].norm(dim=-1)
    assert (noisy > 100 * straight[:, -1].norm(dim=-1)).all()
    along = best_paths("bowl", "momentum")
    assert (along[:, 1:].diff(dim=1) * along[:, :1] < 0).float().mean() > 0.5
    rate = {m: lesson("best")[surfaces()["bowl"], m] for m in lesson("methods")}
    rates = lesson("rates")
    assert rates[rate["momentum"]] < 0.1 * rates[rate["gradient descent"]]
    for method in DIVIDED:
        path = best_paths("bowl", method)
        step = (path[:, 1] - path[:, 0]).abs()
        assert_close(step[:, 0], step[:, 1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", DIVIDED)
def test_those_that_divide_do_not_see_the_ravine(method):
    paths = lesson("paths")
    rate = 5
    bowl, ravine = [paths[surfaces()[s], method][rate] for s in ("bowl", "ravine")]
    assert_close(ravine, bowl, rtol=1e-3, atol=1e-4)


def test_in_the_ravine_descent_goes_across_and_then_along():
    path = best_paths("ravine", "gradient descent")
    assert (path[:, 5, 1].abs() < 0.01 * path[:, 0, 1].abs()).all()
    assert (path[:, 5, 0].abs() > 0.8 * path[:, 0, 0].abs()).all()
    swung = best_paths("ravine", "momentum")[:, :, 1]
    assert ((swung[:, 1:] * swung[:, :-1] < 0).sum(1) >= 4).all()


def test_in_the_double_well_the_start_decides():
    for method in lesson("methods"):
        path = best_paths("double_well", method)
        assert (path[:, -1, 0] * path[:, 0, 0] > 0).all()
        assert printed().count(f"{method:16}  3 of 5 runs end on the left") == 1
    assert (starts()[:, 0] < 0).sum() == 3


def test_none_arrives_on_rosenbrock():
    off_floor = []
    for method in lesson("methods"):
        path = best_paths("rosenbrock", method)
        assert (path[:, -1] - 1).norm(dim=-1).min() > 0.1
        x, y = path[:, 20].unbind(-1)
        off_floor.append((y - x**2).abs() < 0.2)
    assert torch.stack(off_floor).float().mean() > 0.7


def test_decay_and_the_floor_of_a_constant_rate():
    noise = lesson("many").double().numpy()
    count = np.arange(150)
    rates = {
        "constant 0.4": np.full(150, 0.4),
        "constant 0.04": np.full(150, 0.04),
        "step": 0.4 * 0.1 ** (count // 50),
        "exponential": 0.4 * 0.97**count,
        "cosine": 0.2 * (1 + np.cos(np.pi * count / 150)),
    }
    losses = {}
    for name, rate in rates.items():
        found = torch.as_tensor(lesson("schedules")[name](torch.arange(150)))
        assert_close(found, torch.tensor(rate).float(), rtol=1e-4, atol=1e-6)
        points = np.broadcast_to(starts()[0], (1000, 2))
        means = [loss_at("bowl", points).mean()]
        for step, lr in enumerate(rate):
            points = points - lr * (points + noise[:, step])
            means.append(loss_at("bowl", points).mean())
        label = f"{name:13}  mean loss after 30 steps"
        _, late = losses[name] = numbers(label)
        assert losses[name] == pytest.approx([means[30], means[-1]], abs=1e-3)
        assert late == pytest.approx(means[-1], abs=1e-4)
        if name.startswith("constant"):
            (floor,) = numbers(f"lr / (2 - lr) for lr = {rate[0]:<4}")
            assert floor == pytest.approx(rate[0] / (2 - rate[0]), abs=1e-4)
            assert late == pytest.approx(floor, rel=0.1)
    for name in ("step", "exponential", "cosine"):
        assert losses[name][1] < 0.1 * losses["constant 0.4"][1]
        assert losses[name][1] < 1.1 * losses["constant 0.04"][1]


def test_accumulation_is_the_large_batch():
    x, y = [lesson(name).double().numpy() for name in ("x", "y")]
    error = 0.5 * x - 0.5 - y
    expected = {"w": (2 * error * x).mean(), "b": (2 * error).mean()}
    for label, factor in [
        ("batch of 32", 1),
        ("mean of 4 x 8", 1),
        ("sum of 4 x 8", 4),
    ]:
        w, b = numbers(f"{label:14}")
        assert w == pytest.approx(factor * expected["w"], abs=2e-5)
        assert b == pytest.approx(factor * expected["b"], abs=2e-5)
    params = fl.tree.cast(lesson("params"), torch.float64)
    gradient = fl.grad(lesson("line_loss"))
    x, y = lesson("x").double(), lesson("y").double()
    parts = [gradient(params, x[i : i + 8], y[i : i + 8]) for i in range(0, 32, 8)]
    for name, value in gradient(params, x, y).items():
        mean = torch.stack([part[name] for part in parts]).mean()
        assert_close(mean, value, rtol=1e-14, atol=0)


def test_the_compiled_step():
    assert lesson("fast_step").traces == 1
    assert "traces of the step so far: 1" in printed()
    times = re.findall(r"^(?:eager|jit), .*? (\d+\.\d+) (ms|s|us)$", printed(), re.M)
    assert [unit for _, unit in times] == ["ms", "s", "us"]
    assert all(float(time) > 0 for time, _ in times)
    points = lesson("grid").double().numpy()
    for momentum, least, most in [(0.0, 0.0, 0.1), (0.9, 0.6, 1.0)]:
        end, velocity = points, 0.0
        for _ in range(2000):
            g = np.stack(GRADIENTS["rosenbrock"](end[:, 0], end[:, 1]), -1)
            velocity = momentum * velocity + g
            end = end - 0.0002 * velocity
        share = (loss_at("rosenbrock", end) < 0.01).mean()
        assert least < share < most
        found = numbers(f"momentum {momentum}  loss below 0.01 from")
        assert found == pytest.approx([100 * share], abs=1)


def test_classic_pytorch_comes_to_the_same_place():
    noise = np.zeros((100, 2))
    for name, lr in [("SGD", 0.0005), ("momentum", 0.0005), ("Adagrad", 0.1)]:
        end = walk("rosenbrock", updates(name, lr), starts()[0], noise)[-1]
        found = numbers(f"{name:8}  here")
        assert found == pytest.approx([*end, *end], abs=2e-4)


def cell(tag_of, number):
    found = lessons.notebook("optimizers").cells
    tagged = [c.source for c in found if tag_of in c.metadata.get("tags", [])]
    return tagged[number - 1]


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (1, "2 / max", "2 / min"),
        (1, "2 / max", "1 / max"),
        (2, "t + g**2", "0.9 * t + 0.1 * g**2"),
        (2, "-lr * g", "lr * g"),
        (3, "[cos, sin], [-sin, cos]", "[cos, -sin], [sin, cos]"),
        (3, "turned(point, -degrees)", "point"),
    ],
)
def test_a_wrong_answer_is_told(number, old, new):
    variables = dict(run("optimizers").variables)
    wrong = cell("solution", number)
    assert old in wrong
    exec(wrong.replace(old, new), variables)
    with pytest.raises(AssertionError, match=f"^exercise {number}: "):
        exec(cell("check", number), variables)


def test_limit_and_turned():
    assert lesson("limit")([3, 8, 5]) == 0.25
    turned = lesson("turned")(torch.tensor([2.0, 3.0]), 30)
    z = (2 + 3j) * np.exp(1j * np.pi / 6)
    assert_close(turned, torch.tensor([z.real, z.imag]).float())


def test_the_step_runs_without_a_compiler(monkeypatch, capsys):
    def refuse(*args, **options):
        raise RuntimeError("torch.compile is not supported on this machine")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(_failure, "_warned", [])
    source = [c.source for c in lessons.notebook("optimizers").cells]
    (code,) = [text for text in source if "fast_step = fl.jit(step)" in text]
    with pytest.warns(RuntimeWarning, match="Functions run eagerly"):
        exec(code, dict(run("optimizers").variables))
    assert "jit, each later call" in capsys.readouterr().out
