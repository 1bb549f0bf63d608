# SPDX-License-Identifier: Apache-2.0
"""Rules of the operations that take rows of a table of parameters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._frame import Frame
from functorch_lab.per_sample._tape import Build, Tape, rule_for
from functorch_lab.per_sample._uses import IndexPair


def rows(frame: Frame, padding: int | None) -> Build:
    """The use of `y = table[index]`."""

    def build(delta: Tensor, index: Tensor) -> IndexPair:
        samples = delta.shape[0]
        flat = index.reshape(samples, -1).long()
        values = delta.reshape(samples, -1, delta.shape[-1])
        if padding is not None:
            values = torch.where((flat == padding).unsqueeze(-1), 0.0, values)
        return IndexPair(flat, values, frame)

    return build


@rule_for("embedding")
def embedding(  # noqa: PLR0913  (torch's signature)
    tape: Tape,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    table = tape.find(weight)
    if table is None or max_norm is not None or scale_grad_by_freq:
        return None
    if padding_idx is not None:
        padding_idx = padding_idx % weight.shape[0]
    frame = table.view.frame((), (0,), (1,))
    output = F.embedding(input, table.parameter)
    build = rows(frame, padding_idx)
    return tape.probed(output, (input,), [(table.view.index, build)])
