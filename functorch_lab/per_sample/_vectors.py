# SPDX-License-Identifier: Apache-2.0
"""Rules of operations with vectors of parameters that torch's vmap does not get right.

A vector's gradient is no larger than its factors would be, so that it goes through the
stand-in: torch computes a norm without its weight and multiplies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._tape import Tape, rule_for


@rule_for("group_norm", inside=True)
def group_norm(
    tape: Tape,
    input: Tensor,  # noqa: A002 - torch's name
    num_groups: int,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """The kernel wants the batch in one piece, and vmap looks at one sample alone."""
    if "cudnn_enabled" in kwargs or len(args) > 3:  # torch.group_norm
        kwargs.pop("cudnn_enabled", None)
        args = args[:3]
    whole = input.clone(memory_format=torch.contiguous_format)
    return F.group_norm(whole, num_groups, *args, **kwargs)


@rule_for("_weight_norm", inside=True)
def weight_norm(tape: Tape, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Written out: torch's one operation is run sample after sample."""
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
