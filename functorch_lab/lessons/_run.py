# SPDX-License-Identifier: Apache-2.0
"""Running a lesson from top to bottom, its figures saved in a folder."""

import contextlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from functorch_lab.lessons._files import notebook, path


def figures(name: str) -> list[str]:
    """The files of a lesson's figures.

    Args:
        name: One of `NAMES`.

    Returns:
        Their names, in the order in which the lesson saves them.

    Raises:
        ValueError: If there is no such lesson.

    Example:
        >>> from functorch_lab import lessons
        >>> lessons.figures("line")[0]
        'data.png'
    """
    text = path(name).read_text(encoding="utf-8")
    return re.findall(r'\.savefig\("([^"]+)"\)', text)


def run(name: str, folder: str | Path = ".") -> dict[str, Any]:
    """Run a lesson: print what it prints under its headings, and save its figures.

    Torch's global random generator is seeded by some lessons, and left so.

    Args:
        name: One of `NAMES`.
        folder: Where the figures go; it must exist.

    Returns:
        The lesson's variables, by name.

    Raises:
        ValueError: If there is no such lesson.
        ModuleNotFoundError: If matplotlib or another package of `[lab]` is missing.

    Example:
        >>> from functorch_lab import lessons
        >>> lessons.run("lime")
        Traceback (most recent call last):
        ValueError: lessons: name: expected one of line, ...
    """
    file = path(name)
    text = file.read_text(encoding="utf-8")
    try:
        import matplotlib as mpl
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "lessons: expected matplotlib, which draws the figures, got no such "
            "module. Install it with: pip install 'functorch-lab[lab]'"
        ) from error
    mpl.use("Agg")
    threads = torch.get_num_threads()
    # Small tensors gain nothing from threads, and wait for them where cores are shared.
    torch.set_num_threads(1)
    # A real module, since compiled code looks up the one that it comes from.
    module = ModuleType(f"lesson_{name}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    position = 0
    with mpl.rc_context(), contextlib.chdir(folder):
        try:
            for cell in notebook(name).cells:
                if cell.cell_type == "markdown":
                    _say_headings(cell.source)
                    continue
                position = text.index(cell.source, position)
                # Leading newlines put the file's own line numbers into tracebacks.
                above = "\n" * text.count("\n", 0, position)
                exec(compile(above + cell.source, str(file), "exec"), vars(module))
        finally:
            pyplot.close("all")
            torch.set_num_threads(threads)
    return vars(module)


def _say_headings(prose: str) -> None:
    for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE):
        sys.stdout.write(f"\n{heading}\n{'-' * len(heading)}\n")
    sys.stdout.flush()
