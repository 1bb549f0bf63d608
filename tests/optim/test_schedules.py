# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from functorch_lab.optim import schedules

STEPS = torch.arange(0, 23, dtype=torch.float64)
TORCH = {
    "constant": (
        schedules.constant(0.7),
        lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
    ),
    "linear": (
        schedules.linear(0.7, 0.14, 11),
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, 11),
    ),
    "exponential": (
        schedules.exponential(0.7, 0.83),
        lambda o: lr_scheduler.ExponentialLR(o, 0.83),
    ),
    "step": (schedules.step(0.7, 5, 0.3), lambda o: lr_scheduler.StepLR(o, 5, 0.3)),
    "warmup": (
        schedules.warmup(0.7, 11, init_value=0.14),
        lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 11),
    ),
    "warmup_then_step": (
        schedules.warmup(schedules.step(0.7, 5, 0.3), 7, init_value=0.14),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.2, 1.0, 7), lr_scheduler.StepLR(o, 5, 0.3)],
            [7],
        ),
    ),
}


def torch_values(make):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.7)
    scheduler = make(optimizer)
    values = []
    for _ in STEPS:
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_schedules_are_torchs(name):
    ours, theirs = TORCH[name]
    expected = torch_values(theirs)
    torch.testing.assert_close(ours(STEPS), expected, rtol=1e-12, atol=1e-15)
    single = ours(STEPS.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=3e-6, atol=1e-7)


def optax_cases(optax):
    return {
        "constant": (schedules.constant(0.7), optax.constant_schedule(0.7)),
        "linear": (schedules.linear(0.7, 0.2, 11), optax.linear_schedule(0.7, 0.2, 11)),
        "cosine": (
            schedules.cosine(0.7, 11, end_value=0.14),
            optax.cosine_decay_schedule(0.7, 11, alpha=0.2),
        ),
        "exponential": (
            schedules.exponential(0.7, 0.83),
            optax.exponential_decay(0.7, 1, 0.83),
        ),
        "warmup_cosine": (
            schedules.warmup(schedules.cosine(0.7, 9, 0.1), 5, init_value=0.3),
            optax.warmup_cosine_decay_schedule(0.3, 0.7, 5, 14, 0.1),
        ),
    }


@pytest.mark.parametrize(
    "name", ["constant", "linear", "cosine", "exponential", "warmup_cosine"]
)
def test_schedules_are_optaxs(name):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    with jax.enable_x64(True):
        ours, theirs = optax_cases(optax)[name]
        expected = [float(np.asarray(theirs(step))) for step in range(len(STEPS))]
    got = ours(STEPS)
    torch.testing.assert_close(
        got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("name", TORCH)
def test_an_integer_step_gives_the_default_dtype(name):
    value = TORCH[name][0](torch.tensor(3))
    assert (value.dtype, value.shape) == (torch.float32, torch.Size())
    torch.testing.assert_close(value, TORCH[name][0](torch.tensor(3.0)))


def test_values_may_be_tensors_and_have_gradients():
    peak = torch.tensor(0.7, dtype=torch.float64)
    step = torch.tensor(3.0, dtype=torch.float64)
    slope = torch.func.grad(lambda p: schedules.linear(p, 0.2, 5)(step))(peak)
    torch.testing.assert_close(slope, torch.tensor(0.4, dtype=torch.float64))


def test_bad_values_are_refused_by_name():
    where = r"optim\.schedules\."
    with pytest.raises(
        ValueError, match=where + r"cosine: decay_steps: .* >= 1, got 0"
    ):
        schedules.cosine(0.7, 0)
    with pytest.raises(TypeError, match=where + r"step: step_size: .* got 2\.5"):
        schedules.step(0.7, 2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=where + r"constant: value: .* got nan"):
        schedules.constant(float("nan"))
    with pytest.raises(ValueError, match=where + r"linear: init_value: .* got inf"):
        schedules.linear(torch.tensor(float("inf")), 0.1, 5)
    with pytest.raises(TypeError, match=where + r"linear: end_value: .* got str"):
        schedules.linear(0.7, "low", 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match=where + r"exponential: gamma: .* > 0, got -0\.5"
    ):
        schedules.exponential(0.7, -0.5)
    with pytest.raises(TypeError, match=r"cosine: T_max: .* Write decay_steps="):
        schedules.cosine(0.7, T_max=5)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match=where + r"warmup: warmup_steps: .* got -1"):
        schedules.warmup(0.7, -1)
