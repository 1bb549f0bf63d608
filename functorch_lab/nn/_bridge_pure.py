# SPDX-License-Identifier: Apache-2.0
"""Modules of torch whose forward no transform takes, and what they do instead."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from functorch_lab.nn._batch_norm import normalised
from functorch_lab.nn._batched import batch_levels


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
        if not self.training and mean is not None and var is not None:
            return super().forward(input)
        self._check_input_dim(input)
        self._check_batch(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        # As torch does, statistics of half precision are taken in float32.
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        batch_var, batch_mean = torch.var_mean(wide, axes, correction=0)
        output = normalised(
            wide,
            batch_mean,
            batch_var,
            self.weight,
            self.bias,
            eps=self.eps,
            spatial_dims=input.ndim - 2,
        ).to(input.dtype)
        if not self.track_running_stats or mean is None or var is None:
            return output
        values = input.numel() // self.num_features
        batch_mean = batch_mean.detach()
        batch_var = batch_var.detach() * (values / (values - 1))
        share: Any = self.momentum
        if count is not None:
            self.num_batches_tracked = count + 1
        if share is None:
            share = 0.0 if count is None else 1 / (count + 1).to(mean.dtype)
        self.running_mean = share * batch_mean.to(mean.dtype) + (1 - share) * mean
        self.running_var = share * batch_var.to(var.dtype) + (1 - share) * var
        return output

    def _check_batch(self, input: Tensor) -> None:  # noqa: A002
        """`input` is a batch that has statistics.

        Raises:
            ValueError: it has other channels, or one value in each; or it is one of the
                samples that `vmap` maps over.
        """
        channels, shape = self.num_features, tuple(input.shape)
        if shape[1] != channels:
            raise ValueError(
                f"nn.from_module.apply: module: expected {channels} channels at axis 1 "
                f"in {type(self).__name__}, got an input of shape {shape}. Give the "
                "norm the input that its module has for it."
            )
        if input.numel() < 2 * channels:
            raise ValueError(
                "nn.from_module.apply: module: expected more than one value per "
                f"channel in {type(self).__name__} with train=True, got an input of "
                f"shape {shape}. Give a larger batch, or use {_ALONE}"
            )
        # Dynamo cannot look; jit looks before it compiles.
        if shape[0] > 1 or torch.compiler.is_compiling():
            return
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        if not batch_levels(input) <= set().union(*map(batch_levels, own)):
            raise ValueError(
                f"nn.from_module.apply: module: expected a whole batch in "
                f"{type(self).__name__} with train=True, got one sample of a vmap, "
                f"{shape}. Call it on the batch outside of vmap, or use {_ALONE}"
            )


_ALONE = 'train=False, or from_module(module, batch_norm="frozen") or "group".'
