# SPDX-License-Identifier: Apache-2.0
"""Lesson 3 against NumPy in float64, jax's random numbers and torch.nn."""

import math
import re
from itertools import pairwise

import jax
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from course import run

N, BATCH, LR, EPOCHS = 1000, 32, 0.03, 3
WEIGHT, BIAS, NOISE = np.array([2.0, -3.4]), 4.2, 0.01
KEYS = jax.random.split(jax.random.key(0), 5)


def lesson():
    return run("minibatches").variables


def printed(label):
    """The numbers that the lesson printed behind a label, in each line that has it."""
    lines = re.findall(rf"^{re.escape(label)}(.*)$", run("minibatches").printed, re.M)
    assert lines, label
    return [[float(v) for v in re.findall(r"-?\d+\.?\d*", line)] for line in lines]


def samples(x="x", y="y"):
    return [lesson()[name].double().numpy() for name in (x, y)]


def order(epoch):
    key = jax.random.fold_in(KEYS[4], epoch)
    return np.array(jax.random.permutation(key, N))


def half_mse(theta, x, y):
    return float(np.mean((x @ theta[:2] + theta[2] - y) ** 2) / 2)


def slopes(theta, x, y):
    apart = x @ theta[:2] + theta[2] - y
    return np.array([*(apart @ x), apart.sum()]) / len(y)


def start():
    return np.array([*lesson()["initial"]["weight"].double().tolist(), 0.0])


def descend(batches, limit=math.inf):
    """Gradient descent by hand: the params, and the length of each gradient."""
    theta, lengths = start(), []
    for x, y in batches:
        gradient = slopes(theta, x, y)
        lengths.append(np.linalg.norm(gradient))
        theta = theta - LR * gradient * min(1.0, limit / lengths[-1])
    return theta, np.array(lengths)


def in_batches(epochs, x, y, order_of=order):
    for epoch in range(epochs):
        for rows in order_of(epoch)[: N // BATCH * BATCH].reshape(-1, BATCH):
            yield x[rows], y[rows]


def flat(params):
    return torch.cat([params["weight"], params["bias"][None]]).double().numpy()


def close(got, expected, rtol=2e-4, atol=2e-5):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def error(theta):
    return np.abs(theta - np.array([*WEIGHT, BIAS]))


def test_one_key_draws_twice_the_same_and_two_keys_do_not():
    features, noises = printed("  feature"), printed("  noise")
    assert features[0] == noises[0]
    assert not set(features[1]) & set(noises[1])
    for key, shown in (
        (jax.random.key(7), features[0]),
        (jax.random.split(jax.random.key(7))[0], features[1]),
        (jax.random.split(jax.random.key(7))[1], noises[1]),
    ):
        close(shown, jax.random.normal(key, (4,)), atol=6e-5)


@pytest.mark.parametrize("names", [("x", "y"), ("x_valid", "y_valid")])
def test_data_are_those_of_the_exercise(names):
    x, y = samples(*names)
    assert x.shape == (N, 2)
    found, rest, *_ = np.linalg.lstsq(np.c_[x, np.ones(N)], y, rcond=None)
    close(found, [*WEIGHT, BIAS], atol=2e-3)
    assert math.sqrt(rest[0] / N) == pytest.approx(NOISE, rel=0.1)
    close(x.mean(0), 0, atol=0.1)
    close(x.std(0), 1, rtol=0.1)


def test_training_and_validation_share_no_sample():
    values = torch.cat([lesson()["y"], lesson()["y_valid"]])
    assert len(values.unique()) > 1990


def test_initial_weights_have_deviation_a_hundredth_and_the_bias_is_zero():
    initial = lesson()["initial"]
    expected = 0.01 * np.asarray(jax.random.normal(KEYS[2], (2,)))
    close(initial["weight"], expected, atol=1e-7)
    assert float(initial["bias"]) == 0
    assert printed("loss before training:") == [
        [pytest.approx(half_mse(start(), *samples()), abs=6e-5)]
    ]


def test_the_loss_is_half_the_squared_error():
    x, y = samples()
    theta = np.array([0.3, -0.7, 1.9])
    params = {"weight": torch.tensor([0.3, -0.7]), "bias": torch.tensor(1.9)}
    value = lesson()["loss"](params, lesson()["x"], lesson()["y"])
    assert float(value) == pytest.approx(half_mse(theta, x, y), rel=1e-5)


def test_batches_are_off_by_what_is_said():
    x, y = samples()
    full = slopes(start(), x, y)
    rows = np.asarray(jax.random.permutation(KEYS[3], N))
    shares = []
    for size in (8, 32, 128):
        cut = rows[: N // size * size].reshape(-1, size)
        apart = [np.linalg.norm(slopes(start(), x[r], y[r]) - full) for r in cut]
        shares.append(100 * np.mean(apart) / np.linalg.norm(full))
        assert printed(f"batch of {size:3}:") == [[pytest.approx(shares[-1], abs=0.06)]]
    # "Four times as many samples halve the deviation"
    for few, many in pairwise(shares):
        assert 1.6 < few / many < 2.4


def test_steps_are_epochs_times_samples_by_batch():
    assert printed("samples / batch:") == [[31.25, 8]]
    assert printed("epochs x samples / batch:") == [[93.75]]
    assert printed("steps, last batch kept:") == [[EPOCHS * math.ceil(N / BATCH)]]
    assert printed("steps, last batch filled:") == [[96]]
    assert printed("steps, last batch left out:") == [[EPOCHS * (N // BATCH)]]
    assert len(lesson()["training"]) == 93
    assert lesson()["sizes"] == [32] * 31 + [8]


def test_what_is_left_out_of_an_epoch_is_used_in_the_next():
    left_out = [set(order(epoch)[-8:].tolist()) for epoch in range(EPOCHS)]
    assert not set.intersection(*left_out)


def test_training_is_gradient_descent_over_jaxs_permutations():
    theta, _ = descend(in_batches(EPOCHS, *samples()))
    close(flat(lesson()["params"]), theta)
    (shown,) = printed("batches, 93 steps")
    close(shown, error(theta), atol=1.1e-4)
    for epoch in range(EPOCHS):
        theta, _ = descend(in_batches(epoch + 1, *samples()))
        (losses,) = printed(f"epoch {epoch + 1}: validation loss")
        assert losses[0] == pytest.approx(
            half_mse(theta, *samples("x_valid", "y_valid")), 1e-3
        )


def test_all_samples_at_once_hardly_leave_the_start():
    theta, _ = descend([samples()] * EPOCHS)
    close(flat(lesson()["all_at_once"]), theta)
    close(printed("all samples, 3 steps")[0], error(theta), atol=1.1e-4)
    at_start = half_mse(start(), *samples("x_valid", "y_valid"))
    assert 0.8 * at_start < lesson()["few"][-1] < at_start


def test_ten_epochs_reach_the_noise():
    floor = NOISE**2 / 2
    assert printed("loss of the noise alone:") == [[floor]]
    assert lesson()["long_validation"][-1] == pytest.approx(floor, rel=0.1)
    assert lesson()["validation"][-1] > 500 * floor
    assert error(flat(lesson()["longer"])).max() < 5e-4
    assert len(lesson()["long_training"]) == 310


def test_training_and_validation_loss_agree():
    validation = lesson()["long_validation"]
    ends = np.array(lesson()["long_training"]).reshape(10, 31)[:, -5:].mean(1)
    assert (np.abs(np.log(ends / validation)) < 0.5).all()


def test_three_loaders_end_with_the_same_bits():
    ends = {
        lesson()["fit"](lesson()["initial"], 3, loader)[0]["weight"].numpy().tobytes()
        for loader in lesson()["loaders"].values()
    }
    assert ends == {lesson()["params"]["weight"].numpy().tobytes()}
    shown = [printed(name)[0] for name in ("by hand", "by key", "DataLoader")]
    assert shown[0] == shown[1] == shown[2]
    close(shown[0], flat(lesson()["params"]), rtol=0, atol=6e-9)
    equal = re.findall(
        r"^(?:by|Data).* equal: (\w+)$", run("minibatches").printed, re.M
    )
    assert equal == ["True"] * 3


@pytest.mark.parametrize("name", ["by hand", "by key", "DataLoader"])
def test_each_loader_gives_the_samples_of_the_key(name):
    batches = list(lesson()["loaders"][name](1))
    for rows, (x, y) in zip(order(1)[:992].reshape(31, 32), batches, strict=True):
        assert_close(x, lesson()["x"][rows], rtol=0, atol=0)
        assert_close(y, lesson()["y"][rows], rtol=0, atol=0)


def test_the_file_holds_the_samples_and_trains_to_the_same_bits():
    row = [*lesson()["x"][0].tolist(), lesson()["y"][0].item()]
    assert ",".join(str(v) for v in row) in run("minibatches").printed.splitlines()
    for a, b in (("x_file", "x"), ("from_file", "params"), ("from_stream", "in_order")):
        assert_close(lesson()[a], lesson()[b], rtol=0, atol=0)
    assert_close(lesson()["table"]["y"], lesson()["y"], rtol=0, atol=0)


def test_the_stream_comes_in_the_order_of_the_file():
    theta, _ = descend(in_batches(EPOCHS, *samples(), order_of=lambda _: np.arange(N)))
    close(flat(lesson()["from_stream"]), theta)
    close(printed("order of the file")[0], error(theta), atol=1.1e-4)
    # "their order is as good as any"
    close(error(theta), error(flat(lesson()["params"])), rtol=0.1)
    assert not lesson()["path"].exists()


@pytest.mark.parametrize("size", [0.3, 5.0, 700.0])
def test_clipping_is_torchs(size):
    grads = {
        "weight": torch.tensor([0.6, -0.3]) * size,
        "bias": torch.tensor(0.7) * size,
    }
    torchs = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads.values()]
    for parameter, g in zip(torchs, grads.values(), strict=True):
        parameter.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(torchs, 10.0)
    clipped = lesson()["clip"](grads, 10.0)
    assert_close(list(clipped.values()), [p.grad for p in torchs])


def test_one_broken_sample_makes_a_step_longer_than_the_whole_way():
    x, y = samples()
    rows, broken = slice(480, 512), np.where(np.arange(N) == 500, 9999.0, y)
    sound = LR * np.linalg.norm(slopes(start(), x[rows], y[rows]))
    huge = LR * np.linalg.norm(slopes(start(), x[rows], broken[rows]))
    way = np.linalg.norm(np.array([*WEIGHT, BIAS]) - start())
    shown = {
        "from the initial to the true params:": way,
        "length of a step, sound samples:": sound,
        "length of a step, a broken one:": huge,
        "length of a step, clipped:": LR * 10,
    }
    for label, value in shown.items():
        assert printed(label) == [[pytest.approx(value, abs=0.006)]]
    assert huge > way > 10 * sound


def test_clipping_limits_what_the_broken_sample_does():
    x, y = samples()
    broken = np.where(np.arange(N) == 500, 9999.0, y)
    wild, _ = descend(in_batches(EPOCHS, x, broken))
    tamed, lengths = descend(in_batches(EPOCHS, x, broken), limit=10.0)
    close(flat(lesson()["unclipped"]), wild)
    close(flat(lesson()["clipped"]), tamed, rtol=1e-3)
    close(printed("one broken sample")[0], error(wild), rtol=1e-4, atol=1.1e-4)
    close(printed("broken, clipped")[0], error(tamed), rtol=1e-3, atol=1.1e-4)
    assert (np.flatnonzero(lengths > 10) // 31).tolist() == [0, 1, 2]
    assert np.flatnonzero(np.array(lesson()["tamed"]) > 1e5).size == EPOCHS


def test_clipping_leaves_the_sound_run_as_it_is():
    _, lengths = descend(in_batches(EPOCHS, *samples()))
    assert lengths.max() < 9.9
    assert_close(lesson()["same"], lesson()["params"], rtol=0, atol=0)
    assert "clipping changes the sound run: False" in run("minibatches").printed


def test_torch_nn_ends_with_the_same_params():
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(lesson()["initial"]["weight"])
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for rows in (order(epoch)[:992] for epoch in range(EPOCHS)):
        for x, y in zip(
            lesson()["x"][rows].split(32), lesson()["y"][rows].split(32), strict=True
        ):
            optimizer.zero_grad()
            ((model(x)[:, 0] - y) ** 2 / 2).mean().backward()
            optimizer.step()
    assert_close(model.weight[0].detach(), lesson()["params"]["weight"])
    assert_close(model.bias[0].detach(), lesson()["params"]["bias"])
    sound, clipped = printed("Trainer")
    assert sound[0] == sound[1] == round(lesson()["validation"][-1], 5)
    validation = half_mse(flat(lesson()["clipped"]), *samples("x_valid", "y_valid"))
    assert clipped[0] == clipped[1] == pytest.approx(validation, abs=6e-6)


def test_exercise_1_weighs_each_sample_alike():
    x, y = samples()
    rows = np.asarray(jax.random.permutation(KEYS[3], N))
    cuts = [rows[i : i + 32] for i in range(0, N, 32)]
    of_batches = np.mean([half_mse(start(), x[r], y[r]) for r in cuts])
    (shown,) = printed("exercise 1: mean of batches")
    close(shown, [of_batches, half_mse(start(), x, y)], rtol=0, atol=6e-5)
    assert abs(shown[0] - shown[1]) > 0.01


def test_exercise_2_goes_on_with_the_order_of_the_third_epoch():
    theta, _ = descend(in_batches(2, *samples()))
    close(flat(lesson()["stopped"]), theta)
    resumed = lesson()["resume"](lesson()["stopped"], 2, 3)
    assert_close(resumed, lesson()["params"], rtol=0, atol=0)


def test_exercise_3_moves_samples_within_a_buffer():
    shuffled = lesson()["shuffled"]
    numbers = list(shuffled(range(97), lesson()["key_buffer"], 7))
    assert sorted(numbers) == list(range(97))
    assert all(number < place + 7 for place, number in enumerate(numbers))
    assert numbers != sorted(numbers)
    assert sorted(shuffled(range(3), lesson()["key_buffer"], 7)) == [0, 1, 2]
    spreads = [printed(f"exercise 3: buffer {size:4}")[0][-1] for size in (10, 100, N)]
    assert spreads == sorted(spreads, reverse=True)
    ordered = np.sort(samples()[1])
    whole_range = ordered[-8:].mean() - ordered[:32].mean()
    assert 0.8 * whole_range < spreads[0] < whole_range
    assert spreads[-1] < 0.3 * whole_range
