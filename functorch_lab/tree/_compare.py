# SPDX-License-Identifier: Apache-2.0
"""Are two trees the same, and if not, where do they differ?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.tree._difference import (
    Difference,
    describe_node,
    dtype_name,
    first_difference,
)
from functorch_lab.tree._flatten import Structure, checked, open_tree
from functorch_lab.tree._nodes import Tree, named_leaves


def _shape_difference(path: str, expected: Any, got: Any) -> Difference | None:
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
        if type(expected) is type(got):
            return None
        return Difference(path, describe_node(expected), describe_node(got))
    if expected.shape != got.shape:
        return Difference(path, str(tuple(expected.shape)), str(tuple(got.shape)))
    return None


def _leaf_difference(path: str, expected: Any, got: Any) -> Difference | None:
    found = _shape_difference(path, expected, got)
    if found is None and isinstance(expected, Tensor) and expected.dtype != got.dtype:
        return Difference(path, dtype_name(expected.dtype), dtype_name(got.dtype))
    return found


def check_same_structure(
    expected: Tree,
    got: Tree,
    *,
    what: str = "tree.check_same_structure",
    names: tuple[str, str] = ("expected", "got"),
    remedy: str = "Pass trees of the same structure.",
    check_dtype: bool = True,
) -> None:
    """Raises unless two trees have the same containers, keys, shapes and dtypes.

    A dict, an OrderedDict and a defaultdict with the same keys count as the same.

    Args:
        expected: the reference.
        got: the tree that is checked.
        what: the function on whose behalf the error speaks, as `optim.adam.update`.
        names: what `expected` and `got` are called there.
        remedy: the last sentence of the error.
        check_dtype: whether dtypes count.

    Raises:
        ValueError: they differ; the first path where they do is named.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.check_same_structure([torch.ones(2)], [torch.ones(3)])
        Traceback (most recent call last):
        ValueError: tree.check_same_structure: got and expected differ at [0]: expected (2,), got (3,). Pass trees of the same structure.
    """  # noqa: E501
    if _aligned(expected, got, check_dtype) is not None:
        return
    checked(expected, "check_same_structure")
    compare = _leaf_difference if check_dtype else _shape_difference
    difference = first_difference(expected, got, compare=compare)
    raise ValueError(f"{what}: {names[1]} and {names[0]} differ {difference}. {remedy}")


def _aligned(
    a: Tree, b: Tree, check_dtype: bool
) -> tuple[list[Any], list[Any], Structure] | None:
    """Leaves of both and the structure of `a`, or None if they do not agree."""
    first, treedef = open_tree(a)
    second = treedef.along(b)
    if second is None:
        return None
    for x, y in zip(first, second, strict=True):
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            if x.shape != y.shape or (check_dtype and x.dtype != y.dtype):
                return None
        elif x is None or type(x) is not type(y):
            return None
    return first, second, treedef


def paired(where: str, a: Tree, b: Tree) -> tuple[list[Any], list[Any], Structure]:
    """Leaves of two trees that must agree in structure and shapes; structure of `a`.

    Raises:
        ValueError: they do not.
    """
    found = _aligned(a, b, check_dtype=False)
    if found is None:
        checked(a, where)
        found = first_difference(a, b, compare=_shape_difference)
        raise ValueError(
            f"tree.{where}: b and a differ {found}. Pass trees of the same structure."
        )
    return found


def allclose(a: Tree, b: Tree, *, rtol: float = 1e-5, atol: float = 1e-8) -> Tensor:
    """Whether all entries are close: `|a - b| <= atol + rtol * |b|`.

    Returns:
        A 0-d boolean tensor, so that it traces; `if` and `assert` take it.

    Raises:
        ValueError: the trees differ in structure or in a shape.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.allclose([torch.tensor(2.0)], [torch.tensor(2.0 + 1e-6)])
        tensor(True)
    """
    first, second, _ = paired("allclose", a, b)
    return _all(
        torch.isclose(x, y.to(x.dtype), rtol=rtol, atol=atol).all()
        for x, y in zip(first, second, strict=True)
    )


def equal(a: Tree, b: Tree) -> Tensor:
    """Whether structures, shapes, dtypes and values agree.

    Returns:
        A 0-d boolean tensor, so that it traces; `if` and `assert` take it. NaN is
        unequal to itself.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.equal([torch.tensor(2.0)], [torch.tensor(2)])
        tensor(False)
    """
    found = _aligned(a, b, check_dtype=True)
    if found is None:
        return torch.tensor(False)
    return _all((x == y).all() for x, y in zip(found[0], found[1], strict=True))


def _all(flags: Iterable[Tensor]) -> Tensor:
    rows = list(flags)
    return torch.stack(rows).all() if rows else torch.tensor(True)


def diff(a: Tree, b: Tree) -> list[str]:
    """One line for each leaf in which two trees differ; empty when they are equal.

    Where the structures differ, that is the one line. It reads values, so it is for
    eager code.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> tree.diff({"w": torch.tensor(2.0)}, {"w": torch.tensor(5.0)})
        ["['w']: values differ by up to 3"]
    """
    found = first_difference(a, b)
    if found is not None:
        return [_diff_line(found)]
    lines = []
    for x, y in zip(named_leaves(a), named_leaves(b), strict=True):
        difference = _leaf_difference(x.bracket, x.value, y.value)
        if difference is not None:
            lines.append(_diff_line(difference))
        elif not torch.equal(x.value, y.value):
            largest = (x.value.double() - y.value.double()).abs().max().item()
            lines.append(
                f"{x.bracket or 'the root'}: values differ by up to {largest:.3g}"
            )
    return lines


def _diff_line(found: Difference) -> str:
    return f"{found.path or 'the root'}: {found.expected} in a, {found.got} in b"
