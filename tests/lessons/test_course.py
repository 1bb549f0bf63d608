# SPDX-License-Identifier: Apache-2.0
"""What holds for every lesson: it shows what it says, in one form with the others."""

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from course import EXPECTED, run
from functorch_lab import lessons

FOLDER = Path(lessons.__file__).parent
COMPILES = ("fl.jit", "fl.train", "fl.disable_jit", "torch.compile")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.ASCII)
# A number that is a time, or a ratio of times, is another one in every run.
TIME = re.compile(rf"{NUMBER.pattern} ?(?:s|ms|us|x)\b")

each_lesson = pytest.mark.parametrize("name", lessons.NAMES)


def text(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def cells(name: str, kind: str, tag: str | None = None) -> list[str]:
    found = lessons.notebook(name).cells
    tags = [cell.metadata.get("tags", []) for cell in found]
    return [
        cell.source
        for cell, has in zip(found, tags, strict=True)
        if cell.cell_type == kind and (tag is None or tag in has)
    ]


def numbers(text: str) -> list[str]:
    return NUMBER.findall(TIME.sub(" ", text))


def close(got: str, expected: str) -> bool:
    """Equal but for two units in the last digit that is printed, or half a percent."""
    decimals = len(expected.partition(".")[2].partition("e")[0])
    unit = 10.0**-decimals if "." in expected and "e" not in expected else 0
    a, b = float(got), float(expected)
    return abs(a - b) <= max(2.01 * unit, 5e-3 * abs(b))


def differences(printed: str, expected: str) -> list[str]:
    lines, wanted = printed.splitlines(), expected.splitlines()
    if len(lines) != len(wanted):
        return [f"{len(lines)} lines, expected {len(wanted)}"]
    wrong = []
    for line, want in zip(lines, wanted, strict=True):
        bare, bare_want = (NUMBER.sub("#", TIME.sub("#", s)) for s in (line, want))
        pairs = zip(numbers(line), numbers(want), strict=False)
        if bare.split() != bare_want.split() or not all(close(*p) for p in pairs):
            wrong.append(f"expected {want!r}, got {line!r}")
    return wrong


def test_differences_are_seen() -> None:
    assert not differences("loss 0.1234, 32 %, 5.1 ms\n", "loss 0.1233, 32 %, 8.2 ms\n")
    assert differences("loss 0.1234", "loss 0.1264")
    assert differences("loss 0.1234", "cost 0.1234")
    assert differences("8 right", "7 right")
    assert differences("a\nb", "a")
    assert numbers("w = -3.4, x2, 1e-3, v1.2, 160 points.") == [
        *("-3.4", "1e-3", "160"),
    ]


def states(shown: set[float], number: str) -> bool:
    """Whether a number of the prose is one of those shown, or a rounding of one."""
    value, decimals = float(number), len(number.partition(".")[2])
    return any(
        abs(abs(value) - size) <= 0.5 * 10.0**-decimals + 1e-9
        for found in shown
        for size in (abs(found), 100 * abs(found))
    )


@each_lesson
def test_prints_what_it_printed(name: str) -> None:
    expected = (EXPECTED / f"{name}.txt").read_text(encoding="utf-8")
    assert not differences(run(name).printed, expected)


@each_lesson
def test_prose_states_no_number_that_is_not_shown(name: str) -> None:
    source = "\n".join(cells(name, "code"))
    shown = {float(n) for n in numbers(source) + numbers(run(name).printed)}
    prose = re.sub(r"\*\*\d\.\*\*", "", "\n".join(cells(name, "markdown")))
    stated = [n for n in numbers(prose) if abs(float(n)) > 10 or "." in n]
    assert not [n for n in stated if not states(shown, n)]


def test_an_unshown_number_is_seen() -> None:
    assert states({0.1234}, "0.12")
    assert states({0.1234}, "12")
    assert not states({0.1234}, "0.13")
    assert not states({160.0}, "161")


@each_lesson
def test_figures_are_saved_for_the_width_of_a_page(name: str) -> None:
    saved = run(name).figures
    assert sorted(saved) == sorted(lessons.figures(name))
    assert saved
    for file in saved.values():
        assert Image.open(io.BytesIO(file)).width == 7 * 150


@each_lesson
def test_has_the_form_of_a_lesson(name: str) -> None:
    prose = cells(name, "markdown")
    assert prose[0].startswith(f"# {lessons.title(name)}\n\n")
    headings = re.findall(r"^## (.+)$", "\n".join(prose), re.MULTILINE)
    assert headings[-2:] == ["The same in classic PyTorch", "Exercises"]
    assert "| here | in classic PyTorch |" in "\n".join(prose)
    tasks = re.findall(r"^\*\*(\d)\.\*\* ", "\n".join(prose), re.MULTILINE)
    assert tasks == [str(i + 1) for i in range(len(tasks))]
    assert len(tasks) >= 3
    assert len(cells(name, "code", "solution")) == len(tasks)
    assert len(cells(name, "code", "check")) == len(tasks)
    for number in tasks:
        assert f"\nexercise {number}: " in run(name).printed


@each_lesson
def test_imports_stand_in_the_first_cell(name: str) -> None:
    first, *others = cells(name, "code")
    assert 'plt.style.use("functorch_lab.lessons.figures")' in first
    nodes = [node for cell in others for node in ast.walk(ast.parse(cell))]
    assert not [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("name", lessons.NAMES[: lessons.NAMES.index("optimizers")])
def test_nothing_compiles_before_lesson_eight(name: str) -> None:
    nodes = list(ast.walk(ast.parse(text(name))))
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert not used & set(COMPILES)


@each_lesson
def test_copies_are_the_lesson(name: str) -> None:
    assert "# SPDX-License-Identifier: Apache-2.0\n" + lessons.script(name) == text(
        name
    )
    notebook = lessons.notebook(name)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


@each_lesson
def test_without_solutions_there_are_checks_only(name: str) -> None:
    script = lessons.script(name, solutions=False)
    for solution in cells(name, "code", "solution"):
        assert solution not in script
    for check in cells(name, "code", "check"):
        assert check in script
    for cell in lessons.notebook(name, solutions=False).cells:
        if "solution" in cell.metadata.get("tags", []):
            assert re.fullmatch(r"# Your solution: define \w+(, \w+)*\.", cell.source)


def shell(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | env,
    )


def test_a_script_runs_and_stops_where_a_solution_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "lesson.py"
    file.write_text(lessons.script("gradients", solutions=False), encoding="utf-8")
    code = f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path('lesson.py')"
    done = shell("-c", code, MPLBACKEND="Agg")
    assert done.stderr.splitlines()[-1].startswith("NameError: name ")
    assert set(os.listdir(tmp_path)) == {"lesson.py", *lessons.figures("gradients")}
