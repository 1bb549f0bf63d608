# SPDX-License-Identifier: Apache-2.0
"""The training loop: what it counts, where it goes on, when it stops."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from functorch_lab import data, optim, random, train, tree
from functorch_lab.train import TrainState
from functorch_lab.transforms import disable_jit


def plain_step(state: TrainState, x: Tensor) -> tuple[TrainState, dict[str, Tensor]]:
    """Gradient descent on w x; the loss is x[0], so that tests choose it."""
    params = state.params - 0.1 * x.mean()
    logs = {"loss": x[0].clone(), "all": x}
    return replace(state, step=state.step + 1, params=params), logs


def start(seed: int = 0) -> TrainState:
    return train.init(torch.tensor(1.5), optim.sgd(lr=0.1), key=random.key(seed))


def given(*losses: float) -> list[tuple[Tensor]]:
    return [(torch.tensor([loss, 2.0]),) for loss in losses]


def fit(*args: Any, **options: Any) -> tuple[TrainState, train.History]:
    return train.fit(plain_step, *args, **({"progress": False} | options))


def test_history_has_every_step_and_every_epoch() -> None:
    state, history = fit(start(), given(2.0, 3.0, 7.0), epochs=2)
    assert int(state.step) == 6
    assert history.logs["loss"].tolist() == [2.0, 3.0, 7.0] * 2
    assert history.logs.keys() == {"loss"}  # only scalars are kept
    assert [row["epoch"] for row in history.epochs] == [1, 2]
    assert [row["step"] for row in history.epochs] == [3, 6]
    assert [row["loss"] for row in history.epochs] == [4.0, 4.0]
    assert 0 <= history.epochs[0]["seconds"] <= history.epochs[1]["seconds"]


def test_counts_steps_over_epochs() -> None:
    state, history = fit(start(), given(2.0, 3.0, 7.0), steps=5)
    assert int(state.step) == 5
    assert history.logs["loss"].tolist() == [2.0, 3.0, 7.0, 2.0, 3.0]
    assert [row["loss"] for row in history.epochs] == [4.0, 2.5]


def test_evaluates_and_calls_back_after_each_epoch() -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def callback(state: TrainState, row: dict[str, Any]) -> bool:
        seen.append((int(state.step), row))
        return row["accuracy"] >= 4

    _, history = fit(
        start(),
        given(2.0, 3.0),
        epochs=9,
        evaluate=lambda state: {"accuracy": int(state.step)},
        callbacks=[callback],
    )
    assert [row["accuracy"] for row in history.epochs] == [2, 4]
    assert [step for step, _ in seen] == [2, 4]
    assert seen[1][1] is history.epochs[1]


ROWS = torch.linspace(0.5, 4.5, 11)


def keyed(key: Tensor) -> data.Batches:
    return data.batches(key, ROWS, 3)


@pytest.mark.parametrize("cuts", [[6], [4, 2], [1, 4, 1], [5, 1]])
def test_pieces_end_in_the_same_bits_as_the_whole(cuts: list[int]) -> None:
    whole, history = fit(start(), keyed, steps=6)
    state, losses = start(), []
    for steps in cuts:
        state, part = fit(tree.copy(state), keyed, steps=steps)
        losses += part.logs["loss"].tolist()
    assert losses == history.logs["loss"].tolist()
    assert tree.equal(state, whole)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    _, history = fit(start(), keyed, epochs=2)
    _, other = fit(start(seed=7), keyed, epochs=1)
    losses = history.logs["loss"].tolist()
    assert losses[:3] != losses[3:]
    assert losses[:3] != other.logs["loss"].tolist()


@pytest.mark.parametrize("bad", [1, 2, 150, 200])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_at_the_first_loss_that_is_not_finite(bad: int, value: float) -> None:
    losses = [2.0 + i for i in range(230)]
    losses[bad - 1 :] = [value] * (230 - bad + 1)
    before = (
        "no finite loss before. Check the data .*check_classification.* and the initial"
        if bad == 1
        else rf"last finite loss was {bad} at step {bad - 1}. Lower lr"
    )
    text = rf"expected finite values, got {value} at step {bad}; .*{before}"
    taken: list[int] = []

    def step(state: TrainState, x: Tensor) -> Any:
        taken.append(1)
        return plain_step(state, x)

    with pytest.raises(FloatingPointError, match=text):
        train.fit(step, start(), given(*losses), epochs=1, progress=False)
    assert len(taken) < 230 or bad > 200  # it did not go on to the end


@pytest.mark.parametrize("bad", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_at_a_gradient_that_is_not_finite(bad: int, value: float) -> None:
    def step(state: TrainState, x: Tensor, norm: Tensor) -> Any:
        state, logs = plain_step(state, x)
        return state, logs | {"grad_norm": norm}

    norms = [2.0, 3.0, 5.0]
    norms[bad - 1] = value
    batches = [
        (x, torch.tensor(n)) for (x,), n in zip(given(5, 7, 2), norms, strict=True)
    ]
    remedy = "Check the data" if bad == 1 else "loss was 2 at step 3. Lower lr"
    text = f"expected finite values, got {value} at step {bad}; .*{remedy}"
    with pytest.raises(FloatingPointError, match="train.fit: gradient norm: " + text):
        train.fit(step, start(), batches, steps=3, progress=False)


def test_the_bad_step_is_numbered_in_the_whole_run() -> None:
    state, _ = fit(start(), given(2.0, 3.0), epochs=2)
    with pytest.raises(FloatingPointError, match=r"got nan at step 6; .*3 at step 5"):
        fit(state, given(3.0, math.nan), epochs=1)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({}, ValueError, "expected exactly one of them, got epochs = None"),
        ({"epochs": 2, "steps": 3}, ValueError, "epochs = 2 and steps = 3"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        ({"steps": -3}, ValueError, "steps: expected at least 1, got -3"),
        ({"epochs": 2.5}, TypeError, "epochs: expected an int, got 2.5"),
    ],
)
def test_refuses_lengths(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match="train.fit: .*" + text):
        fit(start(), given(2.0), **options)


def test_refuses_data_and_steps() -> None:
    with pytest.raises(ValueError, match="at least one batch per epoch, got none aft"):
        fit(start(), [], epochs=1)
    with pytest.raises(ValueError, match=r"got none after step 1.*iterated again"):
        fit(start(), iter(given(2.0)), epochs=2)
    for loss in (2.0, torch.tensor([2.0, 3.0])):
        with pytest.raises(
            TypeError, match=r"a tensor of shape \(\) in logs\[.loss.\]"
        ):
            train.fit(
                lambda state, x, loss=loss: (state, {"loss": loss}),
                start(),
                given(2.0),
                epochs=1,
                progress=False,
            )


@pytest.mark.parametrize("value", [3, torch.tensor([2.0, 3.0])])
def test_refuses_data_without_batches(value: Any) -> None:
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"batches or a function of a key, got {kind}"):
        fit(start(), value, epochs=1)
    text = f"data: expected an iterable of batches returned by .*, got {kind}. Give"
    with pytest.raises(TypeError, match="train.fit: " + text):
        fit(start(), lambda key: value, epochs=1)


def test_a_batch_that_is_no_tuple_is_one_argument() -> None:
    def step(state: TrainState, batch: dict[str, Tensor]) -> Any:
        return plain_step(state, batch["x"])

    batches = [{"x": x} for (x,) in given(2.0, 3.0)]
    state, history = train.fit(step, start(), batches, epochs=1, progress=False)
    assert history.logs["loss"].tolist() == [2.0, 3.0]
    bare, history = fit(start(), [x for (x,) in given(2.0, 3.0)], epochs=1)
    assert history.logs["loss"].tolist() == [2.0, 3.0]
    assert tree.equal(state, bare)


def test_progress_is_about_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fit(start(), given(2.0, 3.0), epochs=50, progress=True)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 8 <= len(lines) <= 12
    assert lines[-1].startswith("epoch 50/50  loss 2.5  ")
    fit(start(), given(2.0, 3.0), steps=3, progress=True)
    assert capsys.readouterr().err.splitlines()[-1].startswith("step 3/3  loss 2")
    fit(start(), given(2.0, 3.0), steps=3)
    assert capsys.readouterr().err == ""


def test_a_loader_of_the_same_order_trains_the_same_parameters() -> None:
    x = torch.linspace(-1.5, 4.5, 33, dtype=torch.float64).sin().reshape(11, 3)
    y = torch.linspace(0.5, 2.5, 11, dtype=torch.float64).cos()
    optimizer = optim.adamw(lr=0.05)
    step = train.make_step(
        lambda w, x, y: ((x @ w - y) ** 2).mean(), optimizer, donate=False
    )
    state = train.init(x[0] * 2, optimizer, key=random.key(0))
    key = random.key(3)
    loader = data.to_dataloader((x, y), 4, key=key)
    ours, _ = train.fit(
        step, state, data.batches(key, (x, y), 4), epochs=3, progress=False
    )
    theirs, _ = train.fit(
        step, state, data.from_dataloader(loader), epochs=3, progress=False
    )
    assert int(ours.step) == 6
    assert tree.equal(ours, theirs)
    assert_close(ours.params, theirs.params, rtol=0, atol=0)


DISTANCES = [5.0, 3.5, 3.7, 2.5, 2.6, 2.7, 2.8, 0.5]


def distance(state: TrainState) -> dict[str, Any]:
    """What the validation says: not in order, known after each epoch of two steps."""
    return {
        "val": torch.tensor(DISTANCES, dtype=torch.float64)[int(state.step) // 2 - 1]
    }


def test_ends_with_the_best_epochs_state(tmp_path: Path) -> None:
    stopping = train.EarlyStopping("val", 3)
    options = {"epochs": 8, "evaluate": distance, "early_stopping": stopping}
    state, history = fit(start(), given(2.0, 3.0), **options)
    assert [row["val"] for row in history.epochs] == DISTANCES[:7]
    best, _ = fit(start(), given(2.0, 3.0), epochs=4)
    assert tree.equal(state, best)
    last = train.EarlyStopping("val", 3, restore_best=False)
    state, history = fit(
        start(), given(2.0, 3.0), **(options | {"early_stopping": last})
    )
    assert int(state.step) == 14
    assert len(history.epochs) == 7
    options |= {"early_stopping": last, "run_dir": tmp_path / "run"}
    state, _ = fit(start(), given(2.0, 3.0), **options)
    assert int(state.step) == 14
    assert tree.equal(train.read_run(tmp_path / "run").params(), best.params)


def test_the_best_state_outlives_donation() -> None:
    optimizer = optim.sgd(lr=0.25)
    step = train.make_step(lambda w, x: ((w - x) ** 2).mean(), optimizer)
    state = train.init(torch.tensor(0.5), optimizer, key=random.key(0))
    with disable_jit():
        state, history = train.fit(
            step,
            state,
            [(torch.tensor([4.5]),)],
            epochs=3,
            evaluate=lambda state: {"val": state.step},
            early_stopping=train.EarlyStopping("val"),
            progress=False,
        )
    assert state.params.item() == 2.5  # half of the way, after the first epoch
    assert history.epochs[-1]["val"] == 3


def test_the_epochs_loss_is_that_of_its_samples() -> None:
    def step(state: TrainState, x: Tensor, samples: Tensor) -> Any:
        state, logs = plain_step(state, x)
        return state, logs | {"samples": samples, "aux": {"top": (x.max(),)}}

    counts = [5, 5, 2]
    batches = [
        (x, torch.tensor(n)) for (x,), n in zip(given(2, 3, 7), counts, strict=True)
    ]
    _, history = train.fit(step, start(), batches, epochs=2, progress=False)
    assert history.epochs[1]["loss"] == pytest.approx((10 + 15 + 14) / 12)
    assert history.logs["samples"].tolist() == counts * 2
    assert history.logs["aux.top.0"].tolist() == [2.0, 3.0, 7.0] * 2


def test_shows_the_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    def step(state: TrainState, x: Tensor) -> Any:
        state, logs = plain_step(state, x)
        return state, logs | {"lr": 0.5 / state.step}

    _, history = train.fit(step, start(), given(2.0, 3.0), epochs=2)
    assert [row["lr"] for row in history.epochs] == [0.25, 0.125]
    assert "  lr 0.125  " in capsys.readouterr().err.splitlines()[-1]


def test_refuses_logs_that_change() -> None:
    def step(state: TrainState, x: Tensor) -> Any:
        state, logs = plain_step(state, x)
        return state, logs | ({"more": x[1]} if x[0] > 2 else {})

    text = r"same entries in the logs of every step \(loss\), got loss, more"
    with pytest.raises(ValueError, match=text):
        train.fit(step, start(), given(2.0, 3.0), epochs=1, progress=False)


def test_the_order_of_a_loader_comes_from_the_key() -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(TensorDataset(ROWS), batch_size=3, shuffle=True)

    whole, history = fit(start(), loader(), steps=8)
    state, losses = start(), []
    for steps in (2, 5, 1):
        state, part = fit(state, loader(), steps=steps)
        losses += part.logs["loss"].tolist()
    assert losses == history.logs["loss"].tolist()
    assert losses[:3] != losses[3:6]
    assert tree.equal(state, whole)


@pytest.mark.parametrize("name", ["loss", "epoch", "lr"])
def test_refuses_to_lose_an_entry_of_the_row(name: str) -> None:
    text = (
        f"evaluate: expected names that the row has not yet, got {name}. .* val_{name}"
    )
    with pytest.raises(ValueError, match=text):
        fit(start(), given(2.0), epochs=1, evaluate=lambda state: {name: 2.0})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"early_stopping": "loss"}, "early_stopping: expected an EarlyStopping, got"),
        ({"callbacks": [3]}, "callbacks: expected functions of a state and a row"),
        ({"evaluate": lambda state: None}, "evaluate: expected a dict .* a NoneType"),
        ({"state": {"step": 2}}, "state: expected a TrainState, got dict"),
    ],
)
def test_refuses_other_kinds(options: dict[str, Any], text: str) -> None:
    state = options.pop("state", start())
    with pytest.raises(TypeError, match="train.fit: " + text):
        fit(state, given(2.0), epochs=1, **options)
