# SPDX-License-Identifier: Apache-2.0
"""Data sets as trees of tensors with a leading axis: splits, scaling, keyed batches."""

from functorch_lab.data._checks import check_classification
from functorch_lab.data._digits import Splits, digits
from functorch_lab.data._epochs import Batches, batches, epoch, masked_batches
from functorch_lab.data._loaders import from_dataloader, to_dataloader, to_dataset
from functorch_lab.data._splits import split, standardize

__all__ = [
    "Batches",
    "Splits",
    "batches",
    "check_classification",
    "digits",
    "epoch",
    "from_dataloader",
    "masked_batches",
    "split",
    "standardize",
    "to_dataloader",
    "to_dataset",
]
