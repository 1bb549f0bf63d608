# SPDX-License-Identifier: Apache-2.0
"""Tensors from and to CSV files."""

import csv
import os
import secrets
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from functorch_lab.data._checks import length
from functorch_lab.data._csv_format import File, fault_of_names, rows_of


def read_csv(path: File, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    r"""A CSV file of numbers as one tensor per column.

    The first line names the columns. Fields are separated by commas and may be in
    quotes, spaces around them are ignored, and so are empty lines. `nan` and `inf` are
    numbers; an empty field is not.

    Args:
        path: The file, text in UTF-8.
        dtype: A floating point dtype; the default dtype if None.

    Returns:
        Tensors of shape (n,) by column name, in the file's order, on the default
        device.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If `dtype` is not a floating point dtype.
        ValueError: If the file is empty or no text, has no line of distinct names or
            no rows, a row has another number of fields, or a field is not a number
            (line and column are named).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from functorch_lab import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "birds.csv"
        ...     _ = path.write_text("leg,wing\n8.5,7\n5,3\n")
        ...     data.read_csv(path)
        {'leg': tensor([8.5000, 5.0000]), 'wing': tensor([7., 3.])}
    """
    dtype = _floating(dtype, where="data.read_csv")
    rows = rows_of(path, where="data.read_csv")
    names = next(rows)
    columns = [array("d") for _ in names]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    device = torch.get_default_device()
    found = [torch.frombuffer(c, dtype=torch.float64).to(dtype) for c in columns]
    return {n: column.to(device) for n, column in zip(names, found, strict=True)}


def csv_rows(
    path: File, *, dtype: torch.dtype | None = None
) -> Iterable[dict[str, Tensor]]:
    r"""The rows of a CSV file as a stream, one at a time in memory.

    The format is that of `read_csv`.

    Args:
        path: The file, opened anew at each iteration.
        dtype: A floating point dtype; the default dtype if None.

    Returns:
        An iterable, as often as one likes, of tensors of shape () by column name, on
        the default device.

    Raises:
        FileNotFoundError: While iterating, if there is no such file.
        TypeError: If `dtype` is not a floating point dtype.
        ValueError: While iterating, at the line that `read_csv` would refuse.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from functorch_lab import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "birds.csv"
        ...     _ = path.write_text("leg,wing\n8.5,7\n5,3\n")
        ...     [float(row["leg"] + row["wing"]) for row in data.csv_rows(path)]
        [15.5, 8.0]
    """
    return _CsvRows(path, _floating(dtype, where="data.csv_rows"))


@dataclass(frozen=True, eq=False)
class _CsvRows:
    path: File
    dtype: torch.dtype

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rows = rows_of(self.path, where="data.csv_rows")
        names = next(rows)
        for row in rows:
            values = torch.tensor(row, dtype=self.dtype).unbind(0)
            yield dict(zip(names, values, strict=True))


def write_csv(path: File, columns: Mapping[str, Tensor]) -> None:
    """Write tensors as the columns of a CSV file that `read_csv` reads.

    Floating point numbers are written with as many digits as it takes to read the same
    bits in the same dtype. The file is there whole or not at all: it is written under
    another name in the same folder and then renamed, also over an existing one.

    Args:
        path: The file.
        columns: Tensors of shape (n,) by column name; real, integer or bool (written
            as 0 and 1).

    Raises:
        FileNotFoundError: If the folder does not exist.
        TypeError: If `columns` is not a dict of tensors by name, or one is complex.
        ValueError: If there are no columns or rows, shapes differ or are not (n,), or
            the names could not be read back: empty, with outer spaces or a line break,
            or all numbers.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from functorch_lab import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "birds.csv"
        ...     leg, kind = torch.tensor([8.5, 5.0]), torch.tensor([0, 1])
        ...     data.write_csv(path, {"leg": leg, "kind": kind})
        ...     path.read_text().split()
        ['leg,kind', '8.5,0', '5.0,1']
    """
    where = "data.write_csv"
    _check_columns(columns, where=where)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{where}: path: expected a folder that exists, got {str(path.parent)!r}. "
            "Make it first, with Path.mkdir(parents=True)."
        )
    values = [
        (c.long() if c.dtype == torch.bool else c).tolist() for c in columns.values()
    ]
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*values, strict=True))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _floating(dtype: torch.dtype | None, *, where: str) -> torch.dtype:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"{where}: dtype: expected a floating point dtype, got {dtype!r}. Convert "
            "the columns that hold integers after reading, e.g. with .long()."
        )
    return dtype


def _check_columns(columns: Any, *, where: str) -> None:
    if not isinstance(columns, Mapping) or not all(isinstance(n, str) for n in columns):
        raise TypeError(
            f"{where}: columns: expected a dict of tensors by column name, got "
            f"{columns!r:.60}. Give e.g. {{'x': x, 'y': y}}."
        )
    length(dict(columns), where=where, argument="columns")
    for name, column in columns.items():
        if not isinstance(column, Tensor) or column.is_complex():
            raise TypeError(
                f"{where}: columns at [{name!r}]: expected a real tensor, got "
                f"{getattr(column, 'dtype', type(column).__name__)}. Write its parts."
            )
        if column.ndim != 1:
            raise ValueError(
                f"{where}: columns at [{name!r}]: expected shape (n,), got "
                f"{tuple(column.shape)}. Give each of its columns a name."
            )
    wrong = fault_of_names(list(columns))
    odd = [n for n in columns if n != n.strip() or len(n.splitlines()) > 1]
    if wrong or odd:
        raise ValueError(
            f"{where}: columns: expected names that can be read back, got "
            f"{wrong or repr(odd[0])}. Rename the columns."
        )
