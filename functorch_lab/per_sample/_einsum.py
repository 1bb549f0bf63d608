# SPDX-License-Identifier: Apache-2.0
"""Rules of the products that name the axes they sum over."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._contraction import Labels, Product, product
from functorch_lab.per_sample._linear import bias_uses
from functorch_lab.per_sample._tape import Tape, rule_for
from functorch_lab.per_sample._uses import DensePair


@rule_for("einsum")
def einsum(tape: Tape, equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    labels = _parsed(equation, [operand.ndim for operand in operands])
    if labels is None:
        return None

    def compute(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum(equation, left, right)

    return product(tape, *operands, labels, compute)


def _parsed(equation: str, ndims: list[int]) -> Product | None:
    """The labels of two operands and their product; None if a diagonal is taken."""
    sides = equation.replace(" ", "").split("->")
    texts = sides[0].split(",")
    if len(texts) != 2 or len(sides) > 2:
        return None
    ahead = []
    for text, ndim in zip(texts, ndims, strict=True):
        ahead.append(ndim - len(text.replace("...", "")))
        if ahead[-1] < 0 or (ahead[-1] and "..." not in text):
            return None
    if len(sides) == 2:
        result = sides[1]
    else:
        letters = "".join(texts).replace("...", "")
        result = "..." if "..." in sides[0] else ""
        result += "".join([c for c in sorted(letters) if letters.count(c) == 1])
    left, right = _labels(texts[0], ahead[0]), _labels(texts[1], ahead[1])
    output = _labels(result, max(ahead))
    if left is None or right is None or output is None:
        return None
    return Product(left, right, output)


def _labels(text: str, ahead: int) -> Labels | None:
    """One label for each axis: letters, and numbers from behind for an ellipsis."""
    before, dots, after = text.partition("...")
    letters = before + after
    if len(set(letters)) < len(letters):
        return None
    axes: Labels = [*range(-ahead, 0)] if dots else []
    return [*before, *axes, *after]


@rule_for("bilinear")
def bilinear(
    tape: Tape, input1: Tensor, input2: Tensor, weight: Tensor, bias: Any = None
) -> Any:
    found = tape.find(weight)
    if found is None or tape.find(input1) or tape.find(input2):
        return None
    if 0 in input1.shape or 0 in weight.shape:
        return None
    if not input1.dtype == input2.dtype == weight.dtype:
        return None
    frame = found.view.frame((), (0,), (1, 2))
    term, builds = bias_uses(tape, bias)

    def build(delta: Tensor, x: Tensor) -> DensePair:
        samples = delta.shape[0]
        right = x.reshape(samples, 1, -1, x.shape[-1])
        return DensePair(delta.reshape(samples, 1, -1, delta.shape[-1]), right, frame)

    # torch's own runs sample after sample under vmap; autocast leaves it alone.
    x = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
    with torch.autocast(x.device.type, enabled=False):
        output = F.linear(x, found.parameter.flatten(1), term)
    return tape.probed(output, (x,), [(found.view.index, build), *builds])
