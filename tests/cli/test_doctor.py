# SPDX-License-Identifier: Apache-2.0
"""`doctor`: what is installed, and whether it works."""

import pytest
import torch

from functorch_lab import cli
from functorch_lab.cli import _doctor


def test_doctor_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _doctor._version
    without_rich = lambda name: None if name == "rich" else found(name)  # noqa: E731
    monkeypatch.setattr(_doctor, "_version", without_rich)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"torch         {torch.__version__}" in out
    assert "[lab]     missing: rich. Run: pip install 'functorch-lab[lab]'" in out
    assert "\ndevices\n  cpu\n" in out
    assert "\n  works: first call " in out


def test_doctor_says_what_each_extra_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = [
        "torch>=2.11",
        "rich>=14; extra == 'lab'",
        "functorch-lab[docs,lab]; extra == 'test'",
        "not-there[x]>=3; extra == 'test'",
        'nor.this>=3 ; extra == "test"',
    ]
    monkeypatch.setattr(_doctor.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(_doctor, "_compiler", lambda: "works")
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.split("extras\n")[1].split("devices")[0].splitlines() == [
        "  [lab]     complete",
        "  [test]    missing: not-there, nor.this. Run: pip install "
        "'functorch-lab[test]'",
    ]


def test_doctor_says_that_the_compiler_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(fn: object) -> object:
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(_doctor, "jit", failing)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "fails: no compiler found. Install a C++ compiler" in out
