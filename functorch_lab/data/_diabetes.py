# SPDX-License-Identifier: Apache-2.0
"""The diabetes patients that scikit-learn carries with it."""

import torch

from functorch_lab.data._scikit_learn import Splits, cut
from functorch_lab.types import Key


def diabetes(
    *,
    key: Key | None = None,
    device: torch.device | str | None = None,
    standardize: bool = True,
    validation: float = 0.0,
) -> Splits:
    """442 patients, ten measurements each, and how far their disease went in a year.

    The columns of x are age (years), sex (1 or 2), body mass index (kg/m²), mean
    blood pressure and six blood serum measurements; y is a score from 25 to 346. A
    fifth of all samples is the test set. By default the split is the same in every
    program, so that results can be compared; it depends on `key` alone.

    Args:
        key: Decides the split; `random.key(0)` if None.
        device: Where the tensors are put; `torch.get_default_device()` if None.
        standardize: Scale the columns of x, and y, to mean 0 and deviation 1 with the
            training part's numbers. Otherwise all have their own units. The rows are
            the same, so mean and deviation for the way back to units are those of
            `diabetes(standardize=False).train`, as the example shows.
        validation: Share of the samples held out of the training part, 0 to 0.8.

    Returns:
        The splits: x of shape (n, 10) and y of shape (n,) in the default dtype.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        TypeError: If `validation` is not a number.
        ValueError: If `validation` is not in [0, 0.8), or there is no such device.

    Source:
        B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least Angle Regression",
        Annals of Statistics 32, 2004, table 1 (as packaged in scikit-learn).

    Example:
        >>> from functorch_lab import data
        >>> x, y = data.diabetes().test
        >>> x.shape, y.shape
        (torch.Size([88, 10]), torch.Size([88]))
        >>> score = data.diabetes(standardize=False)
        >>> mean, deviation = score.train[1].mean(), score.train[1].std(correction=0)
        >>> (y[:3] * deviation + mean).round().tolist() == score.test[1][:3].tolist()
        True
    """
    return cut(
        "data.diabetes",
        "load_diabetes",
        (10,),
        torch.get_default_dtype(),
        key=key,
        device=device,
        dims=(0,) if standardize else None,
        validation=validation,
        scaled=False,
    )
