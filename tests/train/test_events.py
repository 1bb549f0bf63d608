# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard is given, where it is installed: here something stands in for it."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import runs
from functorch_lab import train
from functorch_lab.train import _events


class Writer:
    """Records what the real one is told."""

    made: list["Writer"]

    def __init__(self, folder: Path, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed: list[int] = []
        self.closed = False
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed.append(len(self.scalars))

    def close(self) -> None:
        self.closed = True
        raise OSError(28, "No space left on device")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(_events, "find_spec", lambda name: name)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    Writer.made = []
    return Writer.made


def test_numbers_by_step(made: list[Writer], tmp_path: Path) -> None:
    def evaluate(state: Any) -> dict[str, Any]:
        return {"error": torch.tensor(2.5), "note": "x"}

    def step(state: Any, x: Any, y: Any) -> Any:
        state, logs = runs.plain_step(state, x, y)
        return state, logs | {"epoch": torch.tensor(3)}

    options: Any = {"step": step, "evaluate": evaluate, "epochs": 2}
    _, history = runs.fit(tmp_path, early_stopping=None, **options)
    [writer] = made
    assert writer.folder == tmp_path / "tensorboard"
    assert writer.purge_step == 1
    assert writer.closed
    losses = [(s, value) for name, value, s in writer.scalars if name == "step/loss"]
    assert losses == list(enumerate(history.logs["loss"].tolist(), start=1))
    epochs = [entry for entry in writer.scalars if entry[0].startswith("epoch/")]
    assert [name for name, *_ in epochs[:3]] == [
        "epoch/loss",
        "epoch/error",
        "epoch/seconds",
    ]
    assert [(value, s) for name, value, s in epochs if name == "epoch/error"] == [
        (2.5, 5),
        (2.5, 10),
    ]


def test_later_steps_are_thinned(made: list[Writer], tmp_path: Path) -> None:
    batches = [(runs.X[:2], runs.Y[:2])] * 67
    options: Any = {"step": runs.plain_step, "data": batches, "epochs": 2}
    runs.fit(tmp_path, checkpoint_every=200, **options)
    steps = [s for name, _, s in made[0].scalars if name == "step/loss"]
    assert steps == [*range(1, 101), 110, 120, 130]
    assert [s for name, _, s in made[0].scalars if name == "epoch/loss"] == [67, 134]


def test_a_resumed_run_goes_on(made: list[Writer], tmp_path: Path) -> None:
    def step(state: Any, x: Any, y: Any) -> Any:
        if int(state.step) == 8:
            raise RuntimeError("out of memory")
        return runs.plain_step(state, x, y)

    with pytest.raises(RuntimeError, match="out of memory"):
        runs.fit(tmp_path, step=step, checkpoint_every=3)
    assert made[0].closed
    # What belongs to a checkpoint is written before it.
    assert made[0].flushed[-1] == len(made[0].scalars)
    runs.fit(tmp_path, step=runs.plain_step)
    assert made[1].purge_step == 7
    assert made[1].scalars[0][::2] == ("step/loss", 7)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_events, "find_spec", lambda name: None)
    runs.fit(tmp_path, step=runs.plain_step, epochs=1)
    assert not (tmp_path / "tensorboard").exists()
    assert train.read_run(tmp_path).finished
