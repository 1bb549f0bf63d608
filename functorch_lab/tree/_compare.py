# SPDX-License-Identifier: Apache-2.0
"""Are two trees the same, and if not, where do they differ?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab.tree._difference import Difference, dtype_name, first_difference
from functorch_lab.tree._flatten import Tree, checked_flatten, path_strings


def _leaf_difference(path: str, expected: Any, got: Any) -> Difference | None:
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
        if type(expected) is type(got):
            return None
        return Difference(path, type(expected).__name__, type(got).__name__)
    if expected.shape != got.shape:
        return Difference(path, str(tuple(expected.shape)), str(tuple(got.shape)))
    if expected.dtype != got.dtype:
        return Difference(path, dtype_name(expected.dtype), dtype_name(got.dtype))
    return None


def _shape_difference(path: str, expected: Any, got: Any) -> Difference | None:
    found = _leaf_difference(path, expected, got)
    same_shape = getattr(expected, "shape", None) == getattr(got, "shape", None)
    return None if same_shape else found


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

    Args:
        expected: the reference.
        got: the tree that is checked.
        what: function on whose behalf the error speaks, such as `optim.adam.update`.
        names: what the two trees are called there.
        remedy: last sentence of the error.
        check_dtype: whether dtypes count.

    Raises:
        ValueError: they differ; the first path where they do is named.
    """
    compare = _leaf_difference if check_dtype else _shape_difference
    found = first_difference(expected, got, compare=compare)
    if found is not None:
        raise ValueError(f"{what}: {names[1]} and {names[0]} differ {found}. {remedy}")


def allclose(a: Tree, b: Tree, *, rtol: float = 1e-5, atol: float = 1e-8) -> Tensor:
    """Whether all leaves are close, as a 0-d boolean tensor (it traces).

    Raises:
        ValueError: the trees differ in structure or in a shape.
    """
    check_same_structure(
        a, b, what="tree.allclose", names=("a", "b"), check_dtype=False
    )
    return _all(
        torch.isclose(x, y.to(x.dtype), rtol=rtol, atol=atol).all()
        for x, y in zip(*_both(a, b, "allclose"), strict=True)
    )


def equal(a: Tree, b: Tree) -> Tensor:
    """Whether structures, shapes, dtypes and values agree, as a 0-d boolean tensor."""
    if first_difference(a, b, compare=_leaf_difference) is not None:
        return torch.tensor(False)
    return _all((x == y).all() for x, y in zip(*_both(a, b, "equal"), strict=True))


def _both(a: Tree, b: Tree, where: str) -> tuple[list[Any], list[Any]]:
    return checked_flatten(a, where)[0], checked_flatten(b, where)[0]


def _all(flags: Any) -> Tensor:
    flags = list(flags)
    return torch.stack(flags).all() if flags else torch.tensor(True)


def diff(a: Tree, b: Tree) -> list[str]:
    """One line per difference: `path: what a has, what b has`; empty when equal.

    It reads values, so it is for eager code only.
    """
    found = first_difference(a, b)
    if found is not None:
        return [f"{found.path or 'the root'}: {found.expected}, {found.got}"]
    names = path_strings(checked_flatten(a, "diff")[1])
    lines = []
    for path, x, y in zip(names, *_both(a, b, "diff"), strict=True):
        leaf = _leaf_difference(path, x, y)
        if leaf is not None:
            lines.append(f"{path or 'the root'}: {leaf.expected}, {leaf.got}")
        elif not torch.equal(x, y):
            largest = (x.double() - y.double()).abs().max().item()
            lines.append(f"{path or 'the root'}: values differ by up to {largest:.3g}")
    return lines
