# SPDX-License-Identifier: Apache-2.0
"""What the command says of a recipe's result."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def _digits(result: Any) -> str:
    return (
        f"test accuracy {result.accuracy:.4f}\n\n"
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


FINDINGS: Mapping[str, Callable[[Any], str]] = {"digits": _digits}
