# SPDX-License-Identifier: Apache-2.0
"""What a folder tells, whole, damaged, full, or in use."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
from functorch_lab import train, tree
from functorch_lab.train import _checkpoints as checkpoints

OPTIONS: Any = {"step": runs.plain_step, "epochs": 3, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record") / "whole"
    runs.fit(folder, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped after 9 steps, with checkpoints of 8 and 9, the best of 5."""
    folder = tmp_path_factory.mktemp("record") / "stopped"

    def step(state: Any, x: Any, y: Any) -> Any:
        if int(state.step) == 8:
            os.kill(os.getpid(), 2)
        return runs.plain_step(state, x, y)

    with pytest.raises(train.Interrupted, match="after step 9"):
        runs.fit(folder, **OPTIONS | {"step": step})
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def test_what_a_run_tells(whole: Path) -> None:
    record = train.read_run(str(whole))
    state, history = runs.fit(whole, **OPTIONS)
    assert record.folder == whole
    assert record.config == {"seed": 3}
    assert record.step == 15
    assert record.finished
    assert record.logs["step"] == list(range(1, 16))
    assert record.logs["loss"] == history.logs["loss"].tolist()
    assert record.epochs == history.epochs
    errors = [row["error"] for row in record.epochs]
    assert record.best == record.epochs[errors.index(min(errors))]
    assert tree.equal(record.params(), state.params)
    last = runs.start()
    batches = [runs.batches, OPTIONS["step"]]
    last, _ = train.fit(batches[1], last, batches[0], epochs=3, progress=False)
    assert tree.equal(record.params("last"), last.params)
    assert record.result == {}
    assert record.tensors == {}
    with pytest.raises(ValueError, match=r"which: expected .*, got 'worst'. Say which"):
        record.params("worst")  # type: ignore[arg-type]


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    train.open_run(tmp_path, config={"a": 2})
    record = train.read_run(tmp_path)
    assert (record.step, record.finished, record.best) == (0, False, None)
    assert (record.logs, record.epochs) == ({}, [])
    with pytest.raises(ValueError, match=r"params: expected a checkpoint in .*, got"):
        record.params()


def test_results(tmp_path: Path) -> None:
    run = train.open_run(tmp_path)
    metrics = {"accuracy": 0.75, "loss": torch.tensor(2.5), "ratio": float("nan")}
    run.write_result(metrics, confusion=torch.tensor([[2, 3], [5, 7]]))
    record = train.read_run(tmp_path)
    assert {k: v for k, v in record.result.items() if k != "ratio"} == {
        "accuracy": 0.75,
        "loss": 2.5,
    }
    assert record.result["ratio"] != record.result["ratio"]
    assert record.tensors["confusion"].tolist() == [[2, 3], [5, 7]]
    for value in ("high", None, torch.tensor([2.0, 3.0])):
        with pytest.raises(TypeError, match="metrics: expected a number for accuracy"):
            run.write_result({"accuracy": value})  # type: ignore[dict-item]


def goes_on_from(
    copy: Path, whole: Path, step: int, caplog: pytest.LogCaptureFixture
) -> list[str]:
    """The warnings, of a run that is to go on with that step and end like another."""
    taken = []

    def watched(state: Any, x: Any, y: Any) -> Any:
        taken.append(int(state.step))
        return runs.plain_step(state, x, y)

    caplog.clear()
    runs.fit(copy, **OPTIONS | {"step": watched})
    warnings = [record.getMessage() for record in caplog.records]
    assert taken[0] == step
    assert runs.differences(copy, whole, **OPTIONS) == []
    return warnings


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def edited(path: Path) -> None:
    path.write_text(path.read_text("utf-8").replace('"taken": 9', '"taken": 3'))


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "truncated": (
        "safetensors",
        lambda p: os.truncate(p, 600),
        "has 600 bytes instead",
    ),
    "empty": ("safetensors", lambda p: os.truncate(p, 0), "has 0 bytes instead"),
    "no state": ("safetensors", Path.unlink, "No such file"),
    "length, low": ("safetensors", lambda p: flipped(p, 0), "the header of"),
    "length, high": ("safetensors", lambda p: flipped(p, 7), "the header of"),
    "header": ("safetensors", lambda p: flipped(p, 70), "the header of"),
    "state": ("safetensors", lambda p: flipped(p, -1), "is not as it was written"),
    "manifest": ("json", lambda p: flipped(p, 30), "its manifest is not"),
    "half a manifest": ("json", lambda p: os.truncate(p, 90), "its manifest is not"),
    "edited": ("json", edited, "its manifest is not as it was written"),
    "a list": ("json", lambda p: p.write_text("[2]"), "its manifest is not as it was"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    name: str, copy: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end, damage, words = DAMAGES[name]
    damage(copy / "checkpoints" / f"step-00000009.{end}")
    assert train.read_run(copy).step == 8
    assert not caplog.records[0].exc_info
    found = goes_on_from(copy, whole, 8, caplog)
    assert f"the checkpoint of step 9 in {copy} is damaged" in found[0]
    assert words in found[0]
    assert "looking for the one before" in found[0]


def test_an_interrupted_checkpoint_is_passed_over(
    copy: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "checkpoints" / "step-00000009.json").unlink()
    (copy / "checkpoints" / ".step-00000009.json.part").write_text("{")
    [found] = goes_on_from(copy, whole, 8, caplog)
    names = r".step-00000009.json.part, step-00000009.safetensors"
    assert f"was interrupted while it was written ({names}); going on from" in found
    assert found.endswith("step 8")


def test_without_a_handler_it_goes_to_standard_error(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "checkpoints" / "step-00000009.safetensors").unlink()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    train.read_run(copy)
    assert "the checkpoint of step 9" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["step-*.safetensors", "best-*.safetensors"])
def test_only_damaged_ones_are_refused(copy: Path, names: str) -> None:
    for path in (copy / "checkpoints").glob(names):
        os.truncate(path, 300)
    before = {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}
    text = (
        "expected a whole checkpoint in .*, got only damaged ones .step 9: .*; step 8"
    )
    with pytest.raises(ValueError, match="train.fit: run_dir: " + text):
        runs.fit(copy, **OPTIONS)
    with pytest.raises(ValueError, match="train.read_run: run_dir: " + text):
        train.read_run(copy)
    assert before == {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}


def test_without_its_best_a_checkpoint_is_damaged(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs.fit(tmp_path, **OPTIONS | {"epochs": 2, "checkpoint_every": 5})
    (tmp_path / "checkpoints" / "best-00000010.json").unlink()
    [found, *_] = goes_on_from(tmp_path, whole, 5, caplog)
    assert "the checkpoint of step 10" in found
    assert "the best state that belongs to it is missing" in found


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p.write_text(p.read_text().replace('"step": 3', '"step": 4')),
        lambda p: os.truncate(p, 90),
        Path.unlink,
    ],
)
def test_another_log_is_refused(copy: Path, edit: Callable[[Path], Any]) -> None:
    edit(copy / "metrics.jsonl")
    before = {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}
    with pytest.raises(
        ValueError, match="to begin as it was written up to step 9, got"
    ):
        runs.fit(copy, **OPTIONS)
    assert before == {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", "not a number\n"),
        ("metrics.jsonl", "[2, 3]\n"),
        ("metrics.jsonl", "{}\n"),
        ("metrics.jsonl", '{"epoch": 2}\n'),
        ("result.json", "{"),
        ("result.json", "[2, 3]"),
        ("result.json", '{"accuracy": "high"}'),
        ("result.json", '{"accuracy": {"test": 0.5}}'),
    ],
)
def test_a_log_or_result_that_is_none(name: str, text: str, copy: Path) -> None:
    (copy / name).write_text(text)
    said = r"read_run: path: expected the log and the result of a run in .*, got others"
    with pytest.raises(ValueError, match=said):
        train.read_run(copy)


def test_half_a_line_is_not_read(copy: Path, whole: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')
    assert train.read_run(copy).logs["step"] == list(range(1, 10))


def test_another_structure_is_told(copy: Path) -> None:
    before = {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}
    params = {"in": torch.ones(5, 7), "out": torch.ones(3)}
    state = train.init(params, runs.OPTIMIZER, key=runs.random.key(3))
    text = r"differ at .*params.*out.*: expected float32 \(3,\), got float32 \(7,\)"
    with pytest.raises(ValueError, match=text):
        runs.fit(copy, **OPTIONS, state=state)
    assert before == {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}


def test_a_file_that_cannot_be_read_is_kept(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    before = {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}
    monkeypatch.setattr(checkpoints, "_header_digest", fail)
    text = "to read the checkpoint of step 9 in .*, got Permission denied. Make it"
    with pytest.raises(OSError, match="train.fit: run_dir: expected " + text):
        runs.fit(copy, **OPTIONS)
    assert before == {p: p.read_bytes() for p in copy.glob("**/*") if p.is_file()}


@pytest.mark.parametrize("n", range(0, 12, 3))
def test_a_full_disk(
    n: int, copy: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    text = (
        r"train.fit: run_dir: expected a folder to write to, got .*run \(No space left "
        r"on device\). Make room, and go on with open_run\(path, resume=True\)"
    )
    with pytest.raises(OSError, match=text):
        runs.fit(copy, **OPTIONS)
    monkeypatch.undo()
    assert train.read_run(copy).step >= 9
    runs.fit(copy, **OPTIONS)
    assert runs.differences(copy, whole, **OPTIONS) == []


def test_a_log_that_may_not_grow(copy: Path, whole: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (copy / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(OSError, match=r"\(File too large\). Make room, and go on"):
            runs.fit(copy, **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert train.read_run(copy).step == 9
    runs.fit(copy, **OPTIONS)
    assert runs.differences(copy, whole, **OPTIONS) == []


def test_a_checkpoint_that_goes_while_it_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inside = copy / "checkpoints"
    digest, seen = checkpoints._header_digest, []

    def meanwhile(path: Path) -> str:
        seen.append(path.name)
        if len(seen) == 1:  # the run goes on, and keeps one
            shutil.copy(inside / "step-00000008.safetensors", inside / "x")
            for name in ("step-00000009.json", "step-00000009.safetensors"):
                (inside / name).unlink()
        return digest(path)

    monkeypatch.setattr(checkpoints, "_header_digest", meanwhile)
    assert train.read_run(copy).step == 8
    assert seen[:2] == ["step-00000009.safetensors", "step-00000008.safetensors"]
    assert caplog.records == []
