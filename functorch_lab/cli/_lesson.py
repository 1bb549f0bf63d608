# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab lesson`: list the course, run lessons, hand them out."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from functorch_lab import lessons
from functorch_lab.cli._output import Usage, say, write


def lesson(
    names: tuple[str, ...] = (),
    /,
    *,
    all: bool = False,  # noqa: A002, the name of the option
    out: Path = Path("lessons"),
    copy: Path | None = None,
    notebook: bool = False,
    without_solutions: bool = False,
) -> Callable[[], None]:
    """List the lessons of the course; run some; or write them out as files.

    Args:
        names: Which lessons. None: list them.
        all: Every lesson, in order.
        out: Where figures are saved, in a folder per lesson.
        copy: Don't run: write the script of each lesson into this folder.
        notebook: With --copy, write Jupyter notebooks instead of scripts.
        without_solutions: With --copy, leave the solutions of the exercises out.
    """
    return partial(_lesson, names, all, out, copy, notebook, not without_solutions)


def _lesson(
    names: tuple[str, ...],
    every: bool,
    out: Path,
    copy: Path | None,
    notebook: bool,
    solutions: bool,
) -> None:
    names = tuple(name.replace("-", "_") for name in names)
    for name in names:
        lessons.title(name)  # a wrong name is refused before any lesson runs
    if every and names:
        raise Usage(
            f"cli.lesson: names: expected none beside --all, got {' '.join(names)}. "
            "Give names, or --all."
        )
    if copy is None and (notebook or not solutions):
        option = "--notebook" if notebook else "--without-solutions"
        raise Usage(
            f"cli.lesson: {option}: expected --copy DIR with it, got none. "
            "Say where to write, e.g. --copy ."
        )
    if copy is not None and not (every or names):
        raise Usage(
            "cli.lesson: --copy: expected lessons to write, got none. Give names, or "
            "--all."
        )
    chosen = lessons.NAMES if every else names
    if copy is not None:
        _copy(chosen, _folder(copy, "--copy"), notebook, solutions)
    elif chosen:
        _run(chosen, out)
    else:
        _list()


def _list() -> None:
    for number, name in enumerate(lessons.NAMES, start=1):
        say(f"{number:2}  {name:<17}{lessons.title(name)}")
    say("\nRun one: functorch-lab lesson gradients. Take it home: --copy DIR.")


def _run(names: tuple[str, ...], out: Path) -> None:
    began = time.perf_counter()
    for name in names:
        folder = _folder(out / name, "--out")
        lessons.run(name, folder)
        say(f"\nfigures in {folder}: {', '.join(lessons.figures(name))}")
    if len(names) > 1:
        say(f"\n{len(names)} lessons in {time.perf_counter() - began:.0f} s")


def _copy(
    names: tuple[str, ...], folder: Path, notebook: bool, solutions: bool
) -> None:
    files = {
        name: folder / f"{name}{'.ipynb' if notebook else '.py'}" for name in names
    }
    there = [str(file) for file in files.values() if file.exists()]
    if there:
        raise Usage(
            f"cli.lesson: --copy: expected new files, got existing {', '.join(there)}. "
            "Move them, or give another folder."
        )
    for name, file in files.items():
        write(file, _text(name, notebook, solutions).encode())
        say(str(file))


def _text(name: str, notebook: bool, solutions: bool) -> str:
    if not notebook:
        return lessons.script(name, solutions=solutions)
    import nbformat  # comes with jupytext

    return nbformat.writes(lessons.notebook(name, solutions=solutions)) + "\n"


def _folder(path: Path, option: str) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise Usage(
            f"cli.lesson: {option}: expected a folder to write to, got {path} "
            f"({error.strerror}). Give another one."
        ) from error
    return path
