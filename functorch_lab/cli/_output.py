# SPDX-License-Identifier: Apache-2.0
"""What the command says and writes: lines of text, and files that are whole."""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

INSTALL = "pip install 'functorch-lab[lab]'"


class Usage(Exception):
    """The command line cannot be understood."""


def say(text: str, end: str = "\n") -> None:
    """A line on standard output, if there is one, at once.

    Raises:
        BrokenPipeError: If nobody reads it any more.
        Usage: If it goes to a file that can't be written to.
    """
    try:
        print(text, end=end, flush=True)  # noqa: T201, does nothing without stdout
    except BrokenPipeError:
        _mute()
        raise
    except OSError as error:
        _mute()
        raise Usage(
            "cli: standard output: expected a file to write to, got "
            f"{error.strerror or error}. Make room, or write to another one."
        ) from error


def _mute() -> None:
    # Python flushes once more at exit, into nothing then.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """A line on standard error, which is no part of the result."""
    sys.stderr.write(f"functorch-lab: {text}\n")
    sys.stderr.flush()


def need(module: str, what: str) -> None:
    """Refuse to begin what would end without this module of the extra [lab]."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Usage(f"cli: expected {module}, which {what}. Run: {INSTALL}") from error


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def printable(text: str) -> str:
    """The text without what would steer a terminal or break a page."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def write(file: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also over an existing one."""
    temporary = file.with_name(f".{file.name}.part")
    try:
        with temporary.open("wb") as part:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def table(rows: list[list[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(width) if i == 0 else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def number(value: Any) -> str:
    """A number as a reader wants it: whole ones exactly, others to four digits."""
    if isinstance(value, float):
        return (
            f"{value:,.0f}" if value.is_integer() and value >= 1e4 else f"{value:.4g}"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)


def setting(value: Any) -> str:
    """A value of a run's config."""
    if value is None or isinstance(value, str):
        return "none" if value is None else value
    return json.dumps(value)


def label(name: str) -> str:
    """An entry's name in words."""
    return name.replace("_", " ")
