# SPDX-License-Identifier: Apache-2.0
"""A batch in parts, and the whole batch's result from theirs."""

from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree

_WHERE = "train.make_step"


def check_mask(batch: tuple[Any, ...]) -> None:
    """Refuses a batch without a mask after the arguments of the loss."""
    *arguments, mask = batch or (None,)
    found = tree.leaves(arguments)
    size = found[0].shape[:1] if found and isinstance(found[0], Tensor) else ()
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != size:
        got = type(mask).__name__
        if isinstance(mask, Tensor):
            got = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(
            f"{_WHERE}: batch: expected a mask as its last element, bools of shape "
            f"{tuple(size) or '(batch,)'}, got {got}. Make the batches by data.batches "
            "or data.from_dataloader with masked=True, or leave it out here."
        )


def cut(batch: Any, parts: int) -> list[Any]:
    """Equal parts of a batch, one after the other."""
    if parts == 1:
        return [batch]
    for path, leaf in zip(tree.paths(batch), tree.leaves(batch), strict=True):
        if leaf.ndim == 0 or leaf.shape[0] % parts:
            raise ValueError(
                f"{_WHERE}: batch at {path}: expected a leading axis divisible by "
                f"accumulate = {parts}, got shape {tuple(leaf.shape)}. Change the "
                "batch size."
            )

    def piece(leaf: Tensor, i: int) -> Tensor:
        size = leaf.shape[0] // parts
        return leaf[i * size : (i + 1) * size]

    return [tree.map(lambda leaf, i=i: piece(leaf, i), batch) for i in range(parts)]


def average(parts: list[Any], counts: list[Tensor]) -> Any:
    """(loss, grads, aux) of the whole batch from those of its parts.

    `counts` are the parts' numbers of samples where there are masks, otherwise empty:
    all parts are alike then. A part without samples has no part in the result.
    """
    if len(parts) > 1:
        _check_aux(parts[0][2])
    if not counts:
        return parts[0] if len(parts) == 1 else tree.map(_mean, *parts)
    if len(parts) == 1:
        loss, grads, aux = parts[0]
        some = counts[0] > 0
        return *tree.map(lambda leaf: _only(some, leaf), (loss, grads)), aux
    total = torch.stack(counts).sum().clamp(min=1)

    def weighted(*leaves: Tensor) -> Tensor:
        result = torch.zeros_like(leaves[0])
        for leaf, count in zip(leaves, counts, strict=True):
            share = leaf
            if leaf.is_floating_point():
                wide = torch.promote_types(leaf.dtype, torch.float32)
                share = (leaf * (count.to(wide) / total)).to(leaf.dtype)
            result = result + _only(count > 0, share)
        return result

    return tree.map(weighted, *parts)


def _only(some: Tensor, leaf: Tensor) -> Tensor:
    # Not a product: what is not finite would stay.
    return torch.where(some, leaf, torch.zeros_like(leaf))


def _mean(*leaves: Tensor) -> Tensor:
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total + leaf
    return total / len(leaves) if total.is_floating_point() else total


def _check_aux(aux: Any) -> None:
    for path, leaf in zip(tree.paths(aux), tree.leaves(aux), strict=True):
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{_WHERE}: aux{path}: expected a tensor when accumulating, got "
                f"{leaf!r}. Convert it with torch.as_tensor."
            )
        if leaf.ndim:
            raise ValueError(
                f"{_WHERE}: aux{path}: expected a scalar when accumulating, got "
                f"shape {tuple(leaf.shape)}. Reduce it over the batch in the loss."
            )
