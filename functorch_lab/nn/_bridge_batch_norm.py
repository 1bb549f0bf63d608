# SPDX-License-Identifier: Apache-2.0
"""Modules whose batch norms treat every sample alone: frozen, or as group norms."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from functorch_lab.nn._batch_norm import normalised
from functorch_lab.nn._norm_groups import groups_for

_CHOICES = ("batch", "frozen", "group")


def converted(module: nn.Module, choice: str | int) -> nn.Module:
    """The module with other norms, on the same parameters; itself if nothing changes.

    Args:
        module: stays as it is.
        choice: "batch", "frozen", "group", or a number of groups.

    Raises:
        TypeError: `choice` is of another kind; a norm has a forward of its own; or the
            module cannot be copied.
        ValueError: another name; groups that do not divide the channels; or a norm to
            freeze that has no statistics.
    """
    _check_choice(choice)
    if choice == "batch":
        return module
    replaced = {
        id(part): _frozen(name, part)
        if choice == "frozen"
        else _grouped(name, part, choice)
        for name, part in module.named_modules()
        if _is_converted(part, choice)
    }
    if not replaced:
        return module
    # deepcopy takes what the memo has for an object, here all tensors as they are.
    own = [*module.parameters(), *module.buffers()]
    for part in module.modules():
        own += [value for value in vars(part).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in own} | replaced
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise TypeError(
            f"nn.from_module: module: expected one that copy.deepcopy takes, got "
            f"{type(module).__name__}: {error} Give what it holds a __deepcopy__."
        ) from error


def _check_choice(choice: object) -> None:
    expected = (
        f"nn.from_module: batch_norm: expected one of {_CHOICES} or a number of groups,"
        f" got {choice!r}."
    )
    remedy = ' Use "frozen" to keep the statistics, or "group" for no statistics.'
    if isinstance(choice, bool) or not isinstance(choice, str | int):
        raise TypeError(expected + remedy)
    if choice not in _CHOICES if isinstance(choice, str) else choice < 1:
        raise ValueError(expected + remedy)


def _is_converted(part: nn.Module, choice: str | int) -> bool:
    """Batch norms are; instance norms have something to freeze only with statistics."""
    if isinstance(part, _BatchNorm):
        return True
    tracks = isinstance(part, _NormBase) and part.track_running_stats
    return choice == "frozen" and tracks


def _frozen(name: str, part: Any) -> nn.Module:
    if part.running_mean is None:
        raise ValueError(
            f"nn.from_module: batch_norm: expected statistics to freeze, got none in "
            f'{name!r} (track_running_stats=False). Use batch_norm="group".'
        )
    return _of_class(name, part, _Frozen)


def _grouped(name: str, part: Any, choice: str | int) -> nn.Module:
    channels = part.num_features
    groups = groups_for(channels) if isinstance(choice, str) else choice
    if channels % groups:
        raise ValueError(
            f"nn.from_module: batch_norm: expected a divisor of {channels}, the "
            f'channels of {name!r}, got {groups}. Use another number, or "group".'
        )
    grouped = _of_class(name, part, _Grouped)
    vars(grouped).update(num_groups=groups, _buffers=dict.fromkeys(part._buffers))
    return grouped


_KNOWN = (_BatchNorm.forward, nn.SyncBatchNorm.forward, _InstanceNorm.forward)


def _of_class(name: str, part: nn.Module, forward: type) -> nn.Module:
    """A norm with the tensors, hooks and parametrizations of `part`.

    Raises:
        TypeError: what it computes is not what torch.nn's norm of its kind does.
    """
    if type(part).forward not in _KNOWN:
        raise TypeError(
            f"nn.from_module: batch_norm: expected batch norms of torch.nn, got "
            f"{name!r} of class {type(part).__name__}, with a forward of its own. "
            "Replace it in the module before."
        )
    other = object.__new__(_class(type(part), forward))
    # Without running statistics, for torch: they are no state of the layer.
    vars(other).update(vars(part), track_running_stats=False)
    return other


@cache
def _class(of: type, forward: type) -> type:
    return type(of.__name__, (forward, of), {})


class _Frozen(_NormBase):
    """Normalises with its buffers, in training too."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        self._check_input_dim(input)
        axis = 1
        if isinstance(self, _InstanceNorm):
            axis = int(input.dim() != self._get_no_batch_dim())
        if input.shape[axis] != self.num_features:
            raise ValueError(
                f"nn.from_module: batch_norm: expected {self.num_features} channels at "
                f"axis {axis}, got an input of shape {tuple(input.shape)}. Give the "
                "norm the input that its module has for it."
            )
        mean: Any = self.running_mean
        var: Any = self.running_var
        # Half precision is widened, as in F.batch_norm.
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        rank = input.dim() - axis - 1
        y = normalised(
            wide, mean, var, self.weight, self.bias, eps=self.eps, spatial_dims=rank
        )
        return y.to(input.dtype)


class _Grouped(_NormBase):
    """Normalises groups of channels of each sample."""

    num_groups: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        self._check_input_dim(input)
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
