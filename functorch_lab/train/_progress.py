# SPDX-License-Identifier: Apache-2.0
"""One line that shows how far training is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_LINES = 10


@contextmanager
def progress_line(
    unit: str | None, total: int
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give a function that is told each epoch's row; none is shown without a unit.

    On a terminal, where rich is installed, it keeps a bar; elsewhere it writes about
    ten plain lines over the whole run.
    """
    if unit is None:
        yield lambda row: None
        return
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
        except ModuleNotFoundError:
            pass
        else:
            columns = (TextColumn("{task.description}"), BarColumn())
            with Progress(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task(f"{unit} 0/{total}  compiling", total=total)
                yield lambda row: bar.update(
                    task, completed=row[unit], description=_text(row, unit, total)
                )
            return
    every = max(1, total // _LINES)
    shown = 0

    def write(row: dict[str, Any]) -> None:
        nonlocal shown
        if row[unit] >= min(total, shown + every):
            shown = row[unit]
            sys.stderr.write(_text(row, unit, total) + "\n")
            sys.stderr.flush()

    yield write


def _text(row: dict[str, Any], unit: str, total: int) -> str:
    words = [f"{unit} {row[unit]}/{total}"]
    for name, value in row.items():
        scalar = isinstance(value, float) or (
            isinstance(value, Tensor) and value.ndim == 0
        )
        if name == "seconds":
            words.append(f"{value:.1f} s")
        elif scalar:
            words.append(f"{name} {float(value):.4g}")
    return "  ".join(words)
