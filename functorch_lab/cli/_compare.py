# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab compare`: runs side by side, in a table and in one figure."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import functorch_lab as fl
from functorch_lab.cli._figures import measured, png, smoothing
from functorch_lab.cli._output import Usage, number, say, setting, table, write

_MARK = "functorch-lab compare"  # in the files of ours, which may be written over

Records = Mapping[str, fl.train.RunRecord]
Column = Mapping[str, Any]


def compare(
    runs: tuple[Path, ...] = (), /, *, out: Path = Path("compare.png")
) -> Callable[[], None]:
    """Show runs side by side: settings that differ, what came of them, their curves.

    Args:
        runs: The folders of the runs.
        out: Where the curves go, a PNG file. Only one of this command is overwritten.
    """
    return partial(_compare, runs, out)


def _compare(runs: tuple[Path, ...], out: Path) -> None:
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise Usage(
            "cli.compare: runs: expected at least 2 different ones, got "
            f"{' '.join(map(str, runs)) or 'none'}. "
            "Run: functorch-lab compare RUN RUN"
        )
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    records = {n: fl.train.read_run(r) for n, r in zip(names, runs, strict=True)}
    _check_free(out)
    say(table([["", *records], *_rows(records)]))
    figure = _curves(records)
    if figure is None:
        say("\nno curves yet")
        return
    try:
        write(out, png(figure, Software=_MARK))
    except OSError as error:
        raise _refused(out, error.strerror) from error
    say(f"\ncurves in {out}")


def _rows(records: Records) -> Iterable[list[str]]:
    found = list(records.values())
    blocks: dict[str, list[Column]] = {
        "": [record.config for record in found],
        "training": [_training(record) for record in found],
        "last epoch": [_row(r.epochs[-1]) if r.epochs else {} for r in found],
        "best epoch": [_row(r.best) if r.best else {} for r in found],
        "result": [record.result for record in found],
    }
    for title, columns in blocks.items():
        names = list(dict.fromkeys(name for column in columns for name in column))
        rows = [[n, *(_word(column, n) for column in columns)] for n in names]
        if not title:
            rows = [row for row in rows if len(set(row[1:])) > 1]
        if title and rows:
            yield [title, *("" for _ in records)]
        yield from ([f"  {row[0]}" if title else row[0], *row[1:]] for row in rows)


def _training(record: fl.train.RunRecord) -> Column:
    last = record.epochs[-1] if record.epochs else {}
    found = {
        "epochs": len(record.epochs),
        "steps": int(max(record.logs.get("step", [0]), default=0)),
        "seconds": last.get("seconds"),
        "finished": "yes" if record.finished else "no",
    }
    return {name: value for name, value in found.items() if value is not None}


def _row(row: Column) -> Column:
    names = ["epoch", *measured([row])]
    return {name: row[name] for name in names if name in row}


def _word(column: Column, name: str) -> str:
    if name not in column:
        return "-"
    value = column[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if is_number else setting(value)


def _curves(records: Records) -> Any:
    """What all runs have measured after epochs, or else their losses per step."""
    epochs = {name: record.epochs for name, record in records.items()}
    if all(len(rows) > 1 for rows in epochs.values()):
        first, *others = [measured(rows) for rows in epochs.values()]
        shared = [n for n in first if all(n in names for names in others)]
        return fl.plots.curves(epochs, shared)
    logs = {name: record.logs for name, record in records.items()}
    if all(columns.get("loss") for columns in logs.values()):
        steps = max(len(columns["loss"]) for columns in logs.values())
        return fl.plots.curves(logs, "loss", smooth=smoothing(steps))
    return None


def _check_free(out: Path) -> None:
    """Refuse a place that has no room for the figure, or has something else."""
    if out.suffix.lower() != ".png":
        raise _refused(out, "which does not end in .png")
    if not out.parent.is_dir():
        raise _refused(out, "in a folder that does not exist")
    if not out.exists():
        return
    try:
        ours = _MARK.encode() in out.read_bytes()[:1000]
    except OSError as error:
        raise _refused(out, error.strerror) from error
    if not ours:
        raise _refused(out, "which this command has not written")


def _refused(out: Path, why: str | None) -> Usage:
    return Usage(
        f"cli.compare: --out: expected a new PNG file to write, got {out} ({why}). "
        "Give another name with --out FILE.png."
    )
