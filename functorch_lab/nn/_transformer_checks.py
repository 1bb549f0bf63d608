# SPDX-License-Identifier: Apache-2.0
"""What transformers ask of their configuration, their params and their input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.nn._transformer_cache import KVCache


def check_tokens(function: str, tokens: object, max_length: int) -> None:
    """Tokens are integers `(..., T)`, with T from 1 to `max_length`.

    Raises:
        TypeError: they are no integers.
        ValueError: they have another shape.
    """
    kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
    if (
        not isinstance(tokens, Tensor)
        or tokens.is_floating_point()
        or tokens.is_complex()
        or tokens.dtype == torch.bool
    ):
        raise TypeError(
            f"nn.{function}: tokens: expected a tensor of integers, got {kind}. "
            "Convert with torch.as_tensor or tokens.long()."
        )
    if tokens.ndim == 0 or not 1 <= tokens.shape[-1] <= max_length:
        raise ValueError(
            f"nn.{function}: tokens: expected shape (..., T) with T from 1 to "
            f"max_length={max_length}, got {tuple(tokens.shape)}. Cut the sequence, or "
            "make a longer model."
        )


def needed_key(
    function: str, dropout: float, key: Tensor | None, train: bool
) -> Tensor | None:
    """The key if dropout will use it.

    Raises:
        ValueError: it is missing.
    """
    if not train or dropout == 0:
        return None
    if key is None:
        raise ValueError(
            f"nn.{function}: key: expected a key with train=True and dropout="
            f"{dropout}, got None. Pass key= to apply, a new one for each step, from "
            "fl.random.split."
        )
    return key


def check_names(function: str, what: str, given: Any, expected: Any) -> None:
    """A dict with these names.

    Raises:
        ValueError: it is no such dict.
    """
    if not isinstance(given, dict) or given.keys() != expected.keys():
        got = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(
            f"nn.{function}: {what}: expected a dict with {sorted(expected)}, got "
            f"{got}. Pass the params that this layer's init made."
        )


def check_divides(of: str, name: str, value: int, whole: str, size: int) -> None:
    """`value` is at least 1 and divides the whole.

    Raises:
        ValueError: it does not.
    """
    _checks.size(of, name, value)
    if size % value:
        raise ValueError(
            f"nn.{of}: {name}: expected a divisor of {whole}={size}, got {value}. "
            "Heads share the features evenly."
        )


def check_mask(function: str, mask: object, like: Tensor) -> None:
    """A mask, if there is one, is bool and has the shape of `like`.

    Raises:
        TypeError: it is not bool, or on another device.
        ValueError: it has another shape.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"nn.{function}: mask: expected a bool tensor, True at what is real, got "
            f"{got}. Convert with mask.bool()."
        )
    if mask.shape != like.shape:
        raise ValueError(
            f"nn.{function}: mask: expected shape {tuple(like.shape)}, one for each "
            f"position, got {tuple(mask.shape)}. Which position may look at which is "
            "the layer's own matter."
        )
    if mask.device != like.device:
        raise TypeError(
            f"nn.{function}: mask: expected device {like.device}, as the input's, got "
            f"{mask.device}. Move it with .to(device)."
        )


def check_blocks(function: str, given: Any, number: int) -> None:
    """The params of that many layers.

    Raises:
        ValueError: there is another number.
    """
    if not isinstance(given, tuple | list) or len(given) != number:
        length = len(given) if hasattr(given, "__len__") else 1
        raise ValueError(
            f"nn.{function}: params['blocks']: expected a tuple of {number}, got "
            f"{type(given).__name__} of length {length}. Pass the params that this "
            "layer's init made."
        )


def check_cache(
    cache: Any, tokens: Tensor, num_layers: int, heads: tuple[int, int], dtype: Any
) -> None:
    """A cache for these tokens, of a model with these heads and their features.

    Raises:
        TypeError: it is no cache, or of another dtype.
        ValueError: it is of another model or of another batch.
    """
    if not isinstance(cache, KVCache):
        raise TypeError(
            "nn.transformer: cache: expected a KVCache, got "
            f"{type(cache).__name__}. Begin with init_cache."
        )
    batch, length = cache.mask.shape[:-1], cache.mask.shape[-1]
    if len(cache.keys) != num_layers or batch != tokens.shape[:-1]:
        raise ValueError(
            f"nn.transformer: cache: expected one of {num_layers} layers for sequences "
            f"of shape {tuple(tokens.shape[:-1])}, got {len(cache.keys)} layers and "
            f"{tuple(batch)}. Begin with init_cache(params, batch_shape)."
        )
    shape = *batch, heads[0], length, heads[1]
    for kept in (*cache.keys, *cache.values):
        if kept.shape != shape:
            raise ValueError(
                f"nn.transformer: cache: expected keys and values of shape {shape}, "
                f"got {tuple(kept.shape)}. Begin with init_cache of the same model."
            )
        if kept.dtype != dtype:
            raise TypeError(
                f"nn.transformer: cache: expected {dtype}, as the params have, got "
                f"{kept.dtype}. Begin with init_cache(params)."
            )
    if tokens.shape[-1] > length:
        raise ValueError(
            f"nn.transformer: tokens: expected at most the cache's {length} slots, got "
            f"shape {tuple(tokens.shape)}. Make a longer cache."
        )
