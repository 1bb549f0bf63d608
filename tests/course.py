# SPDX-License-Identifier: Apache-2.0
"""One run of each lesson per process, for all the tests that look at it.

`python tests/course.py NAME...` writes what the lessons print to
tests/lessons/NAME.txt.
"""

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from functorch_lab import lessons

EXPECTED = Path(__file__).parent / "lessons"


@dataclass(frozen=True, eq=False)
class Run:
    """What a lesson left behind: its variables, its output, its figures by name."""

    variables: dict[str, Any]
    printed: str
    figures: dict[str, bytes]


@cache
def run(name: str) -> Run:
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        with contextlib.redirect_stdout(printed):
            variables = lessons.run(name, folder)
        found = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return Run(variables, printed.getvalue(), found)


def main(names: list[str]) -> None:
    for name in names or lessons.NAMES:
        text = run(name).printed
        (EXPECTED / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
