# SPDX-License-Identifier: Apache-2.0
"""The words of a refused command line, looked at again for a telling message."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from functorch_lab.cli._output import Usage
from functorch_lab.recipes.digits import one_of

_KINDS = {int: "a whole number", float: "a number", Path: "a path"}


@dataclass(frozen=True)
class Option:
    """An option that takes a value: the value's type, and one that is right."""

    kind: Any
    example: Any


def read(
    command: str, words: list[str], options: dict[str, Option], switches: Sequence[str]
) -> list[str]:
    """The words that are no options; raises for an option that is none, or has none."""
    switches = [*switches, "--help"]
    known = [name for name in options if name not in switches] + switches
    found: list[str] = []
    while words:
        word, *words = words
        if not word.startswith("-"):
            found.append(word)
            continue
        name, joined, value = word.partition("=")
        name = name.replace("_", "-")
        one_of(f"cli.{command}: option", name, known)
        if name in switches:
            continue
        if not joined:
            value, words = (words[0], words[1:]) if words else ("", [])
        _check(command, name, value, options[name])
    return found


def _check(command: str, name: str, value: str, option: Option) -> None:
    if value and get_origin(option.kind) is Literal:
        word = name[2:].replace("-", "_")
        one_of(f"recipes.digits: {word}", value, get_args(option.kind))
        return
    try:
        if not value or value.startswith("--"):
            raise ValueError(value)  # the next option, or the end of the line
        option.kind(value)
    except ValueError:
        raise Usage(
            f"cli.{command}: {name}: expected {_KINDS.get(option.kind, 'a word')}, got "
            f"{value or 'nothing'}. Give e.g. {name} {option.example}."
        ) from None
