# SPDX-License-Identifier: Apache-2.0
"""How large a tree is, leaf by leaf."""

from __future__ import annotations

from functorch_lab.tree._difference import dtype_name
from functorch_lab.tree._flatten import Tree, checked_flatten, path_strings


def size(tree: Tree) -> int:
    """Number of entries in all leaves together."""
    return sum(leaf.numel() for leaf in checked_flatten(tree, "size")[0])


def nbytes(tree: Tree) -> int:
    """Bytes of all leaves together, each counted by its own shape and dtype."""
    return sum(
        leaf.numel() * leaf.element_size()
        for leaf in checked_flatten(tree, "nbytes")[0]
    )


def describe(tree: Tree) -> str:
    """A table with path, shape, dtype, parameters and bytes of each leaf, and totals."""
    found, treedef = checked_flatten(tree, "describe")
    header = ("path", "shape", "dtype", "parameters", "bytes")
    body = [
        (
            path or "(root)",
            str(tuple(leaf.shape)),
            dtype_name(leaf.dtype),
            f"{leaf.numel():,}",
            f"{leaf.numel() * leaf.element_size():,}",
        )
        for path, leaf in zip(path_strings(treedef), found, strict=True)
    ]
    total = ("total", "", "", f"{size(tree):,}", f"{nbytes(tree):,}")
    rows = [header, *body, total]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
    return "  ".join(left + right)
