# SPDX-License-Identifier: Apache-2.0
"""Modules of torch whose forward no transform takes, and what they do instead."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def make_pure(part: nn.Module) -> None:
    """Changes a module of a private copy, without its submodules."""
    if type(part).forward is _BatchNorm.forward:
        part.__class__ = _pure_class(type(part))
    # The fused evaluation path does not compile, and pads with nested tensors. Under
    # the mode torch does not take it, but Dynamo does.
    if isinstance(part, nn.TransformerEncoderLayer):
        part.activation_relu_or_gelu = 0
    if isinstance(part, nn.TransformerEncoder):
        part.use_nested_tensor = False
        part.enable_nested_tensor = False


@cache
def _pure_class(of: type) -> type:
    return type(of.__name__, (_PureBatchNorm, of), {})


class _PureBatchNorm(_BatchNorm):
    """Batch norm that replaces its statistics instead of writing to them.

    In place, a batch under vmap could not be written to statistics without one.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        mean, var = self.running_mean, self.running_var
        count = self.num_batches_tracked
        if not self.training or mean is None or var is None:
            return super().forward(input)
        self._check_input_dim(input)
        output = F.batch_norm(
            input, None, None, self.weight, self.bias, True, 0.0, self.eps
        )
        if not self.track_running_stats:
            return output
        axes = [axis for axis in range(input.ndim) if axis != 1]
        batch_var, batch_mean = torch.var_mean(input.detach(), axes)
        share: Any = self.momentum
        if count is not None:
            self.num_batches_tracked = count + 1
        if share is None:
            share = 0.0 if count is None else 1 / (count + 1).to(mean.dtype)
        self.running_mean = share * batch_mean.to(mean.dtype) + (1 - share) * mean
        self.running_var = share * batch_var.to(var.dtype) + (1 - share) * var
        return output
