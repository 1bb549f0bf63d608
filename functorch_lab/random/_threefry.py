# SPDX-License-Identifier: Apache-2.0
"""Threefry-2x32 in plain int32 operations: the one source of random bits.

John K. Salmon, Mark A. Moraes, Ron O. Dror and David E. Shaw, Parallel Random
Numbers: As Easy as 1, 2, 3, SC 2011, section 3.3: 20 rounds, rotations of table 2.

int32 additions wrap, as unsigned ones do, and a logical shift is an arithmetic one
and a mask. So every device can run it (MPS has no unsigned 32-bit type), and it is
four times as fast as the same in masked int64.
"""

import torch
from torch import Tensor

from functorch_lab.random._arguments import size

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # SC 2011, section 3.3: keeps the key schedule from being zero


def _rotate_left(x: Tensor, r: int) -> Tensor:
    return (x << r) | ((x >> (32 - r)) & ((1 << r) - 1))


def threefry2x32(
    key: Tensor, high: Tensor | int, low: Tensor | int
) -> tuple[Tensor, Tensor]:
    """The two output words for the counter (high, low), int32 as the key."""
    k0, k1 = key[0], key[1]
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = k0 + high, k1 + low
    for group in range(5):
        for r in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ _rotate_left(x1, r)
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + (schedule[(group + 2) % 3] + (group + 1))
    return x0, x1


def split_counter(counter: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of int64 counters, each as int32."""
    return (counter >> 32).to(torch.int32), counter.to(torch.int32)


def words(key: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Both words for each element of `shape`, whose counter is its flat index.

    This is the counter of ``jax_threefry_partitionable=True``: an element's bits
    depend on the key and its own index alone.
    """
    n = size(shape)
    if n <= 2**31:
        counter = torch.arange(n, dtype=torch.int32, device=key.device)
        x0, x1 = threefry2x32(key, 0, counter)
    else:
        counter = torch.arange(n, dtype=torch.int64, device=key.device)
        x0, x1 = threefry2x32(key, *split_counter(counter))
    return x0.reshape(shape), x1.reshape(shape)


def bits32(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """32 random bits per element, as int32."""
    x0, x1 = words(key, shape)
    return x0 ^ x1


def bits64(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits per element, as int64; for float64 and wide integers only."""
    x0, x1 = words(key, shape)
    return (x0.to(torch.int64) << 32) | (x1.to(torch.int64) & 0xFFFFFFFF)
