# SPDX-License-Identifier: Apache-2.0
"""Rules of the operations that multiply by a matrix of parameters."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._frame import Frame
from functorch_lab.per_sample._tape import Build, Tape, rule_for
from functorch_lab.per_sample._uses import DensePair, Direct


def dense(frame: Frame) -> Build:
    """The use of `y = x W^T`: rows from the gradient at `y`, columns from `x`."""

    def build(delta: Tensor, x: Tensor) -> DensePair:
        samples = delta.shape[0]
        left = delta.reshape(samples, 1, -1, delta.shape[-1])
        right = x.reshape(samples, 1, -1, x.shape[-1])
        return DensePair(left, right, frame)

    return build


def summed(delta: Tensor, *_: Tensor) -> Direct:
    """The use of a bias that is added along the last axis."""
    return Direct(delta.reshape(delta.shape[0], -1, delta.shape[-1]).sum(1))


@rule_for("linear")
def linear(tape: Tape, input: Tensor, weight: Tensor, bias: Any = None) -> Any:
    matrix, vector = tape.find(weight), tape.find(bias)
    if matrix is None or tape.find(input) is not None:
        return None
    builds = [(matrix.view.index, dense(matrix.view.frame((), (0,), (1,))))]
    if vector is not None and vector.view.size == vector.view.leaf:
        builds.append((vector.view.index, summed))
        bias = vector.parameter
    return tape.probed(F.linear(input, matrix.parameter, bias), (input,), builds)
