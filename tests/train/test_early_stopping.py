# SPDX-License-Identifier: Apache-2.0
"""Which row is the best, and when training stops, against a plain search."""

import math
from typing import Any

import pytest

from functorch_lab.train import EarlyStopping

VALUES = [5.0, 3.5, 3.7, 3.5, 2.5, 2.6, 2.7, 2.2, 2.9, 2.8, 2.7]


def rows(*values: float) -> list[dict[str, Any]]:
    return [{"epoch": i + 1, "val": v, "note": "x"} for i, v in enumerate(values)]


def stopped_after(stopping: EarlyStopping, values: list[float]) -> int:
    """How many epochs are run, of all that there are."""
    for n in range(1, len(values) + 1):
        if stopping.stops(rows(*values[:n])):
            return n
    return len(values)


@pytest.mark.parametrize("n", range(1, 12))
def test_the_best_is_the_first_least(n: int) -> None:
    seen = VALUES[:n]
    assert EarlyStopping("val").best(rows(*seen)) == seen.index(min(seen))
    negated = rows(*(-v for v in seen))
    assert EarlyStopping("val", mode="max").best(negated) == seen.index(min(seen))


@pytest.mark.parametrize(
    ("patience", "epochs"), [(1, 3), (2, 4), (3, 11), (5, 11), (None, 11)]
)
def test_stops_after_so_many_without_improvement(
    patience: int | None, epochs: int
) -> None:
    assert stopped_after(EarlyStopping("val", patience), VALUES) == epochs
    values = [-v for v in VALUES]
    assert stopped_after(EarlyStopping("val", patience, mode="max"), values) == epochs


def test_a_small_change_is_no_improvement() -> None:
    values = [5.0, 4.6, 4.3, 4.1, 3.9]
    stopping = EarlyStopping("val", 2, min_delta=0.5)
    # 4.6 is within 0.5 of 5.0, 4.3 is not; 4.1 and 3.9 are within 0.5 of 4.3.
    assert stopping.best(rows(*values)) == 2
    assert stopped_after(stopping, values) == 5
    assert stopped_after(EarlyStopping("val", 2), values) == 5
    assert not EarlyStopping("val", 2).stops(rows(*values))


def test_nan_is_never_the_best() -> None:
    stopping = EarlyStopping("val", 3)
    assert stopping.best(rows(math.nan, math.nan)) is None
    assert stopping.best([]) is None
    assert stopping.best(rows(math.nan, 7.0, math.nan, 5.0)) == 3
    assert stopping.best(rows(math.inf, math.inf)) == 0
    assert stopped_after(stopping, [math.nan] * 5) == 3
    assert stopped_after(stopping, [7.0, *[math.nan] * 5]) == 4


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"patience": 0}, ValueError, "patience: expected at least 1, got 0"),
        ({"patience": 2.5}, TypeError, "patience: expected an int or None, got 2.5"),
        ({"mode": "less"}, ValueError, 'mode: expected "min" or "max", got \'less\''),
        ({"min_delta": -0.5}, ValueError, "min_delta: expected a finite number >= 0"),
        ({"min_delta": math.inf}, ValueError, "min_delta: .* got inf"),
    ],
)
def test_refuses_settings(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match="train.EarlyStopping: " + text):
        EarlyStopping("val", **options)


@pytest.mark.parametrize("name", ["value", "note"])
def test_refuses_what_the_row_has_not(name: str) -> None:
    text = rf"monitor: expected one of the row's numbers \(epoch, val\), got '{name}'"
    with pytest.raises(ValueError, match=text):
        EarlyStopping(name).best(rows(2.0))
