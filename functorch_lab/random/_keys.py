# SPDX-License-Identifier: Apache-2.0
"""Making keys and deriving new ones."""

import operator
from typing import Any

import torch
from torch import Tensor

from functorch_lab.random._arguments import Shape, describe, require_key, require_shape
from functorch_lab.random._threefry import bits32, split_counter, threefry2x32, words


def key(seed: int | Tensor, device: str | torch.device | None = None) -> Tensor:
    """A key from a seed: the start of all random numbers of a program.

    Seeds from -2**31 to 2**32 - 1 give the key of ``jax.random.key`` in its default
    mode. Seeds beyond these keep all their 64 bits, as JAX does with x64 enabled
    (its default mode drops the upper 32, so that 0 and 2**32 would be one seed).

    Args:
        seed: a Python int or a 0-d integer tensor, within the range of int64.
        device: where the key lives, and with it everything drawn from it; by default
            the seed's device, or torch's default device.

    Returns:
        An int32 tensor of shape (2,). Treat it as opaque.

    Raises:
        TypeError: if the seed is not an integer.
        ValueError: if it exceeds 64 bits or has a shape, or if there is no such device.

    Example:
        >>> from functorch_lab import random
        >>> random.key(42).tolist()
        [0, 42]
    """
    where = _require_device(device)
    if isinstance(seed, Tensor):
        if seed.is_floating_point() or seed.is_complex() or seed.dtype == torch.bool:
            raise TypeError(
                f"random.key: seed: expected an integer, got {describe(seed)}. "
                "Convert it with .to(torch.int64)."
            )
        if seed.ndim:
            raise ValueError(
                f"random.key: seed: expected a 0-d tensor, got {describe(seed)}. "
                "Map over a batch of seeds with vmap."
            )
        value = seed.to(device=where, dtype=torch.int64)
    else:
        value = torch.full((), _as_int64(seed), dtype=torch.int64, device=where)
    high, low = split_counter(value)
    small = (value >= -(2**31)) & (value < 2**32)
    return torch.stack((torch.where(small, 0, high), low))


def split(key: Tensor, n: Shape = 2) -> Tensor:
    """New keys from one, independent of each other; do not use `key` again.

    Args:
        key: a key.
        n: how many, or the shape of the array of keys.

    Returns:
        int32 of shape (n, 2), or `(*n, 2)` for a tuple. They are the keys of
        ``jax.random.split``.

    Raises:
        TypeError: if `key` is not a key or `n` not an int or a tuple of ints.
        ValueError: if `key` has another shape, or a size is negative.

    Example:
        >>> from functorch_lab import random
        >>> random.split(random.key(0)).tolist()
        [[1797259609, -1715843330], [928981903, -841280227]]
    """
    require_key("split", key)
    return torch.stack(words(key, require_shape("split", n, "n")), dim=-1)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """A new key from a key and a number, such as a step or a layer's index.

    Args:
        key: a key.
        data: an int from 0 to 2**32 - 1, or a 0-d integer tensor, of which the lower
            32 bits count.

    Returns:
        A key, that of ``jax.random.fold_in``.

    Raises:
        TypeError: if `data` is not an integer, or `key` not a key.
        ValueError: if `data` is out of range or has a shape, or `key` another shape.

    Example:
        >>> from functorch_lab import random
        >>> random.fold_in(random.key(0), 7).tolist()
        [-1578141107, 292468403]
    """
    require_key("fold_in", key)
    if isinstance(data, Tensor):
        if data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            raise TypeError(
                f"random.fold_in: data: expected an integer, got {describe(data)}. "
                "Convert it with .to(torch.int64)."
            )
        if data.ndim:
            raise ValueError(
                f"random.fold_in: data: expected a 0-d tensor, got {describe(data)}. "
                "Map over a batch with vmap, or use split."
            )
        _, low = split_counter(data.to(device=key.device, dtype=torch.int64))
    else:
        number = _as_index("fold_in", "data", data)
        if not 0 <= number < 2**32:
            raise ValueError(
                "random.fold_in: data: expected an int from 0 to 2**32 - 1, "
                f"got {number}. Fold in larger numbers in two parts."
            )
        low = number if number < 2**31 else number - 2**32
    return torch.stack(threefry2x32(key, 0, low))


def bits(key: Tensor, shape: Shape = ()) -> Tensor:
    """Random bits, 32 per element.

    Args:
        key: a key.
        shape: shape of the result.

    Returns:
        int32 of shape `shape`: the bits of ``jax.random.bits`` in 32-bit mode, which
        reads them as unsigned.

    Raises:
        TypeError: if `key` is not a key or `shape` not a shape.
        ValueError: if `key` has another shape, or a size is negative.

    Example:
        >>> from functorch_lab import random
        >>> random.bits(random.key(0), (2,)).tolist()
        [-224768089, -91998574]
    """
    require_key("bits", key)
    return bits32(key, require_shape("bits", shape))


def _as_index(name: str, argument: str, value: Any) -> int:
    """`value` as an int; raise if it is a float or no number at all."""
    if isinstance(value, torch.SymInt):
        return value  # pyright: ignore[reportReturnType]
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"random.{name}: {argument}: expected an integer, got {describe(value)}. "
            "Pass a Python int or a 0-d integer tensor."
        ) from None


def _as_int64(seed: Any) -> int:
    """`seed` as an int within int64."""
    number = _as_index("key", "seed", seed)
    if not -(2**63) <= number < 2**63:
        raise ValueError(
            f"random.key: seed: expected an int of at most 64 bits, got {number}. "
            "Reduce it with seed % 2**63."
        )
    return number


def _require_device(device: Any) -> torch.device | None:
    """`device` as a torch.device; raise if this machine does not have it."""
    if device is None or torch.compiler.is_dynamo_compiling():
        return device
    available = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        available += [f"{kind}:{i}" for i in range(torch.accelerator.device_count())]
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is not None and (
        found.type in ("cpu", "meta")
        or (found.index is None and f"{found.type}:0" in available)
        or str(found) in available
    ):
        return found
    raise ValueError(
        f"random.key: device: expected one of {', '.join(available)}, got {device!r}. "
        "Choose one of these."
    )
