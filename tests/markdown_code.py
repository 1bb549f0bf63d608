# SPDX-License-Identifier: Apache-2.0
"""The fenced code of a Markdown page, and its execution."""

import contextlib
import doctest
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line its text starts on."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """Blocks of `page` in these languages, in order."""
    source = page.read_text(encoding="utf-8")
    found = (
        Block(match[1], match[2], source.count("\n", 0, match.start(2)) + 1)
        for match in _FENCE.finditer(source)
    )
    return [block for block in found if block.language in languages]


def new_session(page: Path) -> dict[str, Any]:
    """An empty namespace: that of a module, since compiled code looks its module up."""
    module = ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module
    return vars(module)


def execute(page: Path, block: Block, namespace: dict[str, Any]) -> str:
    """Run a python block in `namespace`; what it printed."""
    # Leading newlines put the page's own line numbers into tracebacks.
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue()


def check_page(page: Path) -> int:
    """Run a page from top to bottom as one session, comparing the output it shows.

    A `text` block is what the `python` block before it prints, with doctest's rules:
    `...` stands for anything. Returns how many blocks were run.
    """
    namespace = new_session(page)
    printed, ran = "", 0
    for block in blocks(page, "python", "text"):
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            assert not printed, (
                f"{where}: the block before prints, unshown: {printed!r}"
            )
            printed, ran = execute(page, block, namespace), ran + 1
        else:
            matches = doctest.OutputChecker().check_output(block.text, printed, _FLAGS)
            assert matches, f"{where}: the page shows {block.text!r}, got {printed!r}"
            printed = ""
    assert not printed, f"{page.name}: the last block prints, unshown: {printed!r}"
    return ran
