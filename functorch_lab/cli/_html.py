# SPDX-License-Identifier: Apache-2.0
"""Parts of a page. Text that is given is escaped; what is returned is HTML."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from functorch_lab.cli._output import setting

# Longer tables are folded.
_ROWS = 24


def page(title: str, parts: Iterable[str]) -> str:
    """A page that needs no other file."""
    template = resources.files("functorch_lab.cli") / "report.html"
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(title), body="\n".join(part for part in parts if part)
    )


def heading(title: str) -> str:
    """The title that stands on top of the page."""
    return f"<h1>{escape(title)}</h1>"


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it; nothing if that is nothing."""
    found = [part for part in parts if part]
    return "\n".join([f"<h2>{escape(title)}</h2>", *found]) if found else ""


def text(words: str, kind: str = "") -> str:
    """A paragraph; its kind is a class of the page's style."""
    return f"<p{_class(kind)}>{escape(words)}</p>" if words else ""


def verbatim(words: str) -> str:
    """Text as it is, line for line."""
    return f"<pre>{escape(words)}</pre>" if words else ""


def command(words: Iterable[str]) -> str:
    """A line of a shell, broken between its words."""
    return f"<pre>{' '.join(f'<span>{escape(word)}</span>' for word in words)}</pre>"


def tiles(values: Mapping[str, str]) -> str:
    """Values in large type with their names."""
    found = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    ]
    return f'<dl class="tiles">{"".join(found)}</dl>' if found else ""


def words(values: Mapping[str, Any]) -> str:
    """A table of names and settings."""
    found = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(setting(value))}</td></tr>'
        for name, value in values.items()
    ]
    table = f'<table class="words">{"".join(found)}</table>'
    return f'<div class="scroll">{table}</div>' if found else ""


def numbers(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    of: str,
    marked: int | None = None,
) -> str:
    """A table with a header, folded if it has many rows; one of them may be marked."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f"<tr{_class('best' if i == marked else '')}>"
        + "".join(f"<td>{escape(value)}</td>" for value in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    table = f'<div class="scroll">{table}</div>'
    if len(rows) > _ROWS:
        summary = f"<summary>all {len(rows)} {escape(of)}</summary>"
        return f"<details>{summary}{table}</details>"
    return table


def figures(found: Iterable[tuple[bytes, str]]) -> str:
    """Pictures (PNG) with what they show, side by side where there is room."""
    made = [
        f'<figure><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for png, caption in found
    ]
    return f'<div class="figures">{"".join(made)}</div>' if made else ""


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
