# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, at whatever moment, ends with the bits of one that is not."""

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runs
from functorch_lab import train

KILLS = 20
# Two epochs with a new best after each, and a checkpoint within the second.
SHORT = {"step": runs.plain_step, "epochs": 2, "checkpoint_every": 7, "keep": 1}

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def started() -> Iterator[Start]:
    """Starts a function in a process of its own, a copy of one that has torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["functorch_lab.train", "pytest"])
    children = []

    def start(*args: Any) -> Any:
        function, *rest = args
        child = context.Process(target=function, args=tuple(rest))
        children.append(child)
        child.start()
        return child

    yield start
    for child in children:
        child.kill()
        child.join()


def test_killed_at_random_moments(started: Start, tmp_path: Path) -> None:
    def begin(folder: Path) -> tuple[Any, float]:
        ours, theirs = multiprocessing.Pipe()
        child = started(runs.train_until_killed, folder, theirs)
        ours.recv()
        return child, time.perf_counter()

    child, began = begin(tmp_path / "whole")
    child.join()
    seconds = time.perf_counter() - began
    moments = random.Random(5)
    folders = [tmp_path / "run 1"]
    kills = 0
    while kills < KILLS:
        child, _ = begin(folders[-1])
        child.join(moments.uniform(0, 0.7 * seconds))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            kills += 1
        else:
            assert child.exitcode == 0
            folders.append(tmp_path / f"run {len(folders) + 1}")
    for folder in folders:
        runs.fit(folder)
        assert runs.differences(folder, tmp_path / "whole") == []


@pytest.mark.parametrize("first", [None, 17])
def test_killed_at_each_change_of_the_disk(
    started: Start, tmp_path: Path, first: int | None
) -> None:
    if first is not None:  # then each of the runs that go on is killed too
        started(runs.killed_before, first, tmp_path / "begun", SHORT).join()
        names = [path.name for path in tmp_path.glob("begun/checkpoints/*")]
        assert len(names) > len([name for name in names if name.endswith("json")]) * 2
    child = started(runs.sweep, tmp_path, tmp_path / "report.json", SHORT)
    child.join()
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["found"] == []
    assert report["kills"] > 20


def test_ctrl_c_ends_the_processes_of_a_loader(started: Start, tmp_path: Path) -> None:
    child = started(runs.train_with_workers, tmp_path, signal.SIGINT)
    child.join()
    assert child.exitcode == 3
    assert train.read_run(tmp_path).step == 3
