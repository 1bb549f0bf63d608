# SPDX-License-Identifier: Apache-2.0
"""The page of a run: what was run, what came of it, how long it took."""

import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import functorch_lab as fl
from functorch_lab.cli import _html
from functorch_lab.cli._figures import CURVES, draw
from functorch_lab.cli._output import Usage, label, number, printable, write

REPORT = "report.html"


def write_report(record: fl.train.RunRecord) -> Path:
    """Write a run's figures and its page, which needs no other file.

    Args:
        record: What `train.read_run` gives.

    Returns:
        The page, `report.html` in the run's folder.

    Raises:
        Usage: If the folder can't be written to.
    """
    figures = draw(record)
    page = _page(record, figures)
    folder = record.folder / "figures"
    try:
        if figures:
            folder.mkdir(exist_ok=True)
        for name, (png, _) in figures.items():
            write(folder / f"{name}.png", png)
        write(record.folder / REPORT, page.encode())
    except OSError as error:
        raise Usage(
            f"cli.report: run: expected a folder to write to, got {record.folder} "
            f"({error.strerror}). The run itself is unharmed: make room, then run "
            f"functorch-lab report {shlex.quote(str(record.folder))}"
        ) from error
    return record.folder / REPORT


def _page(record: fl.train.RunRecord, figures: Mapping[str, tuple[bytes, str]]) -> str:
    name = str(record.config.get("recipe", record.folder.resolve().name))
    curves = [figures[key] for key in CURVES if key in figures]
    others = [found for key, found in figures.items() if key not in CURVES]
    parts = [
        _html.heading(name),
        _html.text(_subtitle(record), "soft"),
        "" if record.finished else _html.text(_unfinished(record), "note"),
        _html.tiles({label(key): number(v) for key, v in record.result.items()}),
        _html.section("What was run", *_settings(record)),
        _html.section("Planted labels", *_planted(record)),
        _html.section("Curves", _html.figures(curves), _epochs(record)),
        _html.section("On the test set", _html.figures(others)),
        _html.section("What it writes", _html.verbatim(_texts(record))),
        _html.section("Parameters", *_parameters(record)),
        _html.section("Times", _html.words(dict(_times(record)))),
        _html.section("Versions and machine", _html.words(record.versions)),
    ]
    return _html.page(f"{name}: {record.folder.resolve().name}", parts)


def _subtitle(record: fl.train.RunRecord) -> str:
    started = record.started.replace("T", " ").replace("+00:00", " UTC")
    return f"run {record.folder.resolve()}, started {started}"


def _unfinished(record: fl.train.RunRecord) -> str:
    where = f"its newest checkpoint is of step {record.step:,}"
    there = where if record.step else "it has no checkpoint yet"
    return f"This run has not come to its end: {there}. Here is what it has so far."


def _settings(record: fl.train.RunRecord) -> Iterator[str]:
    # `python -m functorch_lab` has a name that says nothing.
    names = {"__main__.py": "functorch-lab"}
    words = [names.get(word, word) for word in map(str, record.command)]
    yield _html.command([shlex.quote(word) for word in words])
    yield _html.words(record.config)


def _epochs(record: fl.train.RunRecord) -> str:
    names = list(dict.fromkeys(name for row in record.epochs for name in row))
    rows = [[number(row.get(name, "")) for name in names] for row in record.epochs]
    marked = record.epochs.index(record.best) if record.best in record.epochs else None
    header = ["seconds so far" if n == "seconds" else label(n) for n in names]
    return _html.numbers(header, rows, of="epochs", marked=marked)


def _planted(record: fl.train.RunRecord) -> Iterator[str]:
    """The wrong labels that the recipe digits has trained with."""
    file = record.folder / "corrupted.csv"
    if not file.is_file():
        return
    lines = file.read_text("utf-8", "replace").splitlines()
    header, *rows = [line.split(",") for line in lines] or [[]]
    yield _html.text(
        f"{len(rows):,} training samples had a wrong label, planted before training; "
        "corrupted.csv lists them too."
    )
    yield _html.numbers(header, rows, of="planted labels")


def _texts(record: fl.train.RunRecord) -> str:
    """What a language model wrote in the end, as the recipe text keeps it."""
    file = record.folder / "texts.txt"
    return printable(file.read_text("utf-8", "replace")) if file.is_file() else ""


def _parameters(record: fl.train.RunRecord) -> Iterator[str]:
    if not record.step:
        return
    leaves = fl.tree.to_state_dict(record.params())
    rows = [
        [name, str(tuple(leaf.shape)), f"{leaf.numel():,}", number(_norm(leaf))]
        for name, leaf in leaves.items()
    ]
    total = sum(leaf.numel() for leaf in leaves.values())
    best = f"epoch {record.best['epoch']}, the best" if record.best else ""
    yield _html.text(
        f"{total:,} numbers, as they were after {best or f'step {record.step:,}'}."
    )
    yield _html.numbers(["path", "shape", "numbers", "L2 norm"], rows, of="leaves")


def _norm(leaf: Any) -> float:
    return float(leaf.double().norm())


def _times(record: fl.train.RunRecord) -> Iterator[tuple[str, str]]:
    """Of all training, of an epoch, and of a step."""
    rows = [row for row in record.epochs if "seconds" in row]
    if not rows:
        return
    yield "training", f"{rows[-1]['seconds']:.1f} s for {rows[-1]['step']:,} steps"
    compiles = "" if record.config.get("compile") is False else ", with compiling"
    yield f"first epoch{compiles}", f"{rows[0]['seconds']:.2f} s"
    pairs = list(pairwise(rows))
    if pairs:
        epochs = [after["seconds"] - before["seconds"] for before, after in pairs]
        taken = [after["step"] - before["step"] for before, after in pairs]
        steps = [1e3 * s / max(n, 1) for s, n in zip(epochs, taken, strict=True)]
        yield "each other epoch (median)", f"{median(epochs):.3g} s"
        yield "each of their steps, with validation", f"{median(steps):.3g} ms"
