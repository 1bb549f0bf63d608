# SPDX-License-Identifier: Apache-2.0
"""Data sets that scikit-learn carries with it, cut once and for all."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.data._devices import present_device
from functorch_lab.data._splits import split, standardize
from functorch_lab.types import Key

_TEST = 0.2


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts of a data set, each a tuple (x, y) with one row per sample.

    Attributes:
        train: What the parameters are fitted to.
        validation: For choices made during training; has no rows unless asked for.
        test: Looked at once, at the end.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def cut(
    where: str,
    name: str,
    shape: tuple[int, ...],
    y_dtype: torch.dtype,
    *,
    key: Key | None,
    device: torch.device | str | None,
    dims: tuple[int, ...] | None,
    validation: float,
    **options: Any,
) -> Splits:
    # What the function of this name in sklearn.datasets gives, cut. `dims` are those
    # of `standardize`, None leaves the values.
    if not isinstance(validation, Real):
        raise TypeError(
            f"{where}: validation: expected a number, got {validation!r}. Give the "
            "share of the samples to hold out, such as 0.1."
        )
    if not 0 <= validation < 1 - _TEST:
        raise ValueError(
            f"{where}: validation: expected a share in [0, {1 - _TEST:g}), got "
            f"{validation}. A fifth of the samples is the test set."
        )
    if device is None:
        device = torch.get_default_device()
    else:
        device = present_device(device, where=where)
    try:
        import sklearn.datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where}: expected scikit-learn, which carries the data, got no such "
            "module. Install it with: pip install 'functorch-lab[lab]'"
        ) from error
    x, y = getattr(sklearn.datasets, name)(return_X_y=True, **options)
    fractions = (1 - _TEST - validation, validation, _TEST)
    # The split is made on the CPU, whatever the default, to be the same everywhere.
    with torch.device("cpu"):
        x = torch.tensor(x, dtype=torch.get_default_dtype()).reshape(-1, *shape)
        y = torch.tensor(y, dtype=y_dtype)
        key = random.key(0) if key is None else key.cpu()
        parts = split(key, (x, y), [f for f in fractions if f])
        parts = parts if dims is None else standardize(*parts, dims=dims)
    pairs = [(x.to(device), y.to(device)) for x, y in parts]
    if not validation:
        pairs.insert(1, (pairs[0][0][:0], pairs[0][1][:0]))
    return Splits(*pairs)
