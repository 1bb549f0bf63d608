# SPDX-License-Identifier: Apache-2.0
"""A run that is killed, at whatever moment, ends with the bits of one that is not."""

import json
import multiprocessing
import os
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
SHORT: Any = {"step": runs.plain_step, "epochs": 2, "checkpoint_every": 7, "keep": 1}

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


class Disk:
    """What is left when power is lost: what was synced, and nothing else.

    Of each file the bytes, and of each folder the names, as they were when `os.fsync`
    was last called for it.
    """

    def __init__(self) -> None:
        self.names: dict[str, dict[str, int]] = {}
        self.data: dict[int, bytes] = {}
        self.moments: list[tuple[dict[str, dict[str, int]], dict[int, bytes]]] = []
        self.open: list[int] = []

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        # While a file is open its number is not given to another.
        self.open.append(os.open(path, os.O_RDONLY))
        if path.is_dir():
            found = {entry.name: entry.inode() for entry in os.scandir(path)}
            self.names[str(path)] = found
        else:
            self.data[os.fstat(descriptor).st_ino] = path.read_bytes()
        self.moments.append((dict(self.names), dict(self.data)))


def put_back(moment: Any, folder: Path, target: Path) -> None:
    names, data = moment
    for name, number in names.get(str(folder), {}).items():
        if str(folder / name) in names or (folder / name).is_dir():
            (target / name).mkdir()
            put_back(moment, folder / name, target / name)
        else:
            (target / name).write_bytes(data.get(number, b""))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_power_is_lost_after_each_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    runs.fit(tmp_path / "a" / "run", **SHORT)
    for descriptor in disk.open:
        os.close(descriptor)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    steps = set()
    for n, moment in enumerate(disk.moments):
        target = tmp_path / str(n)
        target.mkdir()
        put_back(moment, tmp_path / "a", target)
        run = target / "run"
        if (run / "config.json").exists():
            steps.add(train.read_run(run).step)
        runs.fit(run, **SHORT)
        assert runs.differences(run, tmp_path / "a" / "run", **SHORT) == [], n
    assert steps == {0, 5, 7, 10}
