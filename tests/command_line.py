# SPDX-License-Identifier: Apache-2.0
"""The command, called in this process or in one of its own."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from functorch_lab import cli

COMMAND = [sys.executable, "-m", "functorch_lab"]
ERROR = "functorch-lab: error: "


def shell(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"} | env,
    )


def refused(capsys: pytest.CaptureFixture[str], *argv: str, said: str = "") -> str:
    """The one line that ends a call with status 2, and what was said before."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out.startswith(said)
    assert bool(out) == bool(said)
    lines = err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(ERROR)
    return lines[0].removeprefix(ERROR)


def told(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """What a call that succeeds prints."""
    assert cli.main([str(word) for word in argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def snapshot(folder: Path) -> dict[str, str]:
    """A checksum for each file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
