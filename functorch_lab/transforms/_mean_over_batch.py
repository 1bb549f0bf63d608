# SPDX-License-Identifier: Apache-2.0
"""The loss of one sample as the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._flat import (
    kind_of,
    leaves,
    map_tensors,
    name_of,
    require_callable,
    wraps,
)
from functorch_lab.transforms._grad import split_aux
from functorch_lab.transforms._vmap import vmap


def mean_over_batch(
    loss_fn: Callable[..., Any], *, has_aux: bool = False
) -> Callable[..., Any]:
    """The batch loss of a sample loss: its mean, by `vmap` over all but `params`.

    Args:
        loss_fn: `loss_fn(params, *sample)`, or `loss_fn(params, *sample, key=key)`
            where it draws random numbers; returns a 0-d tensor.
        has_aux: `loss_fn` returns `(loss, aux)`.

    Returns:
        The function `batch_loss(params, *batch, key=None, mask=None)`.
        It returns the mean over the samples, a 0-d tensor; with `has_aux` it returns
        `(mean, aux)`, where each leaf of aux has a leading sample axis. A key is split,
        so that each sample has one of its own. A mask, bool of shape (batch,), is True
        for the samples that count: the others change neither the mean nor its gradient,
        whatever is in them, and have zeros in aux. The mean of no samples is 0, and so
        is its gradient if those of the samples are finite.

    Raises:
        ValueError: no batch was passed, its leaves differ in their leading axis, it is
            empty, `loss_fn` returns something else than one number per sample, or
            there is not one bool of the mask for each sample.

    Example:
        >>> import torch, functorch_lab as fl
        >>> batch_loss = fl.mean_over_batch(lambda w, x: (w - x) ** 2)
        >>> batch_loss(torch.tensor(2.0), torch.tensor([3.0, 5.0]))
        tensor(5.)
        >>> mask = torch.tensor([True, False])
        >>> batch_loss(torch.tensor(2.0), torch.tensor([3.0, torch.nan]), mask=mask)
        tensor(1.)
    """
    require_callable("mean_over_batch", loss_fn)

    @wraps(loss_fn)
    def batch_loss(
        params: Any,
        *batch: Any,
        key: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        from functorch_lab import random

        size = _batch_size(loss_fn, batch)
        if mask is not None:
            _check_mask(loss_fn, mask, size)
            batch = _filled(batch, mask)
        keys = {} if key is None else {"key": random.split(key, size)}
        axes = (None, *[0] * len(batch))
        result = vmap(loss_fn, in_dims=axes)(params, *batch, **keys)
        values, aux = split_aux("mean_over_batch", loss_fn, result, has_aux)
        if not isinstance(values, Tensor) or values.shape != (size,):
            remedy = "Reduce the loss of one sample to a number."
            if isinstance(values, Tensor):
                got = tuple(values.shape[1:])
            else:
                got = f"a {type(values).__name__}"
                remedy = "Set has_aux=True if it returns (loss, aux)."
            raise ValueError(
                f"mean_over_batch: {name_of(loss_fn)}: expected a 0-d loss for each "
                f"sample, got {got}. {remedy}"
            )
        if mask is None:
            mean = values.mean()
        else:
            wide = torch.promote_types(values.dtype, torch.float32)
            total = torch.where(mask, values, 0).sum(dtype=wide)
            mean = (total / mask.sum().clamp(min=1)).to(values.dtype)
            aux = map_tensors(lambda leaf: torch.where(_like(mask, leaf), leaf, 0), aux)
        return (mean, aux) if has_aux else mean

    return batch_loss


def _filled(batch: Any, mask: Tensor) -> Any:
    # Samples that don't count become copies of the first that does, before the loss
    # sees them: if it were infinite there, so would be its derivative, and zero times
    # that is no zero.
    first = mask.to(torch.uint8).argmax().reshape(1)

    def fill(leaf: Tensor) -> Tensor:
        return torch.where(_like(mask, leaf), leaf, leaf.index_select(0, first))

    return map_tensors(fill, batch)


def _like(mask: Tensor, leaf: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (leaf.ndim - 1))


def _check_mask(loss_fn: Callable[..., Any], mask: object, size: int) -> None:
    is_bool = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not is_bool or mask.shape != (size,):  # pyright: ignore
        raise ValueError(
            f"mean_over_batch: {name_of(loss_fn)}: mask: expected one bool for each "
            f"sample, shape {(size,)}, got {kind_of(mask)}. True stands for a sample "
            "that counts."
        )


def _batch_size(loss_fn: Callable[..., Any], batch: tuple[Any, ...]) -> int:
    where = f"mean_over_batch: {name_of(loss_fn)}"
    found = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]
    if not found or found[0].ndim == 0:
        raise ValueError(
            f"{where}: expected batch arguments with a leading sample axis after "
            f"params, got {kind_of(found[0]) if found else 'none'}. "
            "Call it as batch_loss(params, x, y)."
        )
    if found[0].shape[0] == 0:
        raise ValueError(
            f"{where}: expected at least one sample, got an empty batch of shape "
            f"{tuple(found[0].shape)}. Check how the batches are made."
        )
    return found[0].shape[0]
