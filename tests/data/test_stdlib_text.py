# SPDX-License-Identifier: Apache-2.0
"""The text is the library's own source, in one order."""

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from functorch_lab import data


def library(folder: Path) -> None:
    for name, text in {
        "b.py": b"b\r\n",
        "a/z.py": b"z\xc3\xa9\n",
        "a.py": b"a\n",
        "B.py": b"B\n",
        "a/test/t.py": b"no\n",
        "site-packages/m.py": b"no\n",
        "idlelib/i.py": b"no\n",
        "_sysconfigdata_x.py": b"no\n",
        "notes.txt": b"no\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def test_files_follow_one_another_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(tmp_path)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    text = data.stdlib_text(10)
    assert (text.dtype, text.shape) == (torch.int64, (10,))
    assert bytes(text.tolist()) == b"B\na\nz\xc3\xa9\nb\n"[:10]
    assert bytes(data.stdlib_text(3).tolist()) == b"B\na"
    with pytest.raises(ValueError, match=r"nbytes: expected at most 10, .* got 11"):
        data.stdlib_text(11)


def test_is_the_source_of_this_python() -> None:
    text = bytes(data.stdlib_text(2_000_000).tolist())
    for name in ("argparse.py", "asyncio/tasks.py", "bisect.py"):
        assert Path(sysconfig.get_path("stdlib"), name).read_bytes() in text
    assert torch.equal(data.stdlib_text(1000), data.stdlib_text(2000)[:1000])


@pytest.mark.parametrize("nbytes", [True, 2.0, "2"])
def test_refuses_a_number_that_is_no_int(nbytes: Any) -> None:
    with pytest.raises(TypeError, match=r"data.stdlib_text: nbytes: expected an int"):
        data.stdlib_text(nbytes)


def test_refuses_no_bytes_and_no_device() -> None:
    with pytest.raises(ValueError, match=r"nbytes: expected 1 or more, got 0"):
        data.stdlib_text(0)
    with pytest.raises(ValueError, match=r"data.stdlib_text: device: .* got cuda:77"):
        data.stdlib_text(5, device="cuda:77")
