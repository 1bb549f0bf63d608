# SPDX-License-Identifier: Apache-2.0
"""CSV files: the same bits back, and errors with the line."""

import csv
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from functorch_lab import data, random

GOOD = "leg,wing\n8.5,-7\n5,3e2\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def streamed(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    rows = list(data.csv_rows(path, **options))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


both = pytest.mark.parametrize("read", [data.read_csv, streamed])


@both
@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip(),
        "\ufeff" + GOOD,
        "leg , wing\n 8.5, -7\n\n5,3e2\n\n",
        '"leg","wing"\n"8.5","-7"\n"5","300"\n',
    ],
)
def test_reads_columns_in_their_order(tmp_path: Path, read: Any, text: str) -> None:
    found = read(written(tmp_path, text))
    assert list(found) == ["leg", "wing"]
    assert torch.equal(found["leg"], torch.tensor([8.5, 5.0]))
    assert torch.equal(found["wing"], torch.tensor([-7.0, 300.0]))


@both
def test_reads_a_dtype_and_the_default_device(tmp_path: Path, read: Any) -> None:
    path = written(tmp_path, "a\n0.1\n0.3\n")
    expected = torch.tensor([0.1, 0.3], dtype=torch.float64)
    assert torch.equal(read(path, dtype=torch.float64)["a"], expected)
    assert read(str(path))["a"].dtype == torch.float32
    with torch.device("meta"):
        assert read(path)["a"].device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gives_the_same_bits_back(tmp_path: Path, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    tricky = [0.1, -0.0, 1 / 3, info.max, info.tiny, info.smallest_normal / 2, math.inf]
    x = torch.cat(
        [
            torch.tensor(tricky, dtype=dtype),
            random.normal(random.key(3), (500,)).to(dtype),
        ]
    )
    path = tmp_path / "bits.csv"
    data.write_csv(path, {"x": x, "y": x.flip(0)})
    found = data.read_csv(path, dtype=dtype)
    assert torch.equal(found["x"], x)
    assert torch.equal(found["x"].signbit(), x.signbit())
    assert torch.equal(found["y"].flip(0), x)
    assert_close(streamed(path, dtype=dtype), found, rtol=0, atol=0)


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1)
        .map(str.strip)
        .filter(lambda name: len(name.splitlines()) == 1 and name[0] != "\ufeff"),
        min_size=1,
        max_size=5,
        unique=True,
    ).filter(lambda names: not all(_is_number(name) for name in names))
)
def test_any_name_comes_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("names") / "table.csv"
    columns = {n: torch.tensor([i + 0.5, -3.0]) for i, n in enumerate(names)}
    data.write_csv(path, columns)
    found = data.read_csv(path)
    assert list(found) == names
    assert all(torch.equal(found[name], columns[name]) for name in names)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) or True
    except ValueError:
        return False


def test_writes_what_other_programs_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    columns = {
        "x": torch.tensor([0.5, -2.0, 7.0], requires_grad=True),
        "a name, and more": torch.tensor([2**53 + 1, -3, 5]),
        "flag": torch.tensor([True, False, True]),
    }
    assert data.write_csv(path, columns) is None
    assert path.read_bytes().startswith(b'x,"a name, and more",flag\n0.5,')
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["x", "a name, and more", "flag"],
        ["0.5", "9007199254740993", "1"],
        ["-2.0", "-3", "0"],
        ["7.0", "5", "1"],
    ]


def test_the_rows_are_read_again_and_as_they_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n2,3\n5,7\nx,9\n")
    rows = data.csv_rows(path)
    for _ in range(2):
        passed = iter(rows)
        first, second = next(passed), next(passed)
        assert first["a"].shape == ()
        assert [float(first["a"]), float(second["b"])] == [2.0, 7.0]
        with pytest.raises(ValueError, match=r"csv: line 4, column 'a'.*got 'x'"):
            next(passed)
    path.write_text("a,b\n11,13\n")
    assert [float(row["b"]) for row in rows] == [13.0]


def test_a_stream_of_rows_makes_batches(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n2,3\n5,7\n11,13\n")
    found = [batch["b"].tolist() for (batch,) in data.stream(data.csv_rows(path), 2)]
    assert found == [[3.0, 7.0], [13.0]]


def test_replaces_a_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    data.write_csv(path, {"a": torch.tensor([2.0])})
    # An ordinary file: readable by whom the user's mask lets read.
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    data.write_csv(path, {"b": torch.tensor([3.0])})
    assert list(data.read_csv(path)) == ["b"]

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        data.write_csv(path, {"c": torch.tensor([5.0])})
    assert list(data.read_csv(path)) == ["b"]
    assert os.listdir(tmp_path) == ["table.csv"]


@both
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected a line of column names, got an empty file\. Put the names"),
        ("\n2,3\n", "got an empty line"),
        ("2,3\n5,7\n", r"line 1: expected distinct .* got numbers alone, 2, 3\. Put"),
        ("a,b,a\n2,3,5\n", "line 1: .* got 'a' twice"),
        ("a, ,c\n2,3,5\n", "line 1: .* got none for column 2"),
        ("a,b\n", "expected at least one row, got the names of the columns alone"),
        ("a,b\n2,3\n\n5\n", "line 4: expected 2 fields, got 1"),
        ("a,b\n2,3,5\n", "line 2: expected 2 fields, got 3"),
        ("a,b\n2,3\n5,\n", "line 3, column 'b': expected a number, got ''"),
        ("a,b\n2,two\n", "line 2, column 'b': expected a number, got 'two'"),
        ("a,b\n2,1_000\n", "line 2, column 'b': expected a number, got '1_000'"),
        ("a;b\n2;3\n", "line 2, column 'a;b': expected a number, got '2;3'"),
        (b"a,b\n2,\xff\n", "comma-separated text in UTF-8, got something else: 'utf-8"),
        ('a,b\n2,"3' + "3" * 200_000, "got something else: field larger than"),
    ],
)
def test_names_what_is_wrong(
    tmp_path: Path, read: Any, text: str | bytes, message: str
) -> None:
    where = "csv_rows" if read is streamed else "read_csv"
    with pytest.raises(ValueError, match=rf"^data\.{where}: .*table\.csv: .*{message}"):
        read(written(tmp_path, text))


@both
def test_says_that_there_is_no_file(tmp_path: Path, read: Any) -> None:
    for path in (tmp_path / "no.csv", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"path: expected a file, got '/.*no"
        ):
            read(path)
    text = "data.write_csv: path: expected a folder that exists, got '.*no'"
    with pytest.raises(FileNotFoundError, match=text):
        data.write_csv(tmp_path / "no" / "a.csv", {"a": torch.tensor([2.0])})


@both
def test_refuses_a_dtype(tmp_path: Path, read: Any) -> None:
    path = written(tmp_path, GOOD)
    with pytest.raises(TypeError, match=r"dtype: expected a floating .* torch\.int64"):
        read(path, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"dtype: expected a floating .* got 'float'"):
        read(path, dtype="float")


X = torch.tensor([2.0, 3.0])
REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([X], TypeError, r"columns: expected a dict of tensors by column name, got \[ten"),
    ({3: X}, TypeError, "expected a dict of tensors by column name"),
    ({}, ValueError, "columns: expected a tree of tensors"),
    ({"a": X[:0]}, ValueError, "columns: expected at least one sample"),
    ({"a": [2.0, 3.0]}, TypeError, r"columns at \['a'\].*: expected a tensor"),
    ({"a": [X]}, TypeError, r"columns at \['a'\]: expected a real tensor, got list"),
    ({"a": X + 2j}, TypeError, r"expected a real tensor, got torch\.complex64"),
    ({"a": X, "b": X[1:]}, ValueError, r"at \['b'\]: expected 2 rows, .* got 1 rows"),
    ({"a": X[:, None]}, ValueError, r"at \['a'\]: expected shape \(n,\), got \(2, 1\)"),
    ({"": X}, ValueError, "can be read back, got none for column 1"),
    ({"2": X, "3e5": X}, ValueError, r"can be read back, got numbers alone, 2, 3e5\."),
    ({"a ": X}, ValueError, r"can be read back, got 'a '\."),
    ({"a\rb": X}, ValueError, r"can be read back, got 'a\\rb'\."),
]


@pytest.mark.parametrize(("columns", "kind", "text"), REFUSED)
def test_refuses_to_write(
    tmp_path: Path, columns: Any, kind: type[Exception], text: str
) -> None:
    write: Callable[..., None] = data.write_csv
    with pytest.raises(kind, match=rf"^data\.write_csv: .*{text}"):
        write(tmp_path / "a.csv", columns)
    assert not os.listdir(tmp_path)
