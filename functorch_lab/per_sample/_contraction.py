# SPDX-License-Identifier: Apache-2.0
"""The use of a parameter in a product of two tensors, whatever axes they share.

Every axis has a label. What the parameter shares with the other tensor and with the
output numbers its matrices; what it shares with the output alone are their rows, and
the rest, which is summed, are their columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from functorch_lab.per_sample._tape import Build, Tape
from functorch_lab.per_sample._uses import DensePair

Labels = list[Hashable]


class Product(NamedTuple):
    """What the axes of `output = left * right`, summed, are called."""

    left: Labels
    right: Labels
    output: Labels


def product(
    tape: Tape,
    left: Any,
    right: Any,
    labels: Product,
    compute: Callable[[Tensor, Tensor], Tensor],
    scale: Any = 1,
    builds: Sequence[tuple[int, Build]] = (),
) -> Tensor | None:
    """The product's output, or None unless one of the two is a parameter.

    Args:
        tape: knows the parameters.
        left: the first factor.
        right: the second factor.
        labels: of their axes.
        compute: gives the output, of the factors or the parameter itself.
        scale: by which the product was multiplied in the output.
        builds: uses of other parameters, which need nothing but the gradient.
    """
    first, second = tape.find(left), tape.find(right)
    found, other = (second, left) if first is None else (first, right)
    if found is None or not isinstance(other, Tensor) or (first and second):
        return None
    if 0 in other.shape or 0 in found.parameter.shape:
        return None
    if first is None:
        output = compute(left, found.parameter)
        mine, theirs = labels.right, labels.left
    else:
        output = compute(found.parameter, right)
        mine, theirs = labels.left, labels.right
    sizes = tuple(found.parameter.shape)
    mine, theirs = _apart(mine, sizes, theirs, tuple(other.shape))
    groups = [a for a in mine if a in theirs and a in labels.output]
    rows = [a for a in mine if a not in theirs and a in labels.output]
    columns = [a for a in mine if a not in labels.output]

    def axes(chosen: Labels) -> tuple[int, ...]:
        return tuple([mine.index(a) for a in chosen])

    frame = found.view.frame(axes(groups), axes(rows), axes(columns))
    positions = [a for a in theirs if a not in mine and a in labels.output]
    spread = {a: sizes[mine.index(a)] for a in columns if a not in theirs}

    def build(delta: Tensor, x: Tensor) -> DensePair:
        left = _arranged(delta, labels.output, (groups, positions, rows), {})
        right = _arranged(x, theirs, (groups, positions, columns), spread)
        return DensePair(left if scale == 1 else left * scale, right, frame)

    return tape.probed(output, (other,), [(found.view.index, build), *builds])


def _apart(
    a: Labels, a_sizes: tuple[int, ...], b: Labels, b_sizes: tuple[int, ...]
) -> tuple[Labels, Labels]:
    """The labels, with others for axes of one index that are broadcast."""
    new_a, new_b = list(a), list(b)
    for label in a:
        if label in b:
            i, j = a.index(label), b.index(label)
            if a_sizes[i] < b_sizes[j]:
                new_a[i] = (label, "parameter")
            elif b_sizes[j] < a_sizes[i]:
                new_b[j] = (label, "other")
    return new_a, new_b


def _arranged(
    tensor: Tensor, labels: Labels, wanted: tuple[Labels, ...], spread: dict[Any, int]
) -> Tensor:
    """`(B, *wanted)`, each a single axis, from `(B, *labels)`; the rest is summed.

    Args:
        tensor: with an axis of samples before those of the labels.
        labels: of its axes.
        wanted: labels that become one axis each.
        spread: sizes of the wanted labels that the tensor does not have.
    """
    flat = [label for group in wanted for label in group]
    rest = [i + 1 for i, label in enumerate(labels) if label not in flat]
    if rest:
        tensor = tensor.sum(rest)
        labels = [label for label in labels if label in flat]
    here = [label for label in flat if label in labels]
    tensor = tensor.permute(0, *[labels.index(label) + 1 for label in here])
    for i, label in enumerate(flat):
        if label not in labels:
            tensor = tensor.unsqueeze(i + 1)
    have = dict(zip(flat, tensor.shape[1:], strict=True)) | spread
    tensor = tensor.expand(-1, *[have[label] for label in flat])
    shape = [math.prod([have[label] for label in group]) for group in wanted]
    return tensor.reshape(tensor.shape[0], *shape)
