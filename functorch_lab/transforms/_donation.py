# SPDX-License-Identifier: Apache-2.0
"""Donation: an argument's memory is reused by a result, and the argument is void.

The compiled function writes the new values into the old memory. The results are new
tensors on that memory; the old tensors change their class to one that raises at any
use, so that a stale name is an error and never a silent new value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab.transforms._abstract import storage_of
from functorch_lab.transforms._flat import Structure, kind_of


class Donated(Tensor):
    """A tensor whose memory was given away."""

    message = "donated"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kinds = [kind for kind in types if issubclass(kind, Donated)]
        raise RuntimeError(kinds[0].message if kinds else cls.message)


def void_type(name: str, path: str) -> type[Donated]:
    """The class of the donated tensors that stood at `path` among the arguments."""
    message = (
        f"jit: {path} was donated to {name}, and its memory is reused: expected a "
        f"tensor that is still valid. Use what {name} returned, or pass a tree.copy."
    )
    return type("Donated", (Donated,), {"message": message})


class Reuse(NamedTuple):
    """What becomes of the donated leaves in one traced signature.

    Numbers are positions in the flat lists of the arguments and of the results.
    """

    written: tuple[tuple[int, int], ...]  # (argument, result that takes its memory)
    sources: tuple[
        int, ...
    ]  # for each result the donated argument it comes from, or -1

    def assembled(self, found: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """All results in order; those on donated memory as new tensors."""
        rest = iter(outputs)
        return [found[i].detach() if i >= 0 else next(rest) for i in self.sources]


def plan(
    groups: Sequence[tuple[Structure, Sequence[int]]],
    inputs: Sequence[Any],
    results: Sequence[Any],
    spec: Structure,
) -> tuple[Reuse, list[int]]:
    """Matches donated arguments with subtrees of the result of equal structure.

    Args:
        groups: for each donated argument its structure and the positions of its leaves.
        inputs: abstract leaves of the arguments.
        results: abstract leaves of the result.
        spec: structure of the result.

    Returns:
        The plan, and the numbers of the groups that found no match.
    """
    subtrees = _subtrees(spec, 0)
    taken: set[int] = set()
    pairs: list[tuple[int, int]] = []
    unmatched: list[int] = []
    for number, (group_spec, positions) in enumerate(groups):
        for subtree_spec, start in subtrees:
            span = range(start, start + len(positions))
            if (
                subtree_spec == group_spec
                and not taken.intersection(span)
                and all(
                    _same_kind(inputs[i], results[j])
                    for i, j in zip(positions, span, strict=True)
                )
            ):
                taken.update(span)
                pairs.extend(zip(positions, span, strict=True))
                break
        else:
            if positions:
                unmatched.append(number)
    # Memory that a result still shows (returned as it came, or a view) stays as it is.
    exposed = {storage_of(leaf) for leaf in results}
    written = tuple((i, j) for i, j in pairs if storage_of(inputs[i]) not in exposed)
    came = {id(inputs[i]): i for _, positions in groups for i in positions}
    sources = [came.get(id(leaf), -1) if leaf is not None else -1 for leaf in results]
    for i, j in written:
        sources[j] = i
    return Reuse(written, tuple(sources)), unmatched


def _subtrees(spec: Structure, start: int) -> list[tuple[Structure, int]]:
    """Every subtree with the position of its first leaf, outer ones first."""
    found = [(spec, start)]
    for child in spec.children():
        found.extend(_subtrees(child, start))
        start += child.num_leaves
    return found


def _same_kind(a: Any, b: Any) -> bool:
    return (
        isinstance(b, Tensor)
        and a.shape == b.shape
        and a.dtype == b.dtype
        and a.device == b.device
        and a.layout == b.layout
    )


def not_alone(leaves: Sequence[Any], donated: Sequence[int]) -> list[int]:
    """The donated leaves whose memory something else can see, or a graph records."""
    # Two holders of a storage are its tensor and the object made here to ask. What is
    # not resizable belongs to somebody else: a NumPy array, a file, another process.
    holders = torch._C._storage_Use_Count
    return [
        i
        for i in donated
        if (leaf := leaves[i]) is not None
        and (
            leaf.requires_grad
            or holders((storage := leaf.untyped_storage())._cdata) > 2
            or not storage.resizable()
        )
    ]


def check_distinct(
    name: str, leaves: Sequence[Any], donated: Sequence[int], path: Any
) -> None:
    """Refuses a donated tensor that is also another argument.

    Raises:
        ValueError: one tensor stands at two places, one of them donated.
    """
    if len(set(map(id, leaves))) == len(leaves):
        return
    for i in donated:
        for j, other in enumerate(leaves):
            if j != i and other is leaves[i] and other is not None:
                raise ValueError(
                    f"jit: {name}: {path(i)} and {path(j)} are one tensor: expected a "
                    f"donated tensor at one place only, got {kind_of(other)} twice. "
                    "Pass a tree.copy of one of them."
                )


def write(old: Tensor, new: Tensor) -> None:
    """Writes the new value into the old one's memory, in a traced function."""
    if old.ndim == 0 and old.dtype == torch.float64:
        # AOTAutograd drops a copy_ into a 0-d float64 input on the CPU (torch 2.13).
        old, new = old.view(1), new.view(1)
    old.copy_(new)
