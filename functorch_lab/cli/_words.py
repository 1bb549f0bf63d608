# SPDX-License-Identifier: Apache-2.0
"""The words of a refused command line, looked at again for a telling message."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from functorch_lab.cli._output import Usage
from functorch_lab.recipes.settings import one_of

_KINDS = {int: "a whole number", float: "a number", Path: "a path"}
# Where a setting has no default that could be shown.
_EXAMPLES = {int: 5, float: 0.1, Path: "folder"}


@dataclass(frozen=True)
class _Words:
    """What may follow a command: options with their types and examples, switches."""

    options: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    switches: list[str] = field(default_factory=list)


def check(command: list[str], words: list[str], function: Callable[..., Any]) -> None:
    """Refuse words after a command, such as `train digits`, that it has no place for.

    Raises:
        Usage: If an option has no value or a wrong one, or there are too many words.
        ValueError: If there is no such option or choice; the nearest one is named.
    """
    known = _words(function)
    names = [*known.options, *known.switches, "--help"]
    free: list[str] = []
    while words:
        word, *words = words
        if not word.startswith("-"):
            free.append(word)
            continue
        name, joined, value = word.partition("=")
        name = name.replace("_", "-")
        one_of(f"cli.{command[0]}: option", name, names)
        if name not in known.options:
            continue
        if not joined:
            value, words = (words[0], words[1:]) if words else ("", [])
        _check_value(f"cli.{command[0]}: {name}", name, value, *known.options[name])
    _check_number(command, free, function)


def _words(function: Callable[..., Any]) -> _Words:
    found, hints = _Words(), get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(hints[name]):
            inner = get_type_hints(hints[name])
            for setting in fields(hints[name]):
                _add(found, setting.name, inner[setting.name], setting.default)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            _add(found, name, hints[name], parameter.default)
    return found


def _add(found: _Words, name: str, kind: Any, default: Any) -> None:
    name = name.replace("_", "-")
    if kind is bool:
        found.switches.extend(
            [f"--{name}", f"--no-{name}"] if default else [f"--{name}"]
        )
        return
    if NoneType in get_args(kind):  # such as `int | None`
        kind = next(k for k in get_args(kind) if k is not NoneType)
    example = _EXAMPLES.get(kind, "") if default is None else default
    found.options[f"--{name}"] = (kind, example)


def _check_value(what: str, name: str, value: str, kind: Any, example: Any) -> None:
    if value and get_origin(kind) is Literal:
        one_of(what, value, get_args(kind))
        return
    try:
        if not value or value.startswith("--"):
            raise ValueError(value)  # the next option, or the end of the line
        kind(value)
    except ValueError:
        raise Usage(
            f"{what}: expected {_KINDS.get(kind, 'a word')}, got {value or 'nothing'}. "
            f"Give e.g. {name} {example}."
        ) from None


def _check_number(
    command: list[str], free: list[str], function: Callable[..., Any]
) -> None:
    # Paths that stand free: each once, but a tuple takes all that follow.
    hints, least, most = get_type_hints(function), 0, 0
    usage: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY or is_dataclass(hints[name]):
            continue
        if get_origin(hints[name]) is tuple:
            most = len(free)
            usage.append(f"[{name.upper()} ...]")
        else:
            least += 1
            most += 1
            usage.append(name.upper())
    if not least <= len(free) <= most:
        got = " ".join(free) or "none"
        raise Usage(
            f"cli.{command[0]}: arguments: expected "
            f"{' '.join(usage) or 'options alone'}, got {got}. "
            f"Run: functorch-lab {' '.join([*command, *usage])}"
        )
