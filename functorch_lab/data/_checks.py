# SPDX-License-Identifier: Apache-2.0
"""What a data set must be before training sees it; reads values, so never in a step."""

import math
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree


def check_classification(
    x: Tensor,
    y: Tensor,
    *,
    num_classes: int,
    features: int | tuple[int, ...] | None = None,
) -> None:
    """Check inputs and integer labels of a classification data set.

    Looks at every value once and waits for the device, so it belongs where data
    enter a program, not into a step.

    Args:
        x: Inputs, floating point, shape `(n, *features)`.
        y: Labels, integers 0 .. num_classes - 1, shape (n,).
        num_classes: The number of classes.
        features: Shape of one sample; an int stands for (int,). Unchecked if None.

    Raises:
        TypeError: If `x` is not floating point or `y` is not an integer tensor.
        ValueError: If a shape differs, the data set is empty, a value of `x` is not
            finite, or a label is out of range; the first such index is named.

    Example:
        >>> import torch
        >>> from functorch_lab import data
        >>> x, y = torch.tensor([[0.5], [2.5]]), torch.tensor([0, 3])
        >>> data.check_classification(x, y, num_classes=4, features=1)
        >>> data.check_classification(x, y, num_classes=3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: data.check_classification: y: expected labels in 0 .. 2, got 3 ...
    """
    where = "data.check_classification"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"{where}: x: expected a floating point tensor, got {_kind(x)}. "
            "Convert integer images, e.g. with x.float() / 255."
        )
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        raise TypeError(
            f"{where}: y: expected integer labels, got {_kind(y)}. "
            "Give class indices, e.g. y.long(), or y.argmax(-1) of one-hot rows."
        )
    if y.ndim != 1 or x.ndim == 0 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{where}: y: expected one label per sample of x, shape "
            f"({x.shape[0] if x.ndim else 'n'},), got {tuple(y.shape)}. "
            "Give x of shape (n, ...) and y of shape (n,)."
        )
    expected = (features,) if isinstance(features, int) else features
    if expected is not None and tuple(x.shape[1:]) != tuple(expected):
        raise ValueError(
            f"{where}: x: expected samples of shape {tuple(expected)}, got "
            f"{tuple(x.shape[1:])}. Reshape x, or change the model's input size."
        )
    length(x, where=where, argument="x")
    check_finite(x, where=where, argument="x")
    bad = ((y < 0) | (y >= num_classes)).nonzero()
    if bad.numel():
        index = int(bad[0])
        raise ValueError(
            f"{where}: y: expected labels in 0 .. {num_classes - 1}, got "
            f"{int(y[index])} at index {index}. Renumber the labels from 0, or raise "
            "num_classes."
        )


def length(arrays: Any, *, where: str, argument: str = "arrays") -> int:
    # The common length of the leading axes of a tree of tensors, at least 1.
    paths, found = tree.paths(arrays), tree.leaves(arrays)
    if not found:
        raise ValueError(
            f"{where}: {argument}: expected a tree of tensors, got {arrays!r} without "
            "any. Pass at least one tensor of shape (n, ...)."
        )
    fail = partial(_fail_at, where, argument)
    for path, leaf in zip(paths, found, strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                fail(path, "a tensor", _kind(leaf)) + "Convert it with torch.as_tensor."
            )
        if leaf.ndim == 0:
            raise ValueError(
                fail(path, "shape (n, ...)", "()") + "Give one row per sample."
            )
        if leaf.shape[0] != found[0].shape[0]:
            got = f"{leaf.shape[0]} rows"
            raise ValueError(
                fail(path, f"{found[0].shape[0]} rows, as at {paths[0] or 'x'}", got)
                + "Give every leaf one row per sample."
            )
    if found[0].shape[0] == 0:
        raise ValueError(
            f"{where}: {argument}: expected at least one sample, got an empty data "
            "set. Check the split's fractions or the filter that made it."
        )
    return found[0].shape[0]


def check_finite(x: Tensor, *, where: str, argument: str) -> None:
    if x.is_meta:  # has no values
        return
    bad = (~x.isfinite()).nonzero()
    if bad.numel():
        index = tuple(bad[0].tolist())
        raise ValueError(
            f"{where}: {argument}: expected finite values, got {x[index].item()} at "
            f"index {index} ({bad.shape[0]} in all). Drop or repair these samples."
        )


def check_batch_size(batch_size: int, n: int, *, where: str) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(
            f"{where}: batch_size: expected an int, got {_kind(batch_size)}. "
            "Give the number of samples per step."
        )
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"{where}: batch_size: expected 1 .. {n} (the number of samples), got "
            f"{batch_size}. Choose a batch that the data can fill."
        )


def check_count(value: int, *, where: str, argument: str, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{where}: {argument}: expected an int, got {_kind(value)}. "
            f"Give a whole number, {least} or more."
        )
    if value < least:
        raise ValueError(
            f"{where}: {argument}: expected {least} or more, got {value}. "
            "Ask for at least that many."
        )


def check_scale(value: object, *, where: str, argument: str) -> None:
    # A tensor's value is not looked at: it may be traced or mapped over.
    if isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{where}: {argument}: expected a number, got {_kind(value)}. "
            "Give e.g. 0.1."
        )
    if not 0 <= float(value) < math.inf:
        raise ValueError(
            f"{where}: {argument}: expected a finite number of 0 or more, got {value}. "
            "It is a length, in the units of the coordinates."
        )


def check_interval(low: float, high: float, *, where: str) -> None:
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"{where}: low: expected a finite number below high, got low = {low} and "
            f"high = {high}. Swap them, or widen the interval."
        )


def _fail_at(where: str, argument: str, path: str, expected: str, got: str) -> str:
    at = f" at {path}" if path else ""
    return f"{where}: {argument}{at}: expected {expected}, got {got}. "


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return f"{type(value).__name__} {value!r:.40}"
