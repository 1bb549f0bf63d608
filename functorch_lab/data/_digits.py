# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits that scikit-learn carries with it."""

import torch

from functorch_lab.data._scikit_learn import Splits, cut
from functorch_lab.types import Key


def digits(
    *,
    key: Key | None = None,
    images: bool = False,
    device: torch.device | str | None = None,
    standardize: bool = True,
    validation: float = 0.0,
) -> Splits:
    """1797 handwritten digits of 8 x 8 pixels in 10 classes, split at random.

    A fifth of all samples is the test set. By default the split is the same in every
    program, so that results can be compared; it depends on `key` alone.

    Args:
        key: Decides the split; `random.key(0)` if None.
        images: Give x as images (n, 1, 8, 8) instead of vectors (n, 64).
        device: Where the tensors are put; `torch.get_default_device()` if None.
        standardize: Scale to mean 0 and deviation 1 with the training part's numbers,
            each pixel by itself for vectors, all pixels alike for images. Otherwise
            x holds ink, 0 to 16.
        validation: Share of the samples held out of the training part, 0 to 0.8.

    Returns:
        The splits: x in the default dtype, y int64 of shape (n,).

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        TypeError: If `validation` is not a number.
        ValueError: If `validation` is not in [0, 0.8), or there is no such device.

    Source:
        E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
        Machine Learning Repository, 1998 (its test part, as packaged in scikit-learn).

    Example:
        >>> from functorch_lab import data
        >>> x, y = data.digits().train
        >>> x.shape, y.shape, data.digits().test[1].shape
        (torch.Size([1438, 64]), torch.Size([1438]), torch.Size([359]))
    """
    return cut(
        "data.digits",
        "load_digits",
        (1, 8, 8) if images else (64,),
        torch.int64,
        key=key,
        device=device,
        dims=((0, 2, 3) if images else (0,)) if standardize else None,
        validation=validation,
    )
