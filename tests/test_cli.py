# SPDX-License-Identifier: Apache-2.0
"""The command: what it prints, how it fails, and with which status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import functorch_lab
from functorch_lab import cli, lessons
from functorch_lab.cli import _doctor
from functorch_lab.recipes import digits

COMMAND = [sys.executable, "-m", "functorch_lab"]
ERROR = "functorch-lab: error: "


def shell(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"} | env,
    )


def refused(capsys: pytest.CaptureFixture[str], *argv: str, said: str = "") -> str:
    """The one line that ends a call with status 2, and what was said before."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out.startswith(said)
    assert bool(out) == bool(said)
    lines = err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(ERROR)
    return lines[0].removeprefix(ERROR)


def test_trains_and_tests() -> None:
    done = shell("train", "digits", "--epochs", "2", "--no-compile")
    assert done.returncode == 0, done.stderr
    assert "mlp on digits, 2 epochs, on " in done.stdout
    assert "not compiled" in done.stdout
    assert "test accuracy 0.9" in done.stdout
    matrix = done.stdout.split("predicted)\n")[1].split("\n\n")[0].splitlines()
    counts = [row.replace(".", "0").split() for row in matrix]
    assert counts[0] == [str(i) for i in range(10)]
    assert [row[0] for row in counts[1:]] == counts[0]
    assert sum(int(n) for row in counts[1:] for n in row[1:]) == 359
    assert "22 steps in" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("epoch 2/2  loss ")


def test_trains_compiled_with_every_option() -> None:
    argv = "train digits --epochs 1 --batch-size 64 --lr 0.002 --seed 3 --device cpu"
    done = shell(*argv.split(), "--model", "mlp")
    assert done.returncode == 0, done.stderr
    assert "mlp on digits, 1 epochs, on cpu, compiled" in done.stdout
    assert "22 steps in" in done.stdout


def test_prints_its_version() -> None:
    done = shell("--version")
    assert done.returncode == 0
    assert done.stdout == f"functorch-lab {functorch_lab.__version__}\n"


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
        ("train digitz", "dataset: expected one of digits, got digitz. Did you mean"),
        ("train mnist", "dataset: expected one of digits, got mnist. Choose one"),
        ("trian digits", "got trian. Did you mean train?"),
        ("train digits --model cnm", "expected one of mlp, cnn, got cnm. Did you mean"),
        ("train digits --device tpu", "device: expected one of auto, cpu, mps, cuda"),
        ("train digits --lr -1", "lr: expected a finite number > 0, got -1.0"),
        ("train digits --batch-size 0", "batch_size: expected at least 1, got 0"),
        (
            "train digits --batch-size 1500",
            "expected 1 .. 1438 (the number of samples)",
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
            "--seed, --device, --compile, --no-compile, --help, got --learning-rate. "
            "Did you mean --lr?",
        ),
        ("train", "cli.train: dataset: expected one, got none. Run: functorch-lab tra"),
        ("train digits mnist", "dataset: expected one, got digits mnist. Run"),
        ("doctor --fast", "cli.doctor: options: expected none, got --fast. Run: fun"),
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
    def broken(config: object) -> None:
        raise ValueError("some inner thing")

    monkeypatch.setattr(digits, "train", broken)
    with pytest.raises(ValueError, match="some inner thing"):
        cli.main(["train", "digits"])


def test_alone_it_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    alone = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert "train" in alone
    assert "doctor" in alone
    assert "--version" in alone
    assert cli.main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("model", "epochs", "batch-size", "lr", "seed", "device", "no-compile"):
        assert f"--{name}" in shown
    assert "--model {mlp,cnn}" in shown
    assert "--device {auto,cpu,mps,cuda}" in shown


def test_doctor_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _doctor._version
    without_rich = lambda name: None if name == "rich" else found(name)  # noqa: E731
    monkeypatch.setattr(_doctor, "_version", without_rich)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in out
    assert "[lab]     missing: rich. Run: pip install 'functorch-lab[lab]'" in out
    assert "\ndevices\n  cpu\n" in out
    assert "\n  works: first call " in out


def test_doctor_says_what_each_extra_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = [
        "torch>=2.11",
        "rich>=14; extra == 'lab'",
        "functorch-lab[docs,lab]; extra == 'test'",
        "not-there[x]>=3; extra == 'test'",
        'nor.this>=3 ; extra == "test"',
    ]
    monkeypatch.setattr(_doctor.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(_doctor, "_compiler", lambda: "works")
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.split("extras\n")[1].split("devices")[0].splitlines() == [
        "  [lab]     complete",
        "  [test]    missing: not-there, nor.this. Run: pip install "
        "'functorch-lab[test]'",
    ]


def test_doctor_says_that_the_compiler_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(fn: object) -> object:
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(_doctor, "jit", failing)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "fails: no compiler found. Install a C++ compiler" in out


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


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_ctrl_c_ends_with_a_line() -> None:
    # What a shell starts with `&` ignores Ctrl-C, and so would its children.
    code = (
        "import signal, sys, functorch_lab.cli as cli;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, "train", "digits", "--no-compile"]
    argv += ["--epochs", "100000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert b"mlp on digits" in run.stdout.readline()
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.decode().splitlines()[-1] == "functorch-lab: interrupted"


def test_lists_the_course(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lesson"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows[:10]] == list(lessons.NAMES)
    assert rows[1] == f" 2  line             {lessons.title('line')}"
    assert "functorch-lab lesson gradients" in rows[-1]


def test_runs_lessons_and_saves_their_figures(tmp_path: Path) -> None:
    done = shell("lesson", "four-ways", "line", "--out", str(tmp_path / "made"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for name in ("line", "four_ways"):
        folder = tmp_path / "made" / name
        assert sorted(os.listdir(folder)) == sorted(lessons.figures(name))
        assert f"figures in {folder}: {lessons.figures(name)[0]}" in done.stdout
    assert done.stdout.splitlines()[1] == lessons.title("four_ways")
    assert "\n2 lessons in " in done.stdout


@pytest.mark.parametrize(
    ("options", "end", "has_solutions"),
    [
        ("", ".py", True),
        ("--without-solutions", ".py", False),
        ("--notebook", ".ipynb", True),
        ("--notebook --without-solutions", ".ipynb", False),
    ],
)
def test_hands_the_course_out(
    options: str, end: str, has_solutions: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    argv = ["lesson", "--all", "--copy", str(folder), *options.split()]
    assert cli.main(argv) == 0
    assert sorted(os.listdir(folder)) == sorted(f"{n}{end}" for n in lessons.NAMES)
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir()]
    assert all(("Your solution: define" in text) != has_solutions for text in texts)


def test_overwrites_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "line.py").write_text("mine")
    text = refused(capsys, "lesson", "--all", "--copy", str(tmp_path))
    assert f"expected new files, got existing {tmp_path / 'line.py'}. Move" in text
    assert os.listdir(tmp_path) == ["line.py"]
    assert (tmp_path / "line.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("lesson lime", "name: expected one of line, "),
        ("lesson optimisers", "expected one of optimizers, "),
        ("lesson line generalization", "expected one of generalisation, "),
        ("lesson line --all", "names: expected none beside --all, got line. Give"),
        ("lesson line --notebook", "--notebook: expected --copy DIR with it, got none"),
        ("lesson --without-solutions", "--without-solutions: expected --copy DIR"),
        ("lesson --copy there", "--copy: expected lessons to write, got none. Give"),
        ("lesson line --copy", "cli.lesson: --copy: expected a path, got nothing."),
        ("lesson line --output x", "--help, got --output. Did you mean --out?"),
        ("lesson line --out FILE", "--out: expected a folder to write to, got FILE/li"),
    ],
)
def test_names_the_mistake_about_lessons(
    argv: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("mine")
    assert text in refused(capsys, *argv.split())
    assert os.listdir(tmp_path) == ["FILE"]


@pytest.mark.parametrize("module", ["matplotlib", "jupytext"])
def test_says_what_a_lesson_needs(
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    text = refused(capsys, "lesson", "line", "--out", str(tmp_path))
    assert text.startswith(f"lessons: expected {module}, which ")
    assert text.endswith("pip install 'functorch-lab[lab]'")


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
