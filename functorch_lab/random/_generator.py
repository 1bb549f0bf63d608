# SPDX-License-Identifier: Apache-2.0
"""From a key to torch's own generators."""

import torch
from torch import Tensor

from functorch_lab.random._arguments import require_key
from functorch_lab.random._keys import bits


def generator(key: Tensor) -> torch.Generator:
    """A generator of torch's own numbers, seeded from a key, for torch code.

    Such as the order of a `torch.utils.data.DataLoader`. The seed is the 64 bits of
    `bits(key, (2,))`, of which torch's CPU generator takes the lower 32. What is drawn
    depends on the version of torch, unlike what this namespace draws.

    Args:
        key: a key; its values are waited for.

    Returns:
        A new generator on the CPU.

    Raises:
        TypeError: if `key` is not a key.
        ValueError: if `key` has another shape.

    Example:
        >>> import torch
        >>> from functorch_lab import random
        >>> first = torch.randperm(5, generator=random.generator(random.key(0)))
        >>> again = torch.randperm(5, generator=random.generator(random.key(0)))
        >>> torch.equal(first, again)
        True
    """
    require_key("generator", key)
    high, low = (word & 0xFFFFFFFF for word in bits(key, (2,)).tolist())
    return torch.Generator().manual_seed(high << 32 | low)
