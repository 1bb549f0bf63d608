# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits that scikit-learn carries with it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.data._devices import present_device
from functorch_lab.data._splits import split
from functorch_lab.data._splits import standardize as _standardize
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
    if not 0 <= validation < 1 - _TEST:
        raise ValueError(
            f"data.digits: validation: expected a share in [0, {1 - _TEST:g}), got "
            f"{validation}. A fifth of the samples is the test set."
        )
    if device is None:
        device = torch.get_default_device()
    else:
        device = present_device(device, where="data.digits")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "data.digits: expected scikit-learn, which carries the images, got no such "
            "module. Install it with: pip install 'functorch-lab[lab]'"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    fractions = (1 - _TEST - validation, validation, _TEST)
    # The split is made on the CPU, whatever the default, to be the same everywhere.
    with torch.device("cpu"):
        x = torch.tensor(pixels, dtype=torch.get_default_dtype())
        y = torch.tensor(labels, dtype=torch.int64)
        x = x.reshape(-1, 1, 8, 8) if images else x
        key = random.key(0) if key is None else key.cpu()
        parts = split(key, (x, y), [f for f in fractions if f])
        xs, ys = [list(part) for part in zip(*parts, strict=True)]
        if standardize:
            xs = _standardize(*xs, dims=(0, 2, 3) if images else (0,))
    pairs = [(x.to(device), y.to(device)) for x, y in zip(xs, ys, strict=True)]
    if not validation:
        pairs.insert(1, (pairs[0][0][:0], pairs[0][1][:0]))
    return Splits(*pairs)
