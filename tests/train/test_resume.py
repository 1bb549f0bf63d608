# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped goes on as if it had not been."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import runs
from functorch_lab import data, train, tree
from functorch_lab.train import TrainState
from functorch_lab.train._lock import locked

DATASET = TensorDataset(runs.X, runs.Y)
BATCHES = [(runs.X[i : i + 3], runs.Y[i : i + 3]) for i in (0, 3, 6)]


class Stopped:
    """A step that gets a signal while it takes the n-th step."""

    def __init__(self, at: int, number: int = signal.SIGINT) -> None:
        self.at, self.number = at, number
        self.taken: list[int] = []

    def __call__(self, state: TrainState, x: Tensor, y: Tensor) -> Any:
        self.taken.append(int(state.step) + 1)
        if self.taken[-1] == self.at:
            os.kill(os.getpid(), self.number)
        return runs.plain_step(state, x, y)


def unsized(key: Tensor) -> Iterator[Any]:
    return iter(list(runs.batches(key)))


class Unsized:
    """An iterable that does not know its length."""

    def __iter__(self) -> Iterator[Any]:
        yield from BATCHES


DATA = {
    "keyed": runs.batches,
    "keyed, unsized": unsized,
    "list": BATCHES,
    "unsized": Unsized(),
    "loader": data.from_dataloader(DataLoader(DATASET, batch_size=2, shuffle=True)),
}


@pytest.fixture(autouse=True)
def disk_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fit(folder: Path | None, **options: Any) -> tuple[TrainState, train.History]:
    options = {"step": runs.plain_step, "checkpoint_every": 4} | options
    return runs.fit(folder, **options)


def later(steps: int) -> TrainState:
    """A start that has taken steps before this run."""
    return replace(runs.start(), step=torch.tensor(steps))


@pytest.mark.parametrize(
    ("before", "length"), [(0, {"epochs": 3}), (4, {"epochs": 3}), (4, {"steps": 8})]
)
@pytest.mark.parametrize("name", DATA)
def test_goes_on_within_an_epoch(
    name: str, length: dict[str, int], before: int, tmp_path: Path
) -> None:
    options = {"data": DATA[name], **length, "early_stopping": None}
    wanted, expected = fit(tmp_path / "whole", state=later(before), **options)
    total = len(expected.logs["loss"])
    # The last of them ends within an epoch, at the end of one, and at the end of all.
    for at in {1, 2, 3, 5, total}:
        folder = tmp_path / f"at {at}"
        with pytest.raises(
            train.Interrupted, match=f"stopped after step {before + at}"
        ):
            fit(folder, step=Stopped(before + at), state=later(before), **options)
        step = Stopped(-1)
        state, history = fit(folder, step=step, state=later(before), **options)
        assert step.taken == list(range(before + at + 1, before + total + 1))
        assert tree.equal(state, wanted)
        assert tree.equal(history.logs, expected.logs)
        assert runs.untimed(history.epochs) == runs.untimed(expected.epochs)
        assert runs.log(folder) == runs.log(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    text = rf"stopped after step 3, and saved. Go on with open_run\('{tmp_path}/a', re"
    with pytest.raises(KeyboardInterrupt, match=text):
        fit(tmp_path / "a", step=Stopped(3))
    assert train.read_run(tmp_path / "a").step == 3
    assert not train.read_run(tmp_path / "a").finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_too(tmp_path: Path) -> None:
    with pytest.raises(train.Interrupted, match="stopped after step 2, and saved"):
        fit(tmp_path, step=Stopped(2, signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_second_ctrl_c_stops_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def step(state: TrainState, x: Tensor, y: Tensor) -> Any:
        if int(state.step) == 4:
            os.kill(os.getpid(), signal.SIGINT)
            assert "stopping after this step; once more" in capfd.readouterr().err
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")
        return runs.plain_step(state, x, y)

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path, step=step, checkpoint_every=3)
    assert not isinstance(caught.value, train.Interrupted)
    assert train.read_run(tmp_path).step == 3
    fit(tmp_path / "whole")
    fit(tmp_path)
    assert runs.log(tmp_path) == runs.log(tmp_path / "whole")


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(tmp_path, step=Stopped(2), epochs=1)
    finally:
        signal.signal(signal.SIGINT, former)
    assert train.read_run(tmp_path).finished


def test_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    states = []
    thread = threading.Thread(target=lambda: states.append(fit(tmp_path)[0]))
    thread.start()
    thread.join()
    assert tree.equal(states[0], fit(tmp_path / "other")[0])


def test_without_a_run_ctrl_c_is_the_usual_one() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        train.fit(Stopped(2), runs.start(), runs.batches, epochs=1, progress=False)
    assert type(caught.value) is KeyboardInterrupt


def test_stopped_between_the_last_step_and_the_row(tmp_path: Path) -> None:
    def evaluate(state: TrainState) -> dict[str, Any]:
        if int(state.step) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return runs.evaluate(state)

    with pytest.raises(train.Interrupted, match="after step 5, and saved"):
        fit(tmp_path / "a", evaluate=evaluate)
    assert len(train.read_run(tmp_path / "a").epochs) == 1
    fit(tmp_path / "whole")
    fit(tmp_path / "a")
    assert (
        runs.differences(tmp_path / "a", tmp_path / "whole", checkpoint_every=4) == []
    )


def test_stopped_before_the_first_step(tmp_path: Path) -> None:
    def begun(key: Tensor) -> Any:
        if not (tmp_path / "a" / "checkpoints").exists():
            os.kill(os.getpid(), signal.SIGINT)
            return iter([])
        return runs.batches(key)

    with pytest.raises(train.Interrupted, match="after step 0, and saved"):
        fit(tmp_path / "a", data=begun)
    fit(tmp_path / "whole")
    fit(tmp_path / "a", data=begun)
    assert runs.log(tmp_path / "a") == runs.log(tmp_path / "whole")


@pytest.mark.parametrize("more", [{"epochs": 5}, {"steps": 25}])
def test_extended(more: dict[str, int], tmp_path: Path) -> None:
    less = {"epochs": 2} if "epochs" in more else {"steps": 10}
    fit(tmp_path / "a", early_stopping=None, **less)
    assert train.read_run(tmp_path / "a").finished
    # Stopped again on its way, which is no longer finished.
    with pytest.raises(train.Interrupted, match="after step 13, and saved"):
        fit(tmp_path / "a", step=Stopped(13), early_stopping=None, **more)
    assert not train.read_run(tmp_path / "a").finished
    state, _ = fit(tmp_path / "a", early_stopping=None, **more)
    wanted, _ = fit(tmp_path / "whole", early_stopping=None, **more)
    assert tree.equal(state, wanted)
    assert runs.log(tmp_path / "a") == runs.log(tmp_path / "whole")


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def callback(state: TrainState, row: dict[str, Any]) -> bool:
        asked.append(row["epoch"])
        return row["epoch"] == 2

    for stopping in ({"callbacks": [callback]}, {}, {"epochs": 2}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        state, history = fit(folder, **stopping)
        asked.clear()
        files = {p: p.read_bytes() for p in folder.glob("**/*") if p.is_file()}
        step = Stopped(-1)
        again, same = fit(folder, step=step, **stopping)
        assert step.taken == asked == []
        assert tree.equal(again, state)
        assert tree.equal(same.logs, history.logs)
        assert same.epochs == history.epochs
        assert files == {p: p.read_bytes() for p in folder.glob("**/*") if p.is_file()}


def test_patience_goes_on_counting(tmp_path: Path) -> None:
    errors = dict(zip(range(5, 50, 5), (7, 3, 5, 2, 5, 3, 7, 5, 3), strict=True))

    def evaluate(state: TrainState) -> dict[str, Any]:
        return {"error": errors[int(state.step)]}

    options = {"epochs": 9, "evaluate": evaluate}
    for at in (23, 25, 31):
        folder = tmp_path / str(at)
        with pytest.raises(train.Interrupted, match=f"stopped after step {at}"):
            fit(folder, step=Stopped(at), **options)
        # The best was after 20 steps, and three epochs came after it.
        state, history = fit(folder, **options)
        assert int(state.step) == 20
        assert [row["error"] for row in history.epochs] == [7, 3, 5, 2, 5, 3, 7]


def test_two_fits_of_one_run(tmp_path: Path) -> None:
    run = train.open_run(tmp_path / "a")
    options: Any = {"epochs": 1, "run_dir": run, "early_stopping": None}
    fit(None, **options)
    text = (
        r"run_dir: expected a run without checkpoints, got .*, which has one of step 5"
    )
    with pytest.raises(ValueError, match=text):
        fit(None, **options)
    run = train.open_run(tmp_path / "a", resume=True)
    for epochs in (2, 3):
        state, _ = fit(None, **options | {"epochs": epochs, "run_dir": run})
        assert int(state.step) == 5 * epochs


def test_without_a_checkpoint_it_begins_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def step(state: TrainState, x: Tensor, y: Tensor) -> Any:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path / "a", step=step)
    fit(tmp_path / "a")
    assert "has no checkpoint yet; from the beginning" in caplog.text
    fit(tmp_path / "whole")
    assert runs.log(tmp_path / "a") == runs.log(tmp_path / "whole")


def test_another_process_is_refused(tmp_path: Path) -> None:
    def step(state: TrainState, x: Tensor, y: Tensor) -> Any:
        with pytest.raises(ValueError, match="on which another process is trai"):
            fit(tmp_path)
        return runs.plain_step(state, x, y)

    fit(tmp_path, step=step, epochs=1)
    fit(tmp_path, epochs=2)


def test_processes_that_outlive_a_run_hold_no_lock(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    ours, theirs = os.pipe()
    with locked(tmp_path / "a", "here"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads
        child = os.fork()
        if not child:
            os.write(theirs, b"!")
            signal.pause()
    try:
        assert os.read(ours, 1) == b"!"
        with locked(tmp_path / "a", "here"):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ours)
        os.close(theirs)


def test_signals_in_processes_that_a_run_starts(tmp_path: Path) -> None:
    def evaluate(state: TrainState) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks beside threads
            child = os.fork()
        while not child:
            signal.pause()
        os.kill(child, signal.SIGINT)  # as a terminal does; the step may need it
        time.sleep(0.05)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
        return runs.evaluate(state)

    fit(tmp_path, evaluate=evaluate, epochs=1)


def test_a_step_may_log_the_names_of_rows(tmp_path: Path) -> None:
    def step(state: TrainState, x: Tensor, y: Tensor) -> Any:
        if int(state.step) == at:
            raise RuntimeError("out of memory")
        state, logs = runs.plain_step(state, x, y)
        return state, logs | {"epoch": logs["loss"] * 2, "step": state.step.clone()}

    at = 7
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tmp_path, step=step)
    at = -1
    _, history = fit(tmp_path, step=step)
    assert_close(history.logs["epoch"], history.logs["loss"] * 2)
    record = train.read_run(tmp_path)
    assert len(record.epochs) == len(history.epochs)
    assert record.logs["step"] == list(range(1, len(history.logs["loss"]) + 1))
