# SPDX-License-Identifier: Apache-2.0
"""Rules of the operations that take rows of a table of parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._frame import Frame
from functorch_lab.per_sample._tape import Build, Tape, rule_for
from functorch_lab.per_sample._uses import IndexPair


def rows(shape: tuple[int, ...], axis: int, frame: Frame) -> Build:
    """The use of a table of this shape, of which `index` chose along an axis.

    The index may have any shape, which then stands in the output in place of the axis.
    """
    count = shape[axis]
    columns = math.prod(shape[:axis]) * math.prod(shape[axis + 1 :])

    def build(delta: Tensor, index: Tensor) -> IndexPair:
        samples, axes = index.shape[0], index.ndim - 1
        flat = index.reshape(samples, -1).long()
        flat = torch.where(flat < 0, flat + count, flat)
        here = tuple(range(1 + axis, 1 + axis + axes))
        values = delta.movedim(here, tuple(range(1, 1 + axes)))
        return IndexPair(flat, values.reshape(samples, flat.shape[1], columns), frame)

    return build


@rule_for("embedding", inside=True)
def embedding(
    tape: Tape,
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if input.is_floating_point():  # torch.embedding: table, index, padding, by_freq
        padding = None if padding_idx == -1 else padding_idx
        by_frequency = scale_grad_by_freq or bool(max_norm)
        return embedding(tape, weight, input, padding, scale_grad_by_freq=by_frequency)
    no_renorm("F.embedding", max_norm)
    output = _rows(tape, input, weight)
    # torch's rule for vmap leaves these options out.
    if scale_grad_by_freq:
        flat = input.reshape(-1).long()
        often = output.new_zeros(weight.shape[0])
        often = often.scatter_add(0, flat, torch.ones_like(flat, dtype=output.dtype))
        share = 1 / often[flat].reshape(*input.shape, 1)
        output = output.detach() + (output - output.detach()) * share
    if padding_idx is not None:
        is_padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
        output = torch.where(is_padding, output.detach(), output)
    return output


def _rows(tape: Tape, index: Tensor, weight: Tensor) -> Tensor:
    table = None if tape.is_inside() else tape.find(weight)
    if table is None:
        return F.embedding(index, weight)
    build = rows(tuple(weight.shape), 0, table.view.frame((), (0,), (1,)))
    output = F.embedding(index, table.parameter)
    return tape.probed(output, (index,), [(table.view.index, build)])


def no_renorm(what: str, max_norm: float | None) -> None:
    """Raises `ValueError` where a lookup writes to its table."""
    if max_norm is not None:
        raise ValueError(
            f"per_sample: {what}: max_norm: expected None, got {max_norm!r}, by which "
            "it writes to the table. Scale the rows of the table outside of the loss."
        )


@rule_for("__getitem__")
def getitem(tape: Tape, table: Tensor, index: Any) -> Tensor | None:
    """`table[index]` with integers for one axis, and all of the others."""
    if tape.find(table) is None:
        return None
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(entry is Ellipsis for entry in entries):
        at = [entry is Ellipsis for entry in entries].index(True)
        left_out = table.ndim - len(entries) + 1
        entries[at : at + 1] = [slice(None)] * left_out
    chosen = [a for a, entry in enumerate(entries) if isinstance(entry, Tensor)]
    if len(chosen) != 1 or not _is_index(entries[chosen[0]]):
        return None
    whole = [entry == slice(None) for a, entry in enumerate(entries) if a != chosen[0]]
    return _selected(tape, table, chosen[0], entries[chosen[0]]) if all(whole) else None


@rule_for("index_select")
def index_select(
    tape: Tape,
    input: Tensor,  # noqa: A002 - torch's name
    dim: int,
    index: Tensor,
) -> Tensor | None:
    if tape.find(input) is None or not _is_index(index):
        return None
    return _selected(tape, input, dim % input.ndim, index.reshape(-1))


def _is_index(value: Tensor) -> bool:
    return value.dtype in (torch.int64, torch.int32)


def _selected(tape: Tape, tensor: Tensor, axis: int, index: Tensor) -> Tensor | None:
    table = tape.find(tensor)
    if table is None:
        return None
    axes = tuple(range(tensor.ndim))
    frame = table.view.frame((), (axis,), axes[:axis] + axes[axis + 1 :])
    build = rows(tuple(tensor.shape), axis, frame)
    output = table.parameter[(*[slice(None)] * axis, index)]
    return tape.probed(output, (index,), [(table.view.index, build)])
