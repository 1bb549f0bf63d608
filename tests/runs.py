# SPDX-License-Identifier: Apache-2.0
"""A small run with everything that a resumed one must bring back; what a kill does."""

import json
import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import functorch_lab as fl
from functorch_lab import data, optim, random, train, tree
from functorch_lab.train import _session

EPOCHS = 7  # of which early stopping leaves five
X = torch.linspace(-1.5, 2.5, 55).sin().reshape(11, 5)
Y = torch.linspace(0.5, 3.5, 11).cos()
OPTIMIZER = optim.adamw(lr=optim.schedules.cosine(0.125, 60), weight_decay=0.05)
STOPPING = train.EarlyStopping("error", 3)


def loss_fn(params: Any, x: Tensor, y: Tensor, *, key: Tensor) -> Tensor:
    hidden = torch.tanh(x @ params["in"])
    kept = random.bernoulli(key, 0.7, hidden.shape)  # dropout
    return ((torch.where(kept, hidden, 0) @ params["out"] - y) ** 2).mean()


def evaluate(state: train.TrainState) -> dict[str, Any]:
    error = torch.tanh(X @ state.params["in"]) @ state.params["out"] - Y
    # Up and down, so that the best epoch is seldom the last.
    return {"error": (error**2).mean() * (2 + int(state.step) % 7)}


def batches(key: Tensor) -> data.Batches:
    return data.batches(key, (X, Y), 2)


def start() -> train.TrainState:
    params = {
        "in": torch.linspace(-0.5, 0.5, 35).reshape(5, 7),
        "out": torch.linspace(-0.7, 0.3, 7),
    }
    return train.init(params, OPTIMIZER, key=random.key(3))


def plain_step(state: train.TrainState, x: Tensor, y: Tensor) -> Any:
    """A step that costs nothing, for tests that take thousands."""
    noise = random.uniform(random.fold_in(state.key, state.step), ())
    loss = (state.params["out"][0] - y.mean()) ** 2 + noise
    params = tree.scale(state.params, 1 - 0.05 * loss)
    return replace(state, step=state.step + 1, params=params), {"loss": loss}


def fit(folder: Path | None, **options: Any) -> tuple[train.TrainState, train.History]:
    """Train, or go on with, the run in a folder."""
    every, keep = options.pop("checkpoint_every", 3), options.pop("keep", 2)
    run = folder
    if folder is not None:
        resume = (folder / "config.json").exists()
        opening: Any = {"checkpoint_every": every, "keep": keep, "resume": resume}
        run = train.open_run(folder, config={"seed": 3}, **opening)
    given = {"step": train.make_step(loss_fn, OPTIMIZER), "state": start()}
    given |= {"epochs": EPOCHS, "evaluate": evaluate, "early_stopping": STOPPING}
    given |= {"data": batches, "progress": False, "run_dir": run}
    if "steps" in options:
        del given["epochs"]
    # A checkpoint after every epoch, whatever it costs.
    whenever = patch.object(_session, "_SHARE", math.inf)
    with fl.disable_jit(), whenever:
        return train.fit(**given | options)


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return untimed([json.loads(line) for line in lines])


def differences(
    folder: Path, whole: Path, *, keep: int = 2, **options: Any
) -> list[str]:
    """In what a run that was stopped differs from one that was not, both finished."""
    state, history = fit(folder, keep=keep, **options)  # trains nothing more
    wanted, expected = fit(whole, keep=keep, **options)
    ours, theirs = train.read_run(folder), train.read_run(whole)
    steps = [row["step"] for row in log(folder) if "epoch" not in row]
    names = sorted(p.name for p in (folder / "checkpoints").iterdir())
    kept = sorted(p.name for p in (whole / "checkpoints").iterdir())
    bests = {json.loads(p.read_text("utf-8"))["best"] for p in manifests(folder)}
    # Which other checkpoint is kept depends on the time that writing takes.
    ends = [f"step-{steps[-1]:08d}.{end}" for end in ("json", "safetensors")]
    same = {
        "state": tree.equal(state, wanted),
        "log": log(folder) == log(whole),
        "steps": steps == list(range(1, len(steps) + 1)),
        "history of steps": tree.equal(history.logs, expected.logs),
        "history of epochs": untimed(history.epochs) == untimed(expected.epochs),
        "rows": untimed(ours.epochs) == untimed(history.epochs),
        "best": tree.equal(ours.params("best"), theirs.params("best")),
        "last": tree.equal(ours.params("last"), theirs.params("last")),
        "finished": ours.finished,
        f"last of {names}": names[-2:] == kept[-2:] == ends,
        f"files {names}": len(names) == 2 * (keep + len(bests)),
    }
    return [name for name, equal in same.items() if not equal]


def manifests(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*.json"))


# What changes a disk, called by the code that writes runs; writes go to a buffer.
_CHANGES = {"mkdir", "flush", "truncate", "replace", "unlink"}


def kill_before(n: int, folder: Path) -> None:
    """SIGKILL of this process before the n-th call (from 0) that changes the disk.

    Of files that are being written only a half is left, of the log half a line more.
    """
    seen = -1

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal seen
        if event != "c_call" or function.__name__ not in _CHANGES:
            return
        caller = frame.f_code.co_filename
        if caller.endswith("pathlib.py") or f"functorch_lab{os.sep}train" in caller:
            seen += 1
            if seen == n:
                sys.setprofile(None)
                tear(folder)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def tear(folder: Path) -> None:
    for path in folder.glob("**/.*.part"):
        os.truncate(path, path.stat().st_size // 2)
    if (folder / "metrics.jsonl").exists():
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "lo')


def killed_before(n: int, folder: Path, options: dict[str, Any]) -> None:
    """Train a run until it is killed."""
    try:
        kill_before(n, folder)
        fit(folder, **options)
    finally:
        os._exit(0)


def sweep(folder: Path, report: Path, options: dict[str, Any]) -> None:
    """Kill a run at each change of the disk in turn, and go on with it.

    Args:
        folder: Has the runs; if one is there already, every run begins as its copy.
        report: Gets what differs, as JSON, and the number of kills.
        options: For `fit`.
    """
    os.fsync = lambda descriptor: None  # a kill loses nothing that the system has
    begun = folder / "begun"
    fit(folder / "whole", **options)
    found = []
    n = 0
    while True:
        run = folder / str(n)
        if begun.exists():
            shutil.copytree(begun, run)
        child = os.fork()
        if not child:
            killed_before(n, run, options)
        if os.waitpid(child, 0)[1] == 0:
            break
        try:
            fit(run, **options)
            if wrong := differences(run, folder / "whole", **options):
                found.append(f"{n}: {wrong}")
        except Exception as error:
            found.append(f"{n}: {type(error).__name__}: {error}")
        shutil.rmtree(run)
        n += 1
    report.write_text(json.dumps({"kills": n, "found": found}), encoding="utf-8")


def train_until_killed(folder: Path, ready: Any) -> None:
    """Go on with a run; says when it begins."""
    os.fsync = lambda descriptor: None  # a kill loses nothing that the system has
    ready.send(True)
    fit(folder)


def train_with_workers(folder: Path, number: int) -> None:
    """Train from a loader's processes; a signal comes in the third step."""
    os.setpgid(0, 0)
    dataset = TensorDataset(X, Y)
    loader = data.from_dataloader(DataLoader(dataset, batch_size=2, num_workers=2))

    def step(state: train.TrainState, x: Tensor, y: Tensor) -> Any:
        if int(state.step) == 2:
            if number == signal.SIGINT:
                os.killpg(0, number)  # as a terminal does
            else:
                os.kill(os.getpid(), number)
        return plain_step(state, x, y)

    try:
        fit(folder, step=step, data=loader, checkpoint_every=2)
    except train.Interrupted:
        sys.exit(3)
