# SPDX-License-Identifier: Apache-2.0
"""Whose per-sample gradients are right, on which models?

Every row of tests/per_sample_cases, by six means, against one backward pass
for each sample. Writes results/conformance.json, and the tables between the markers of
docs/per_sample/conformance.md and of the README. Run: python benchmarks/conformance.py
"""

from __future__ import annotations

import argparse
import datetime
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from interleave import write
from peers_per_sample import NEED_A_MODULE, SIDES, Answer
from torch import Tensor

from per_sample_cases import ROWS, Row, norms, oracle  # on the path by the line above

LIMIT, LIMIT_FLOAT32 = 1e-8, 1e-4
KINDS = ("right", "wrong", "left out", "refused", "not applicable")
ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "per_sample" / "conformance.md", ROOT / "README.md")
PACKAGES = (
    "functorch-lab",
    "torch",
    "opacus",
    "backpack-for-pytorch",
    "transformers",
)


@dataclass(frozen=True)
class Verdict:
    """One cell of the table: one of `KINDS`, and what it was.

    `error` is the largest, over samples and leaves, of the difference's norm relative
    to the norm of the leaf's gradient, or that of norms.
    """

    kind: str
    error: float | None = None
    detail: str = ""

    def cell(self) -> str:
        """As it stands in the table."""
        if self.kind == "wrong":
            amount = self.detail if self.error is None else _percent(self.error)
            return f"**wrong**, {amount}"
        if self.kind == "left out":
            return f"**left out**, {self.detail}"
        return "-" if self.kind == "not applicable" else self.kind


def judge(side: str, row: Row, exact: Mapping[str, Tensor]) -> Verdict:
    """What a side makes of a row, beside the exact gradients.

    One that fails in float64 is asked again in float32: BackPACK's embedding needs it.
    """
    limits = {torch.float64: LIMIT, torch.float32: LIMIT_FLOAT32}
    refusal = None
    for dtype in (row.dtypes[0], torch.float32):
        case = row.make(dtype)
        if case.module is None and side in NEED_A_MODULE:
            return Verdict("not applicable", detail="no module")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = SIDES[side](case)
            return _compared(answer, exact, row.tolerance or limits[dtype])
        except Exception as error:  # whatever a side raises is its answer
            words = " ".join(str(error).split())[:160]
            refusal = Verdict("refused", detail=f"{type(error).__name__}: {words}")
    assert refusal is not None
    return refusal


def _compared(answer: Answer, exact: Mapping[str, Tensor], limit: float) -> Verdict:
    whole = norms(exact)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    missing = []
    for path, true in exact.items():
        flat = true.reshape(len(whole), -1)
        if path in answer.grads or path in answer.squared_norms:
            grad, square = answer.grads.get(path), answer.squared_norms.get(path)
            if grad is not None:
                pairs[path] = grad, flat
            elif square is not None:
                pairs[path] = square.sqrt(), flat.norm(dim=1)
            elif flat.any():  # of what has no influence nobody need speak
                missing.append(path)
    if answer.norms is not None:
        pairs["all"] = answer.norms, whole
    errors = {}
    for path, (found, true) in pairs.items():
        if found.numel() != true.numel():
            shape = "x".join(map(str, found.shape))
            return Verdict("wrong", detail=f"shape {shape} for {len(whole)} samples")
        errors[path] = _error(found, true, whole)
    worst = (
        max(errors, key=lambda path: (math.isnan(errors[path]), errors[path]))
        if errors
        else ""
    )
    error = errors.get(worst)
    if error is not None and not error <= limit:
        return Verdict("wrong", error, answer.note or f"most in {worst}")
    if missing:
        warned = answer.warned.issuperset(missing)
        how = "with a warning" if warned else "silently"
        return Verdict("left out", error, f"{how}: {', '.join(missing)}")
    return Verdict("right", error)


def _error(found: Tensor, true: Tensor, whole: Tensor) -> float:
    true = true.reshape(len(whole), -1)
    scale = true.norm(dim=1)
    scale = torch.where(scale > 1e-9 * whole, scale, whole)
    found = found.to(true.dtype)
    return ((found.reshape(true.shape) - true).norm(dim=1) / scale).max().item()


def _percent(error: float) -> str:
    return f"{100 * error:.3g} %" if error < 100 else f"{error:.0f} times"


def _rows(pattern: str) -> Iterator[tuple[Row, dict[str, Verdict]]]:
    for row in ROWS:
        if pattern not in row.id:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exact = oracle(row.make(row.dtypes[0]))
        verdicts = {side: judge(side, row, exact) for side in SIDES}
        print(row.id)
        for side, verdict in verdicts.items():
            error = "" if verdict.error is None else f"{verdict.error:8.1e}"
            print(f"  {side:20s} {verdict.kind:15s}{error:9s} {verdict.detail[:90]}")
        yield row, verdicts


def _summary(found: list[tuple[Row, dict[str, Verdict]]]) -> list[str]:
    lines = [f"| | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for side in SIDES:
        count = Counter(verdicts[side].kind for _, verdicts in found)
        lines.append(f"| {side} | {' | '.join(str(count[kind]) for kind in KINDS)} |")
    return lines


def _groups(found: list[tuple[Row, dict[str, Verdict]]]) -> list[str]:
    lines = [f"| | rows | {' | '.join(SIDES)} |", "|---" * (len(SIDES) + 2) + "|"]
    for group in dict.fromkeys(row.group for row, _ in found):
        chosen = [verdicts for row, verdicts in found if row.group == group]
        cells = []
        for side in SIDES:
            count = Counter(verdicts[side].kind for verdicts in chosen)
            wrong = f", **{count['wrong']} wrong**" if count["wrong"] else ""
            nothing = count["not applicable"] == len(chosen)
            cells.append("-" if nothing else f"{count['right']}{wrong}")
        lines.append(f"| {group} | {len(chosen)} | {' | '.join(cells)} |")
    return lines


def _table(found: list[tuple[Row, dict[str, Verdict]]]) -> list[str]:
    lines = [f"| row | {' | '.join(SIDES)} |", "|---" * (len(SIDES) + 1) + "|"]
    for row, verdicts in found:
        cells = " | ".join(verdicts[side].cell() for side in SIDES)
        lines.append(f"| {row.id} | {cells} |")
    return lines


def fill(page: Path, name: str, lines: list[str]) -> None:
    """Puts the lines between the markers of this name, if the page has them."""
    text = page.read_text(encoding="utf-8")
    begin, end = (f"<!-- {name}: {word} -->\n" for word in ("begin", "end"))
    body = "\n".join(["", *lines, "", ""])
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    new = re.sub(pattern, lambda _: begin + body + end, text, flags=re.DOTALL)
    page.write_text(new, encoding="utf-8")


def main(pattern: str) -> None:
    torch.manual_seed(0)
    found = list(_rows(pattern))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = {package: version(package) for package in PACKAGES}
    print("\n".join(_summary(found)))
    if pattern:
        return  # a part of the rows is no record
    write(
        "conformance",
        {
            "question": "Whose per-sample gradients are right, on which models?",
            "date": date,
            "versions": versions,
            "right up to": {"float64": LIMIT, "float32": LIMIT_FLOAT32},
            "counts": {
                side: Counter(verdicts[side].kind for _, verdicts in found)
                for side in SIDES
            },
            "rows": {
                row.id: {side: asdict(verdict) for side, verdict in verdicts.items()}
                for row, verdicts in found
            },
        },
    )
    used = ", ".join(f"{name} {number}" for name, number in versions.items())
    when = f"{len(found)} rows, {date}: {used}."
    for page in PAGES:
        fill(page, "conformance summary", [*_summary(found), "", when])
        fill(page, "conformance groups", _groups(found))
        fill(page, "conformance table", _table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    main(parser.parse_args().only)
