# SPDX-License-Identifier: Apache-2.0
"""Data sets as trees of tensors with a leading axis.

They are drawn or read, split, scaled, augmented and given in batches.
"""

from functorch_lab.data import augment
from functorch_lab.data._checks import check_classification
from functorch_lab.data._csv import csv_rows, read_csv, write_csv
from functorch_lab.data._datasets import to_dataloader, to_dataset
from functorch_lab.data._diabetes import diabetes
from functorch_lab.data._digits import digits
from functorch_lab.data._epochs import Batches, batches, epoch, masked_batches
from functorch_lab.data._lines import line, regression
from functorch_lab.data._loaders import from_dataloader
from functorch_lab.data._min_max import min_max
from functorch_lab.data._scikit_learn import Splits
from functorch_lab.data._splits import split, standardize
from functorch_lab.data._stdlib_text import stdlib_text
from functorch_lab.data._streams import stream
from functorch_lab.data._synthetic import birds, checkerboard, circles, spirals

__all__ = [
    "Batches",
    "Splits",
    "augment",
    "batches",
    "birds",
    "check_classification",
    "checkerboard",
    "circles",
    "csv_rows",
    "diabetes",
    "digits",
    "epoch",
    "from_dataloader",
    "line",
    "masked_batches",
    "min_max",
    "read_csv",
    "regression",
    "spirals",
    "split",
    "standardize",
    "stdlib_text",
    "stream",
    "to_dataloader",
    "to_dataset",
    "write_csv",
]
