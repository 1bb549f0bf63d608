# SPDX-License-Identifier: Apache-2.0
"""Penalties: a tree of parameters in, a scalar out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree


def l1_penalty(params: Any) -> Tensor:
    """The sum of absolute values over all floating-point leaves of a tree.

    Integer leaves and holes are passed over. For some leaves only, `tree.partition`
    first.

    Args:
        params: a tree of tensors.

    Returns:
        A scalar tensor, 0 for a tree without floating-point leaves.

    Raises:
        TypeError: a leaf is not a tensor.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.l1_penalty({"w": torch.tensor([3.0, -4.0])})
        tensor(7.)
    """
    return _total([leaf.abs().sum() for leaf in _leaves("l1_penalty", params)])


def l2_penalty(params: Any) -> Tensor:
    """The sum of squares over all floating-point leaves of a tree, without a 1/2.

    Adding `c * l2_penalty(params)` to a loss is `weight_decay=2 * c` in plain SGD.
    Arguments, result and errors are those of `l1_penalty`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.l2_penalty({"w": torch.tensor([3.0, -4.0])})
        tensor(25.)
    """
    return _total([leaf.square().sum() for leaf in _leaves("l2_penalty", params)])


def _leaves(function: str, params: Any) -> list[Tensor]:
    leaves = tree.leaves(params)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"losses.{function}: params: expected a tree of tensors, got a leaf "
                f"of type {type(leaf).__name__}. Convert it with torch.as_tensor."
            )
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def _total(terms: list[Tensor]) -> Tensor:
    if not terms:
        return torch.zeros(())
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
