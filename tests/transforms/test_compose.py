"""docs/reference/compose.md tells what each pair of transforms does, run here."""

import re

import pytest

import compose
from functorch_lab.transforms import _compile

LINES = compose.PAGE.read_text(encoding="utf-8").splitlines()
NOTES = [f"no: {line[4:-1]}" for line in LINES if re.match(r"\d\. `", line)]


@pytest.mark.parametrize("inside", compose.INSIDE)
def test_each_pair_does_what_the_page_says(inside, monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    outcomes = {name: compose.outcome(inside, name) for name in compose.OUTSIDE}
    notes = list(NOTES)
    assert compose.row(inside, outcomes, notes) in LINES
    assert notes == NOTES


def test_a_wrong_result_is_no_yes(monkeypatch):
    monkeypatch.setattr(compose.OURS, "grad", lambda f: lambda w, x: f(w, x) * 2)
    with pytest.raises(AssertionError, match="not close"):
        compose.outcome("grad", "jvp")


def test_the_page_lists_all_pairs():
    table = [line for line in LINES if line.startswith("| ")]
    assert len(table) == 1 + len(compose.INSIDE)
    assert all(line.count("|") == 2 + len(compose.OUTSIDE) for line in table)
