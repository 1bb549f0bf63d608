# SPDX-License-Identifier: Apache-2.0
"""The page of a run: it shows what there is, harmlessly, and needs no other file."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import refused, snapshot, told
from functorch_lab import disable_jit, optim, random, train
from functorch_lab.cli import _output, _page

PNG = b"\x89PNG\r\n\x1a\n"


class Reader(HTMLParser):
    """Checks that tags are closed; collects text, headings and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(data)


def small_run(folder: Path, **options: object) -> Path:
    """The run of a script without recipe: sgd on one number, two epochs."""
    optimizer = optim.sgd(lr=0.25)
    step = train.make_step(lambda w, x: ((w["a"]["weight"] - x) ** 2).mean(), optimizer)
    params = {"a": {"weight": torch.tensor([2.0, 3.0])}}
    state = train.init(params, optimizer, key=random.key(0))
    run = train.open_run(folder, config={"lr": 0.25, **options})
    batches = [(torch.tensor(4.0),)] * 3
    with disable_jit():
        train.fit(step, state, batches, epochs=2, run_dir=run, progress=False)
    return folder


def test_shows_a_run_of_ones_own(tmp_path: Path) -> None:
    record = train.read_run(small_run(tmp_path / "mine"))
    path = _page.write_report(record)
    assert path == tmp_path / "mine" / "report.html"
    page = Reader(path.read_text("utf-8"))
    assert page.text["h1"] == ["mine"]
    assert page.text["h2"] == [
        *("What was run", "Curves", "Parameters", "Times", "Versions and machine")
    ]
    cells = page.text["td"]
    # ((2 - 4)^2 + (3 - 4)^2) / 2, then a quarter of the gradient (w - 4) is taken off.
    assert {"0.25", "a.weight", "(2,)", torch.__version__} <= set(cells)
    assert "2 numbers, as they were after step 6." in page.text["p"]
    assert not any("not come to its end" in text for text in page.text["p"])


def test_has_every_figure_in_it_and_beside_it(tmp_path: Path) -> None:
    record = train.read_run(small_run(tmp_path))
    rows = [
        {"epoch": i, "step": 3 * i, "loss": 2.5 - i, "val_loss": 0.5 + i}
        for i in (1, 2)
    ]
    tensors = {
        "confusion": torch.tensor([[5.0, 2.0], [3.0, 7.0]]),
        "worst_images": torch.rand(3, 5, 7),
        "worst_labels": torch.tensor([0, 1, 1]),
        "worst_predictions": torch.tensor([1, 0, 0]),
        "worst_losses": torch.tensor([3.5, 2.5, 1.5]),
    }
    (tmp_path / "texts.txt").write_text("naïve <b>\x1b", "utf-8")
    (tmp_path / "corrupted.csv").write_text("index,true,planted\n5,2,7\n11,3,<b>\n")
    result = {"test_accuracy": 12 / 17}
    record = replace(
        record, epochs=rows, best=rows[0], tensors=tensors, result=result, step=0
    )
    page = Reader(_page.write_report(record).read_text("utf-8"))
    assert (page.text["dt"], page.text["dd"]) == (["test accuracy"], ["0.7059"])
    names = ["loss", "lr", "epochs", "confusion", "worst"]
    files = [(tmp_path / "figures" / f"{name}.png").read_bytes() for name in names]
    assert all(file.startswith(PNG) for file in files)
    assert sorted(p.stem for p in (tmp_path / "figures").iterdir()) == sorted(names)
    head = "data:image/png;base64,"
    assert [base64.b64decode(a.removeprefix(head)) for a in page.addresses] == files
    assert page.text["figcaption"][2] == (
        "What was measured after each epoch. The dotted line marks the best one, 1."
    )
    assert "naïve <b>\ufffd" in page.text["pre"]
    assert "Planted labels" in page.text["h2"]
    assert any(text.startswith("2 training samples had a") for text in page.text["p"])
    assert {"2", "7", "11", "<b>"} <= set(page.text["td"])
    assert "Parameters" not in page.text["h2"]


def test_says_of_a_run_that_it_is_not_finished(tmp_path: Path) -> None:
    train.open_run(tmp_path, config={"lr": 0.5})
    page = Reader(_page.write_report(train.read_run(tmp_path)).read_text("utf-8"))
    assert page.text["h2"] == ["What was run", "Versions and machine"]
    assert any("it has no checkpoint yet" in text for text in page.text["p"])
    assert not (tmp_path / "figures").exists()


def test_is_harmless_whatever_the_run_says(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script>$body&amp;"
    record = train.read_run(small_run(tmp_path, **{evil: evil}))
    rows = [{**row, evil: 1.5} for row in record.epochs]
    record = replace(
        record,
        config={**record.config, "recipe": evil},
        command=[evil],
        result={evil: 2.5},
        versions={evil: evil},
        started=evil,
        epochs=rows,
    )
    page = Reader(_page.write_report(record).read_text("utf-8"))
    assert "script" not in page.tags
    assert page.text["h1"] == [evil]
    assert evil in page.text["td"]
    assert evil in page.text["dt"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["__main__.py", "train", "digits"], "functorch-lab train digits"),
        (["mine.py", "a b"], "mine.py 'a b'"),
        ([], ""),
        ([3, None], "3 None"),  # edited by hand
    ],
)
def test_shows_the_command_as_one_types_it(
    command: list[Any], shown: str, tmp_path: Path
) -> None:
    record = train.read_run(train.open_run(tmp_path).folder)
    path = _page.write_report(replace(record, command=command))
    assert " ".join(Reader(path.read_text("utf-8")).text.get("span", [])) == shown


def test_needs_no_other_file(tmp_path: Path) -> None:
    html = _page.write_report(train.read_run(small_run(tmp_path))).read_text("utf-8")
    assert all(a.startswith("data:") for a in Reader(html).addresses)
    assert not re.search(r"@import|url\(|https?:", html)


def test_long_tables_are_folded(tmp_path: Path) -> None:
    rows = [{"epoch": i, "step": 3 * i, "loss": 1.5} for i in range(1, 31)]
    record = replace(train.read_run(small_run(tmp_path)), epochs=rows)
    page = Reader(_page.write_report(record).read_text("utf-8"))
    assert page.text["summary"] == ["all 30 epochs"]


def test_times_are_those_of_the_log(tmp_path: Path) -> None:
    rows = [
        {"epoch": i, "step": 50 * i, "loss": 1.5, "seconds": s}
        for i, s in enumerate([7.0, 7.5, 8.5, 9.25], 1)
    ]
    record = replace(train.read_run(small_run(tmp_path)), epochs=rows)
    assert dict(_page._times(record)) == {
        "training": "9.2 s for 200 steps",
        "first epoch, with compiling": "7.00 s",
        "each other epoch (median)": "0.75 s",
        "each of their steps, with validation": "15 ms",
    }


def test_the_command_writes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_run(tmp_path)
    before = snapshot(tmp_path)
    assert told(capsys, "report", tmp_path) == f"report in {tmp_path}/report.html\n"
    made = {name for name in snapshot(tmp_path) if name not in before}
    assert made == {"report.html", "figures/loss.png", "figures/lr.png"}
    (tmp_path / "report.html").write_text("old")
    told(capsys, "report", tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype")
    assert {k: v for k, v in snapshot(tmp_path).items() if k in before} == before


def test_a_full_disk_leaves_the_run_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small_run(tmp_path)
    told(capsys, "report", tmp_path)
    before = snapshot(tmp_path)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_output.os, "fsync", full)
    text = refused(capsys, "report", str(tmp_path))
    assert text.startswith("cli.report: run: expected a folder to write to, got ")
    assert "(No space left on device). The run itself is unharmed" in text
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("there", ["nothing", "a file", "other files"])
def test_refuses_what_is_no_run(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    if there == "a file":
        path.write_text("mine")
    elif there == "other files":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    for command in ("report", "predict", "compare"):
        more = {"report": [], "predict": ["x.png"], "compare": [str(tmp_path)]}
        text = refused(capsys, command, str(path), *more[command])
        assert "expected the folder of a run, got" in text
    assert snapshot(tmp_path) == before
