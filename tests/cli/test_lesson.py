# SPDX-License-Identifier: Apache-2.0
"""`lesson`: the course listed, run, and handed out."""

import os
import sys
from pathlib import Path

import pytest

from command_line import refused, told
from functorch_lab import cli, lessons


def test_lists_the_course(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lesson"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[1] for row in rows[:10]] == list(lessons.NAMES)
    assert rows[1] == f" 2  line             {lessons.title('line')}"
    assert "functorch-lab lesson gradients" in rows[-1]


def test_runs_lessons_and_saves_their_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = told(capsys, "lesson", "losses", "gradients", "--out", tmp_path / "made")
    for name in ("gradients", "losses"):
        folder = tmp_path / "made" / name
        assert sorted(os.listdir(folder)) == sorted(lessons.figures(name))
        assert f"figures in {folder}: {lessons.figures(name)[0]}" in out
    assert out.splitlines()[1] == lessons.title("losses")
    assert "\n2 lessons in " in out


def test_takes_dashes_for_underscores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "lesson", "four-ways", "--copy", tmp_path)
    assert os.listdir(tmp_path) == ["four_ways.py"]


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
