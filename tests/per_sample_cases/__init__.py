# SPDX-License-Identifier: Apache-2.0
"""The conformance suite of per-sample gradients: every operation, option and habit.

A row is one small model and its data, with sizes that differ where nothing is said and
no zeros or ones. `oracle` is what all who compute per-sample gradients are held to.
"""

from per_sample_cases import functions, huggingface, layers, models, reuse
from per_sample_cases._oracle import by_path, errors, gram, norms, oracle
from per_sample_cases._row import Case, Row

__all__ = ["ROWS", "Case", "Row", "by_path", "errors", "gram", "norms", "oracle"]

ROWS: list[Row] = [
    *layers.ROWS,
    *functions.ROWS,
    *reuse.ROWS,
    *models.ROWS,
    *huggingface.ROWS,
]
