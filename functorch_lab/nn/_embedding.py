# SPDX-License-Identifier: Apache-2.0
"""A table of vectors, looked up by integers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _checks, init
from functorch_lab.types import Layer


def embedding(
    num_embeddings: int,
    embedding_dim: int,
    *,
    padding_idx: int | None = None,
    weight_init: init.Initializer | None = None,
) -> Layer:
    """`weight[x]`: from integers `(...)` to vectors `(..., embedding_dim)`.

    Args:
        num_embeddings: the number of vectors; the integers are from 0 to below it.
        embedding_dim: the length of a vector.
        padding_idx: the integer that stands for padding, counted from the end if it is
            negative: its vector is zero at first, and no derivative reaches it.
        weight_init: an initializer for the weight; by default torch's, normal with mean
            0 and standard deviation 1.

    Returns:
        A layer.
        Its params are "weight", of shape `(num_embeddings, embedding_dim)`. Its `apply`
        takes integers of any shape and raises `ValueError` for params of other shapes,
        and `TypeError` for an input that is not of an integer dtype or is on another
        device. Integers outside the table raise `IndexError` on CPU and are undefined
        elsewhere and under `jit`, as a check would have to wait for the device.

    Raises:
        ValueError: a size below 1, or `padding_idx` outside the table.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.embedding(3, 2)
        >>> table = torch.tensor([[2.0, 3.0], [5.0, 7.0], [11.0, 13.0]])
        >>> layer.apply({"weight": table}, torch.tensor([2, 0]))
        tensor([[11., 13.],
                [ 2.,  3.]])
    """
    _checks.size("embedding", "num_embeddings", num_embeddings)
    _checks.size("embedding", "embedding_dim", embedding_dim)
    shape = (num_embeddings, embedding_dim)
    padding = _padding(padding_idx, num_embeddings)

    def init_(key: Tensor) -> dict[str, Tensor]:
        weight = (weight_init or init.normal())(key, shape)
        if padding is not None:
            row = torch.arange(num_embeddings, device=weight.device) == padding
            weight = torch.where(row[:, None], 0.0, weight)
        return {"weight": weight}

    def apply(
        params: Any, x: Tensor, *, key: Tensor | None = None, train: bool = False
    ) -> Tensor:
        (weight,) = _checks.params("embedding", params, {"weight": shape})
        _check_integers(x, weight)
        indices = x if x.dtype in {torch.int32, torch.int64} else x.long()
        vectors = _rows(weight, indices)
        if padding is None:
            return vectors
        # Not F.embedding's own padding_idx, of which forward derivatives know nothing.
        is_padding = (indices == padding).unsqueeze(-1)
        return torch.where(is_padding, vectors.detach(), vectors)

    return Layer(init_, apply)


def _rows(weight: Tensor, indices: Tensor) -> Tensor:
    """The rows of a table.

    Raises:
        IndexError: there is no such row, where torch can tell.
    """
    try:
        return F.embedding(indices, weight)
    except IndexError:
        raise IndexError(
            f"nn.embedding: x: expected integers from 0 to {len(weight) - 1}, got some "
            "outside. Make the table larger, or look at x.min() and x.max()."
        ) from None


def _padding(index: int | None, number: int) -> int | None:
    """The row of padding, counted from the start.

    Raises:
        ValueError: it is outside the table.
    """
    if index is None:
        return None
    if not -number <= _checks.size("embedding", "padding_idx", index, -number) < number:
        raise ValueError(
            f"nn.embedding: padding_idx: expected below num_embeddings={number}, got "
            f"{index}. Choose one of the table's rows."
        )
    return index % number


def _check_integers(x: Tensor, weight: Tensor) -> None:
    """`x` has an integer dtype and the device of the weight.

    Raises:
        TypeError: it has not.
    """
    kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
    if (
        not isinstance(x, Tensor)
        or x.is_floating_point()
        or x.is_complex()
        or x.dtype == torch.bool
    ):
        raise TypeError(
            f"nn.embedding: x: expected a tensor of integers, got {kind}. Convert with "
            "torch.as_tensor or x.long()."
        )
    if x.device != weight.device:
        raise TypeError(
            f"nn.embedding: x: expected device {weight.device}, as the params have, "
            f"got {x.device}. Move one of them with .to(device)."
        )
