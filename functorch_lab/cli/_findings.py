# SPDX-License-Identifier: Apache-2.0
"""What the command says of a recipe's result."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from functorch_lab.cli._output import printable, table


def _digits(result: Any) -> str:
    planted = len(result.corrupted["index"])
    noise = f"{planted:,} training samples had a wrong label, planted\n"
    return (
        f"{noise if planted else ''}test accuracy {result.accuracy:.4f}\n\n"
        "confusion matrix (row: true digit, column: predicted)\n"
        f"{_matrix(result.confusion)}"
    )


def _matrix(counts: Tensor) -> str:
    header = "    " + "".join(f"{j:4d}" for j in range(counts.shape[1]))
    lines = [
        f"{i:4d}" + "".join(f"{n:4d}" if n else "   ." for n in row)
        for i, row in enumerate(counts.long().tolist())
    ]
    return "\n".join([header, *lines])


def _diabetes(result: Any) -> str:
    rows = [
        ["", "test error", "explained"],
        ["network", f"{result.error:.2f}", f"{result.r2:.4f}"],
        ["least squares", f"{result.linear_error:.2f}", f"{result.linear_r2:.4f}"],
    ]
    return (
        f"{table(rows)}\n\nerror: root of the mean square, in the units of the score; "
        "explained: share of the variance"
    )


def _text(result: Any) -> str:
    return (
        f"{result.bits_per_byte:.4f} bits per byte of held-out text\n\n"
        f"what it writes after 'def '\n{printable(result.texts[0])}"
    )


FINDINGS: Mapping[str, Callable[[Any], str]] = {
    "digits": _digits,
    "diabetes": _diabetes,
    "text": _text,
}
