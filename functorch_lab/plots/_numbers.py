# SPDX-License-Identifier: Apache-2.0
"""What callers pass as numbers and names, as float64 tensors and lists of strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

# Beyond it, and below its inverse on a logarithmic axis, margins would overflow.
LARGEST = 1e100


def numbers(where: str, argument: str, values: Any) -> Tensor:
    """`values` as a float64 tensor on the CPU; lists may be nested, or of tensors."""
    try:
        return _floats(values)
    except (TypeError, OverflowError) as error:
        raise TypeError(
            f"{where}: {argument}: expected real numbers, got {kind(values)}: "
            f"{error}. Pass a tensor or a list of numbers."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{where}: {argument}: expected entries of one shape, got {error}. "
            "Make them alike."
        ) from error


def series(where: str, argument: str, values: Any) -> Tensor:
    """`values` as numbers of shape (n,), n at least 1."""
    found = numbers(where, argument, values)
    if found.ndim != 1:
        raise ValueError(
            f"{where}: {argument}: expected shape (n,), got {tuple(found.shape)}. "
            "Pass one number per step."
        )
    return not_empty(where, argument, found)


def not_empty(where: str, argument: str, values: Tensor) -> Tensor:
    if not values.numel():
        raise ValueError(
            f"{where}: {argument}: expected at least one number, got shape "
            f"{tuple(values.shape)}. There is nothing to draw."
        )
    return values


def drawable(values: Tensor) -> Tensor:
    """Where values are finite and not too large to have an axis."""
    return values.abs() <= LARGEST


def gapped(values: Tensor, keep: Tensor | None = None) -> Tensor:
    """NaN, which matplotlib leaves out, wherever a value can't be drawn."""
    keep = drawable(values) if keep is None else drawable(values) & keep
    return values.where(keep, torch.nan)


def names(where: str, argument: str, given: Any, count: int, of: str) -> list[str]:
    """One string for each of `count` things."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TypeError(
            f"{where}: {argument}: expected a list of {count} names, one per {of}, got "
            f"{kind(given)}. Write {argument}=[...]."
        )
    plain = given.tolist() if isinstance(given, Tensor) else given
    found = [str(name) for name in plain]
    if len(found) != count:
        raise ValueError(
            f"{where}: {argument}: expected {count} names, one per {of}, got "
            f"{len(found)}. Give as many as there are."
        )
    return found


def check_title(where: str, title: Any) -> None:
    if title is not None and not isinstance(title, str):
        raise TypeError(
            f"{where}: title: expected a str or None, got {kind(title)}. "
            "Pass the line above the figure."
        )


def check_flag(where: str, argument: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(
            f"{where}: {argument}: expected True or False, got {kind(value)}. "
            "Pass a bool."
        )


def check_count(where: str, argument: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{where}: {argument}: expected an int, got {kind(value)}. "
            "Pass a whole number."
        )
    if value < 1:
        raise ValueError(
            f"{where}: {argument}: expected at least 1, got {value}. "
            "Pass a whole number above 0."
        )


def kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    return f"{type(value).__name__} {' '.join(repr(value).split()):.60}"


def _floats(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        if values.is_complex() or values.is_meta:
            what = "they are complex" if values.is_complex() else "they have no values"
            raise TypeError(what)
        # Not every device has float64.
        return values.detach().cpu().double()
    if isinstance(values, Real):
        return torch.tensor(float(values), dtype=torch.float64)
    if hasattr(values, "__array__"):  # numpy's, without its dtypes and strides
        return _floats(values.__array__().tolist())
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        if all(isinstance(value, Real) for value in values):
            return torch.tensor([float(v) for v in values], dtype=torch.float64)
        parts = [_floats(value) for value in values]
        shapes = sorted({tuple(part.shape) for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"{shapes[0]} and {shapes[1]}")
        return torch.stack(parts)
    raise TypeError(f"{type(values).__name__} is no number")
