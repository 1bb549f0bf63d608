# SPDX-License-Identifier: Apache-2.0
"""A file is there whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from functorch_lab.train import _files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_takes_the_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with _files.written(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == [".a.bin.part", "a.bin"]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def interrupt(file: BinaryIO, error: BaseException) -> None:
    file.write(b"new")
    raise error


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), KeyboardInterrupt("by the user")]
)
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with (
        pytest.raises(type(error), match=str(error.args[-1])),
        _files.written(path) as file,
    ):
        interrupt(file, error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_failure_of_the_disk_passes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        _files.write_json(tmp_path / "a.json", {"a": 2})
    assert names(tmp_path) == []


def test_data_and_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is synced, and what was there at that moment.
    synced, fsync = [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), names(tmp_path)))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", watched)
    with _files.written(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert synced == [
        (str(tmp_path / ".a.bin.part"), [".a.bin.part"]),
        (str(tmp_path), ["a.bin"]),
    ]


def test_a_leftover_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.bin.part").write_bytes(b"something longer")
    with _files.written(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a.bin")
    with _files.written(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a.bin").read_bytes() == b"new"


def test_json_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"b": [2, 2.5, (True, None)], "a": math.nan, "c": {"d": -math.inf}}
    _files.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "b": [')
    assert text.endswith("}\n")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"b": [2, 2.5, [True, None]], "a": "nan", "c": {"d": "-inf"}}
    assert float(found["c"]["d"]) == -math.inf


def test_what_is_no_json_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    _files.write_json(path, {"a": 2})
    with pytest.raises(TypeError, match="not JSON serializable"):
        _files.write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 2}
    assert names(tmp_path) == ["a.json"]
