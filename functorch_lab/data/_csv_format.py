# SPDX-License-Identifier: Apache-2.0
"""What a CSV file of numbers is: a line of names, then a line of numbers per row."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

File = str | os.PathLike[str]


def rows_of(path: File, *, where: str) -> Iterator[Any]:
    # The names of the columns, then a list of floats for each row.
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            names = _header(next(reader, None), path, where=where)
            yield names
            count = 0
            for fields in reader:
                if fields:
                    yield _numbers(fields, names, path, reader.line_num, where=where)
                    count += 1
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"{where}: path: expected a file, got {os.fspath(path)!r}, which is not "
            f"one. It was looked for in {Path.cwd()}."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{where}: {os.fspath(path)}: expected comma-separated text in UTF-8, got "
            f"something else: {error}. Export the table as CSV."
        ) from error
    if not count:
        raise ValueError(
            f"{where}: {os.fspath(path)}: expected at least one row, got the names of "
            "the columns alone. Check the program that wrote it."
        )


def _header(fields: list[str] | None, path: File, *, where: str) -> list[str]:
    if not fields:
        raise ValueError(
            f"{where}: {os.fspath(path)}: expected a line of column names, got an "
            f"{'empty file' if fields is None else 'empty line'}. Put the names first."
        )
    names = [name.strip() for name in fields]
    wrong = fault_of_names(names)
    if wrong:
        raise ValueError(
            f"{where}: {os.fspath(path)}: line 1: expected distinct column names, got "
            f"{wrong}. Put a name for every column on the first line."
        )
    return names


def fault_of_names(names: Sequence[str]) -> str:
    # What is wrong with these column names, or nothing.
    if all(_is_number(name) for name in names):
        return f"numbers alone, {', '.join(names)}"
    if "" in names:
        return f"none for column {names.index('') + 1}"
    twice = [name for name in names if names.count(name) > 1]
    return f"{twice[0]!r} twice" if twice else ""


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True


def _number(field: str) -> float:
    if "_" in field:  # Python reads 1_000, a table does not mean it
        raise ValueError(field)
    return float(field)


def _numbers(
    fields: list[str], names: list[str], path: File, line: int, *, where: str
) -> list[float]:
    if len(fields) != len(names):
        raise ValueError(
            f"{where}: {os.fspath(path)}: line {line}: expected {len(names)} fields, "
            f"got {len(fields)}. Give every row one number per column, with a point "
            "for decimals."
        )
    try:
        return [_number(field) for field in fields]
    except ValueError:
        _fail_at_field(fields, names, path, line, where=where)


def _fail_at_field(
    fields: list[str], names: list[str], path: File, line: int, *, where: str
) -> NoReturn:
    index = [_is_number(field) for field in fields].index(False)
    raise ValueError(
        f"{where}: {os.fspath(path)}: line {line}, column {names[index]!r}: expected a "
        f"number, got {fields[index]!r:.40}. Repair the row or leave it out."
    ) from None
