# SPDX-License-Identifier: Apache-2.0
"""The command: what it prints, how it fails, and with which status."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import functorch_lab
from command_line import COMMAND, ERROR, refused, shell, told
from functorch_lab import cli
from functorch_lab.cli import _main, _train, _words
from functorch_lab.recipes import digits
from markdown_code import ROOT


def test_trains_and_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "digits", "--epochs", "2", "--no-compile"]) == 0
    out, err = capsys.readouterr()
    assert "mlp on digits, 2 epochs, on " in out
    assert "not compiled" in out
    assert "test accuracy 0.9" in out
    matrix = out.split("predicted)\n")[1].split("\n\n")[0].splitlines()
    counts = [row.replace(".", "0").split() for row in matrix]
    assert counts[0] == [str(i) for i in range(10)]
    assert [row[0] for row in counts[1:]] == counts[0]
    assert sum(int(n) for row in counts[1:] for n in row[1:]) == 359
    assert "20 steps in" in out
    assert err.splitlines()[-1].startswith("epoch 2/2  loss ")


def test_hands_every_option_to_the_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {}

    def stopped(config: digits.Config, **options: object) -> None:
        given.update(asdict(config), **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "train", stopped)
    argv = "train digits --epochs 3 --batch-size 64 --lr 0.002 --seed 5 --device cpu"
    argv += " --model cnn --early-stopping 2 --corrupt-labels 0.25 --out a/b --resume"
    assert cli.main(argv.split()) == 130
    out, err = capsys.readouterr()
    assert out == "cnn on digits, 3 epochs, on cpu, compiled\n"
    assert err == "\nfunctorch-lab: interrupted\n"
    assert given == {
        "model": "cnn",
        "epochs": 3,
        "batch_size": 64,
        "lr": 0.002,
        "early_stopping": 2,
        "corrupt_labels": 0.25,
        "seed": 5,
        "device": "cpu",
        "compile": True,
        "run_dir": Path("a/b"),
        "resume": True,
    }


def test_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version") == f"functorch-lab {functorch_lab.__version__}\n"


def test_a_mistake_is_one_line_without_traceback() -> None:
    done = shell("train", "digits", "--lr", "nan")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"{ERROR}recipes.digits: lr: expected a finite number > 0, got nan. "
        "Give e.g. 0.005.\n"
    )


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("train digitz", "cli.train: recipe: expected one of digits"),
        ("train mnist", "got mnist. Choose one"),
        ("trian digits", "got trian. Did you mean train?"),
        ("train digits --model cnm", "expected one of mlp, cnn, got cnm. Did you mean"),
        ("train digits --device tpu", "device: expected one of auto, cpu, mps, cuda"),
        ("train digits --lr -1", "lr: expected a finite number > 0, got -1.0"),
        (
            "train digits --batch-size 0",
            "batch_size: expected 1 .. 1294 (the number of samples), got 0",
        ),
        (
            "train digits --batch-size 1500",
            "expected 1 .. 1294 (the number of samples), got 1500",
        ),
        ("train digits --early-stopping 0", "early_stopping: expected at least 1, got"),
        ("train digits --corrupt-labels 2", "corrupt_labels: expected a share in [0, "),
        (
            "train digits --early-stopping",
            "--early-stopping: expected a whole number, got nothing. Give e.g. --early",
        ),
        (
            "train digits --out",
            "--out: expected a path, got nothing. Give e.g. --out f",
        ),
        ("train digits --resumed", "got --resumed. Did you mean --resume?"),
        ("train --lr 3 digits", "cli.train: recipe: expected one of digits"),
        (
            "report",
            "cli.report: arguments: expected RUN, got none. Run: functorch-lab r",
        ),
        (
            "report a b",
            "cli.report: arguments: expected RUN, got a b. Run: functorch-l",
        ),
        (
            "predict",
            "arguments: expected RUN [IMAGES ...], got none. Run: functorch-lab",
        ),
        (
            "predict a --inverse",
            "cli.predict: option: expected one of --invert, --help",
        ),
        ("train digits --epochs 0", "epochs: expected at least 1, got 0"),
        (
            "train digits --epochs 1.5",
            "cli.train: --epochs: expected a whole number, got 1.5. Give e.g. "
            "--epochs 20.",
        ),
        (
            "train digits --lr=abc",
            "cli.train: --lr: expected a number, got abc. Give e.g. --lr 0.005.",
        ),
        ("train digits --lr --seed 3", "--lr: expected a number, got --seed. Give"),
        ("train digits --batch-size", "--batch-size: expected a whole number, got not"),
        (
            "train digits --learning-rate 1",
            "cli.train: option: expected one of --model, --epochs, --batch-size, --lr, "
            "--early-stopping, --corrupt-labels, --seed, --device, --out, --compile, "
            "--no-compile, --resume, --help, got --learning-rate. "
            "Did you mean --lr?",
        ),
        ("train", "cli.train: recipe: expected one of digits"),
        (
            "train digits mnist",
            "arguments: expected options alone, got mnist. Run: fun",
        ),
        ("doctor --fast", "cli.doctor: option: expected one of --help, got --fast."),
        (
            "--verson",
            "cli: option: expected one of --help, --version, got --verson. Did you",
        ),
    ],
)
def test_names_the_mistake(
    argv: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refused(capsys, *argv.split())


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_names_a_device_that_is_not_there(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if getattr(torch, "cuda" if device == "cuda" else "mps").is_available():
        pytest.skip(f"there is {device}")
    text = refused(capsys, "train", "digits", "--device", device)
    assert "device: expected one that is present (" in text
    assert f"got {device}. Give auto" in text


@pytest.mark.parametrize(
    ("module", "said"), [("tyro", ""), ("sklearn.datasets", "mlp on digits")]
)
def test_says_how_to_get_what_is_missing(
    module: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    text = refused(capsys, "train", "digits", "--no-compile", said=said)
    assert text.endswith("pip install 'functorch-lab[lab]'")


def test_a_run_that_diverges_ends_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["train", "digits", "--lr", "1e38", "--no-compile"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"{ERROR}train.fit: loss: expected finite values, got ")


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: object, **options: object) -> None:
        raise ValueError("some inner thing")

    monkeypatch.setattr(digits, "train", broken)
    with pytest.raises(ValueError, match="some inner thing"):
        cli.main(["train", "digits"])


def test_a_full_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/texts.txt")

    monkeypatch.setattr(digits, "train", full)
    line = refused(capsys, "train", "digits", "--no-compile", said="mlp on digits")
    assert line == "[Errno 28] No space left on device: 'runs/a/texts.txt'"


def test_alone_it_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    alone = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert "train" in alone
    assert "doctor" in alone
    assert "--version" in alone
    assert cli.main(["train", "--help"]) == 0
    assert "digits" in capsys.readouterr().out
    assert cli.main(["train", "digits", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("epochs INT", "early-stopping", "no-compile", "out", "resume  "):
        assert f"--{name}" in shown
    assert "--model {mlp,cnn}" in shown
    assert "--device {auto,cpu,mps,cuda}" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes that break there")
@pytest.mark.parametrize("argv", ["doctor", "train digits --help"])
def test_is_quiet_when_nobody_reads_on(argv: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [*COMMAND, *argv.split()],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full file there")
def test_a_full_disk_below_its_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    said = b"functorch-lab: error: cli: standard output: expected a file to write to, "
    assert done.stderr.startswith(said)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_works_without_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["--version"]) == 0


def options_of(command: str) -> set[str]:
    """The options of a command as its function has them, none twice."""
    commands: dict[str, Callable[..., object]] = {**_main._COMMANDS}
    commands |= {f"train {name}": f for name, f in _train.commands().items()}
    known = _words._words(commands[command])
    # Beside a switch that is on from the start only its opposite is worth a word.
    off = {name for name in known.switches if f"--no-{name[2:]}" in known.switches}
    return {*known.options, *known.switches} - off


def test_the_page_of_the_command_names_every_option() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    usage = page.split("```text\n")[1].split("```")[0]
    shown: dict[str, set[str]] = {}
    for line in usage.replace("\n  ", " ").splitlines():
        words = re.match(r"functorch-lab ((?:train )?[a-z]+)", line)
        if words:
            options = re.findall(r"--[a-z-]+", line)
            shown.setdefault(words[1], set()).update(options)
    assert shown == {command: options_of(command) for command in shown}
    recipes = {f"train {name}" for name in _train.RECIPES}
    assert shown.keys() == (_main._COMMANDS.keys() - {"train"}) | recipes


def test_importing_it_is_light() -> None:
    code = "import functorch_lab.cli, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {
        "tyro",
        "rich",
        "sklearn",
        "torch._dynamo",
        "matplotlib",
        "jupytext",
    } & set(done.stdout.split())


def test_ctrl_c_while_a_module_is_imported_is_one_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(*args: object, **options: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(digits, "train", importing)
    assert cli.main(["train", "digits", "--no-compile"]) == 130
    assert capsys.readouterr().err == "\nfunctorch-lab: interrupted\n"
