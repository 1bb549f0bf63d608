# SPDX-License-Identifier: Apache-2.0
"""The lessons' files: their order, their cells, and what is handed out of them."""

import ast
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

NAMES = (
    "gradients",
    "line",
    "minibatches",
    "four_ways",
    "perceptron",
    "networks",
    "losses",
    "optimizers",
    "generalisation",
    "hyperparameters",
)
_FORMAT = "py:percent"
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def path(name: str) -> Path:
    """Where the lesson is; a wrong name gives the list, the nearest first."""
    if name not in NAMES:
        known = sorted(NAMES, key=lambda known: -_likeness(name, known))
        raise ValueError(
            f"lessons: name: expected one of {', '.join(known)}, got {name}. "
            f"Did you mean {known[0]}?"
        )
    return Path(__file__).with_name(f"{name}.py")


def title(name: str) -> str:
    """The heading of a lesson.

    Args:
        name: One of `NAMES`.

    Returns:
        Its title, without the mark of a heading.

    Raises:
        ValueError: If there is no such lesson; the nearest name comes first.

    Example:
        >>> from functorch_lab import lessons
        >>> lessons.NAMES[1], lessons.title("line")
        ('line', 'A line through points')
    """
    lines = path(name).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# # "))[4:]


def notebook(name: str, *, solutions: bool = True) -> Any:
    """A lesson as a Jupyter notebook, not executed.

    Args:
        name: One of `NAMES`.
        solutions: Keep the solutions of the exercises. Without them their cells only
            say what to define; the checks stay.

    Returns:
        A notebook of `nbformat`, to be written with `nbformat.write`. Solutions carry
        the tags "solution" and "hide-input".

    Raises:
        ValueError: If there is no such lesson.
        ModuleNotFoundError: If jupytext, which reads the cells, is not installed.

    Example:
        >>> from functorch_lab import lessons
        >>> lessons.notebook("line").cells[0].source.splitlines()[0]
        '# A line through points'
    """
    _, text = path(name).read_text(encoding="utf-8").split("\n", maxsplit=1)
    found = _jupytext().reads(text, fmt=_FORMAT)
    found.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(found.cells):
        cell.id = f"cell-{number}"  # jupytext's are random: no two files would be equal
        if "solution" in cell.metadata.get("tags", ()):
            cell.metadata.tags = ["solution", "hide-input"]
            if not solutions:
                cell.source = _to_do(cell.source)
    return found


def script(name: str, *, solutions: bool = True) -> str:
    """A lesson as a Python script, in cells that editors know.

    Args:
        name: One of `NAMES`.
        solutions: Keep the solutions of the exercises, as for `notebook`.

    Returns:
        The text of the script. Run without solutions, it stops at the check of the
        first exercise that has none.

    Raises:
        ValueError: If there is no such lesson.
        ModuleNotFoundError: If jupytext, which reads the cells, is not installed.

    Example:
        >>> from functorch_lab import lessons
        >>> lessons.script("line").splitlines()[:2]
        ['# %% [markdown]', '# # A line through points']
    """
    _, text = path(name).read_text(encoding="utf-8").split("\n", maxsplit=1)
    for cell in notebook(name).cells if not solutions else ():
        if "solution" in cell.metadata.get("tags", ()):
            text = text.replace(cell.source, _to_do(cell.source))
    return text


def _to_do(solution: str) -> str:
    names: list[str] = []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            found = [n for target in node.targets for n in ast.walk(target)]
            names += [n.id for n in found if isinstance(n, ast.Name)]
    return f"# Your solution: define {', '.join(dict.fromkeys(names))}."


def _likeness(name: str, known: str) -> float:
    return SequenceMatcher(None, name.lower(), known).ratio()


def _jupytext() -> Any:
    try:
        import jupytext
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "lessons: expected jupytext, which reads the lessons' cells, got no such "
            "module. Install it with: pip install 'functorch-lab[lab]'"
        ) from error
    return jupytext
