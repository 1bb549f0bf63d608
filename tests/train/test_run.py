# SPDX-License-Identifier: Apache-2.0
"""The folder of a run is opened for one run, and what was there stays as it is."""

import errno
import json
import math
import os
import pathlib
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from functorch_lab import optim, random, train
from functorch_lab.train import _session
from functorch_lab.transforms import disable_jit


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.glob("**/*") if p.is_file()}


def refused(kind: type[Exception], text: str, *args: Any, **options: Any) -> None:
    with pytest.raises(kind, match="train.open_run: " + text) as caught:
        train.open_run(*args, **options)
    assert "\n" not in str(caught.value)
    assert len(caught.value.args) == 1


def test_makes_the_folder_and_its_parents(tmp_path: Path) -> None:
    run = train.open_run(tmp_path / "a" / "b", config={"lr": 0.25, "sizes": (2, 3)})
    assert run.folder == tmp_path / "a" / "b"
    assert run.config == {"lr": 0.25, "sizes": [2, 3]}
    found = json.loads((run.folder / "config.json").read_text("utf-8"))
    assert found["config"] == run.config
    assert found["versions"]["torch"] == torch.__version__
    assert found["started"].endswith("+00:00")
    assert [p.name for p in run.folder.iterdir()] == ["config.json"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    # A process that was killed while it wrote the config had no run yet.
    (tmp_path / ".config.json.part").write_text("{")
    train.open_run(tmp_path, config={"lr": 0.25})
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_config_is_the_same_after_json(tmp_path: Path) -> None:
    config = {"sizes": (2, 3), "lr": 0.1, "name": "ü", "none": None, 7: {"a": [True]}}
    train.open_run(tmp_path, config=config)
    run = train.open_run(tmp_path, config=config, resume=True)
    assert run.resume
    assert train.open_run(tmp_path, resume=True).config == run.config


def test_every_difference_is_listed(tmp_path: Path) -> None:
    train.open_run(tmp_path, config={"lr": 0.25, "seed": 3, "old": [2], "same": "x"})
    before = contents(tmp_path)
    text = (
        "config: expected that of the run in .*: lr: 0.25 there, 0.5 now; "
        r"old: \[2\] there, none now; new: none there, null now. Resume with the same"
    )
    config = {"lr": 0.5, "seed": 3, "same": "x", "new": None}
    refused(ValueError, text, tmp_path, config=config, resume=True)
    text = "lr: 0.25 there, none now; seed: 3 there, none now; old"
    refused(ValueError, f"config: .*{text}", tmp_path, config={}, resume=True)
    assert contents(tmp_path) == before


def test_another_run_is_left_alone(tmp_path: Path) -> None:
    runs.fit(tmp_path, step=runs.plain_step, epochs=1)
    before = contents(tmp_path)
    refused(ValueError, "path: .* holds a run. Go on with it by resume=True", tmp_path)
    with pytest.raises(ValueError, match=r"train.open_run: .*holds a run"):
        train.fit(runs.plain_step, runs.start(), [], epochs=1, run_dir=tmp_path)
    assert contents(tmp_path) == before


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in "dbac":
        (tmp_path / name).write_text(name)
    before = contents(tmp_path)
    refused(ValueError, r"path: .*holds a, b, c, \.\.\.\. Give another", tmp_path)
    refused(ValueError, "path: .* has no config.json. Give", tmp_path, resume=True)
    refused(ValueError, "path: .*which is a file. Give another path", tmp_path / "a")
    refused(ValueError, "path: .*which is a file", tmp_path / "a", resume=True)
    refused(OSError, r"path: .*\(Not a directory\)", tmp_path / "a" / "run")
    assert contents(tmp_path) == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    text = "path: .* does not exist. "
    refused(ValueError, text + "Check the path", tmp_path / "a" / "b", resume=True)
    train.open_run(tmp_path / "run 2")
    train.open_run(tmp_path / "run 1")
    near = "Beside it: run 1, run 2."
    refused(ValueError, text + near, tmp_path / "run 3", resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run 1", "run 2"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[2]", '"a"', "{}", '{"format": 99, "config": {}}', '{"format": 1}'],
)
def test_a_foreign_config(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    words = "path: .*whose config.json is not one of a run of this version"
    refused(ValueError, words, tmp_path, resume=True)
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"keep": 0}, ValueError, "keep: expected at least 1, got 0"),
        ({"keep": 2.0}, TypeError, "keep: expected an int, got 2.0"),
        ({"keep": None}, TypeError, "keep: expected an int, got None"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every: .* at least 1, got 0"),
        ({"checkpoint_every": True}, TypeError, "checkpoint_every: .* int, got True"),
        ({"config": {"a": Path("x")}}, TypeError, "config: .*PosixPath.*str"),
        ({"config": {"a": float("nan")}}, TypeError, "config: expected finite numbers"),
        ({"config": 3}, TypeError, "config: .*'int' object is not iterable"),
    ],
)
def test_refuses_options(
    options: Any, kind: type[Exception], text: str, tmp_path: Path
) -> None:
    refused(kind, text, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [3, None, b"run"])
def test_refuses_what_is_no_path(path: Any) -> None:
    text = re.escape(f"path: expected a path, got {path!r}. Give the name")
    refused(TypeError, text, path)
    with pytest.raises(TypeError, match="train.read_run: " + text):
        train.read_run(path)


def error(number: int) -> Any:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# The tests may run as root, whom no permission stops.
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_not_writable(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    if resume:
        train.open_run(folder)
    before = contents(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", error(errno.EROFS))
    text = r"path: expected a folder to write to, got .*run \(Read-only file system\)"
    refused(OSError, text, folder, resume=resume)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("function", "number"),
    [("mkdir", errno.EACCES), ("fsync", errno.ENOSPC), ("replace", errno.ENOSPC)],
)
def test_a_folder_that_cannot_be_made(
    function: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, function, error(number))
    text = rf"path: expected a folder to write to, got .*\({os.strerror(number)}\)"
    refused(OSError, text + ". Make room, or give another", tmp_path / "run")
    monkeypatch.undo()
    train.open_run(tmp_path / "run")  # nothing is in its way


def test_a_folder_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train.open_run(folder)
    monkeypatch.setattr(pathlib.Path, "read_bytes", error(errno.EACCES))
    text = r"path: .*run, which can't be read \(Permission denied\)"
    refused(OSError, text, folder, resume=True)
    monkeypatch.undo()
    monkeypatch.setattr(pathlib.Path, "exists", error(errno.EACCES))
    refused(OSError, text, folder, resume=True)
    refused(OSError, r"path: .*\(Permission denied\)", folder)


@pytest.mark.parametrize(("share", "steps"), [(0.0, [9]), (math.inf, [3, 6, 9])])
def test_checkpoints_may_cost_a_share_of_the_time(
    share: float, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_SHARE", share)
    optimizer = optim.sgd(lr=0.25)
    step = train.make_step(lambda w, x: ((w - x) ** 2).mean(), optimizer)
    state = train.init(torch.tensor(2.5), optimizer, key=random.key(0))
    run = train.open_run(tmp_path / "run", keep=5)
    batches = [(torch.tensor([value]),) for value in (2.0, 3.0, 7.0)]
    with disable_jit():
        train.fit(step, state, batches, epochs=3, run_dir=run, progress=False)
    found = (tmp_path / "run" / "checkpoints").glob("step-*.safetensors")
    assert sorted(int(path.stem[5:]) for path in found) == steps
