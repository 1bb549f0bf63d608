# SPDX-License-Identifier: Apache-2.0
"""Runs that `train` keeps: where they are, how they go on, what is refused."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ERROR, refused, snapshot, told
from functorch_lab import cli, train

QUICK = ("train", "digits", "--no-compile", "--epochs", "2")
FIRST = "mlp on digits, 2 epochs, on "


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of two epochs, of other learning rates."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main([*QUICK, "--out", str(folder / "slow"), "--lr", "0.001"]) == 0
    assert cli.main([*QUICK, "--out", str(folder / "fast"), "--seed", "7"]) == 0
    return folder


def test_keeps_a_run_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "run"
    lines = told(capsys, *QUICK, "--out", out, "--corrupt-labels", "0.1").splitlines()
    assert lines[-1] == f"run in {out}, its report in {out / 'report.html'}"
    assert lines[0].startswith(FIRST)
    record = train.read_run(out)
    assert record.finished
    assert {"recipe": "digits", "epochs": 2}.items() <= record.config.items()
    there = {str(path.relative_to(out)) for path in out.rglob("*")}
    assert {"corrupted.csv", "metrics.jsonl", "figures/confusion.png"} <= there
    rows = (out / "corrupted.csv").read_text().splitlines()
    assert (rows[0], len(rows) - 1) == ("index,true,planted", round(1294 / 10))
    assert "129 training samples had a wrong label, planted" in lines


def test_says_that_it_stopped_early(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "train diabetes --no-compile --lr 1 --epochs 50 --early-stopping 1"
    assert cli.main(argv.split()) == 0
    out, err = capsys.readouterr()
    epochs = int(err.splitlines()[-1].split()[1].removesuffix("/50"))
    assert epochs < 50
    assert f"\nstopped early, after {epochs} of 50 epochs\n" in out


def test_trains_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "diabetes", "--no-compile", "--epochs", "2", "--out", tmp_path]
    out = told(capsys, *argv)
    assert out.startswith("diabetes, 2 epochs, on ")
    result = train.read_run(tmp_path).result
    for name, before in (("network", "test_"), ("least squares", "test_linear_")):
        error, share = (result[f"{before}{kind}"] for kind in ("error", "r2"))
        row = next(line for line in out.splitlines() if line.startswith(name))
        assert row.removeprefix(name).split() == [f"{error:.2f}", f"{share:.4f}"]


def test_trains_a_language_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--layers 1 --width 6 --heads 2 --context 9 --nbytes 5000 --steps 3"
    argv = ["train", "text", "--no-compile", *sizes.split(), "--out", tmp_path]
    out = told(capsys, *argv)
    assert out.startswith("text, 3 steps, on ")
    bits = train.read_run(tmp_path).result["val_bits_per_byte"]
    assert f"\n{bits:.4f} bits per byte of held-out text\n" in out
    assert "\nwhat it writes after 'def '\ndef " in out
    assert "What it writes" in (tmp_path / "report.html").read_text("utf-8")


def test_without_a_folder_no_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run in" not in told(capsys, *QUICK)
    assert os.listdir(tmp_path) == []


def test_a_finished_run_resumed_says_the_same(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*QUICK, "--seed", "7", "--out", runs / "fast", "--resume"]
    before = snapshot(runs / "fast" / "checkpoints")
    out = told(capsys, *argv)
    accuracy = train.read_run(runs / "fast").result["test_accuracy"]
    assert f"\ntest accuracy {accuracy:.4f}\n" in out
    assert snapshot(runs / "fast" / "checkpoints") == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--out slow", "a new or empty folder, got slow, which holds a run. Go on wit"),
        ("--out notes", "a new or empty folder, got notes, which holds mine.txt. Give"),
        ("--out FILE", "expected a new or empty folder, got FILE, which is a file."),
        ("--out FILE/run", "expected a folder to write to, got FILE/run ("),
        ("--out none --resume", "expected the folder of a run, got none, which does n"),
        ("--out notes --resume", "expected the folder of a run, got notes, which has"),
        (
            "--out slow --resume --lr 0.5 --seed 3",
            "config: expected that of the run in slow: lr: 0.001 there, 0.5 now; seed: "
            "0 there, 3 now. Resume with the same, or start a new run.",
        ),
    ],
)
def test_refuses_folders(
    options: str,
    text: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(runs)
    (runs / "FILE").write_text("mine")
    (runs / "notes").mkdir(exist_ok=True)
    (runs / "notes" / "mine.txt").write_text("mine")
    before = snapshot(runs)
    assert text in refused(capsys, *QUICK, *options.split(), said=FIRST)
    assert snapshot(runs) == before
    assert not (runs / "none").exists()


def test_refuses_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refused(capsys, *QUICK, "--resume")
    assert text.startswith("cli.train: --resume: expected --out DIR with it, got none.")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        text = refused(capsys, *QUICK, "--out", "run")
        assert text.startswith("cli: expected matplotlib, which draws the figures of a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    text = refused(capsys, *QUICK, "--out", "run")
    assert text.startswith("cli.train: WORLD_SIZE: expected 1 process, got 2, as torch")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert cli.main(["train", "digits", "--help"]) == 0
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room, fsync = [4], os.fsync

    def fills_up(file: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", fills_up)
    assert cli.main([*QUICK, "--out", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{ERROR}train.fit: run_dir: expected a folder to write to")
    assert "(No space left on device). Make room, and go on with" in last


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What a shell starts with `&` ignores Ctrl-C, and so would its children.
    code = (
        "import signal, sys, functorch_lab.cli as cli;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        # A checkpoint after every epoch, whatever it costs.
        "cli._train.fl.train._session._SHARE = float('inf');"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    out = tmp_path / "a run"
    options = ["--out", str(out), "--no-compile", "--batch-size", "1000"]
    argv = [sys.executable, "-c", code, "train", "digits", *options, "--epochs", "40"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert run.stderr.readline().startswith("epoch 4/40")
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    last = err.splitlines()[-1]
    command = f"functorch-lab {shlex.join(argv[3:])} --resume"
    assert last == f"functorch-lab: interrupted, and saved. Go on with: {command}"
    record = train.read_run(out)
    assert not record.finished
    assert 4 <= record.step < 40

    # A power cut in the midst of the last checkpoint: the one before is used.
    checkpoints = sorted((out / "checkpoints").glob("step-*.safetensors"))
    assert len(checkpoints) == 2
    os.truncate(checkpoints[-1], 100)
    train.read_run(out).params()
    assert [f"of step {record.step} " in line for line in caplog.messages] == [True]
    caplog.clear()
    lines = told(capsys, *shlex.split(command)[1:]).splitlines()
    said = f"train.fit: the checkpoint of step {record.step} in {out} is damaged"
    assert any(line.startswith(said) for line in caplog.messages)
    assert lines[-1].startswith(f"run in {out}, its report in")
    record = train.read_run(out)
    assert record.finished
    assert record.logs["step"] == list(range(1, 41))


def test_compares_runs(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(runs)
    lines = told(capsys, "compare", runs / "slow", runs / "fast").splitlines()
    rows = {line.split("  ")[0] or line.strip(): line.split()[-2:] for line in lines}
    assert lines[0].split() == ["slow", "fast"]
    assert rows["lr"] == ["0.001", "0.005"]
    assert rows["seed"] == ["0", "7"]
    assert not any(line.startswith(("model", "device")) for line in lines)
    records = [train.read_run(runs / name) for name in ("slow", "fast")]
    accuracy = [f"{record.result['test_accuracy']:.4g}" for record in records]
    assert [line.split()[1:] for line in lines if "test_accuracy" in line] == [accuracy]
    losses = [f"{record.epochs[-1]['val_loss']:.4g}" for record in records]
    found = [line.split()[1:] for line in lines if "val_loss" in line]
    best = [record.best or {} for record in records]
    assert found == [losses, [f"{row['val_loss']:.4g}" for row in best]]
    assert len({len(line) for line in lines[:-2] if len(line.split()) > 2}) == 1
    assert lines[-1] == "curves in compare.png"
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    told(capsys, "compare", runs / "slow", runs / "fast")  # writes it again
    assert os.listdir(tmp_path) == ["compare.png"]
    assert snapshot(runs) == before


def test_compares_runs_that_have_different_things(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = train.open_run(tmp_path / "slow", config={"lr": 0.5, "depth": 3}).folder
    rows = ['{"step": 1, "loss": 2.5}', '{"epoch": 1, "step": 1, "loss": 2.5}']
    (own / "metrics.jsonl").write_text("\n".join([*rows, ""]))
    out = tmp_path / "curves.png"
    argv = ["compare", own, runs / "slow", "--out", out]
    lines = told(capsys, *argv).splitlines()
    assert lines[0].split() == [str(own), str(runs / "slow")]
    words = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert words["lr"] == ["0.5", "0.001"]
    assert words["finished"] == ["no", "yes"]
    assert (words["depth"], words["recipe"]) == (["3", "-"], ["-", "digits"])
    assert words["test_accuracy"][0] == "-"
    assert out.exists()


def test_compares_runs_that_have_no_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [train.open_run(tmp_path / str(i), config={"lr": i}).folder for i in (3, 5)]
    out = told(capsys, "compare", *runs, "--out", tmp_path / "curves.png")
    assert out.endswith("\nno curves yet\n")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("", "cli.compare: runs: expected at least 2 different ones, got none. Run: "),
        ("slow", "expected at least 2 different ones, got slow. Run: functorch-lab co"),
        ("slow ./slow/", "expected at least 2 different ones, got slow slow."),
        ("slow none", "expected the folder of a run, got none, which does not exist."),
        ("slow fast --out x.pdf", "got x.pdf (which does not end in .png). Give"),
        ("slow fast --out no/x.png", "got no/x.png (in a folder that does not exist)."),
        ("slow fast --out mine.png", "got mine.png (which this command has not writt"),
        ("slow fast --out dir.png", "expected a new PNG file to write, got dir.png ("),
    ],
)
def test_refuses_to_compare(
    argv: str,
    text: str,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(runs)
    (runs / "mine.png").write_bytes(b"\x89PNG of mine")
    (runs / "dir.png").mkdir(exist_ok=True)
    before = snapshot(runs)
    assert text in refused(capsys, "compare", *argv.split())
    assert snapshot(runs) == before
