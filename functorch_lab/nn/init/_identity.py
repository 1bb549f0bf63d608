# SPDX-License-Identifier: Apache-2.0
"""Weights that pass their input on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.nn.init._initializer import Initializer, axes, device_of


def eye() -> Initializer:
    """The identity matrix: 1 on the diagonal, also of a matrix that is not square.

    Returns:
        An initializer of shapes of 2 axes; the key only says where the tensor is.

    Example:
        >>> import functorch_lab as fl
        >>> fl.nn.init.eye()(fl.random.key(0), (2, 3))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        rows, columns = axes("eye", shape, 2, 2)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        return torch.eye(rows, columns, dtype=dtype, device=device_of("eye", key))

    return initializer


def dirac(groups: int = 1) -> Initializer:
    """Convolutions that pass their input on: 1 at the kernel's centre, from i to i.

    With stride 1 and padding "same" for odd kernels, output i is input i, as far as
    there are so many; of each of the groups for itself.

    Args:
        groups: those of the convolution.

    Returns:
        An initializer of shapes of 3 to 5 axes, `(out, in / groups, *kernel)`, with
        `out` divisible by `groups`; the key only says where the tensor is.

    Raises:
        ValueError: `groups` is below 1.
        TypeError: `groups` is no integer.

    Example:
        >>> import functorch_lab as fl
        >>> fl.nn.init.dirac(groups=2)(fl.random.key(0), (2, 1, 3))
        tensor([[[0., 1., 0.]],
        <BLANKLINE>
                [[0., 1., 0.]]])
    """
    _checks.size("init.dirac", "groups", groups)

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        out, in_, *kernel = axes("dirac", shape, 3, 5)
        if out % groups:
            raise ValueError(
                f"nn.init.dirac: shape: expected a first axis divisible by "
                f"groups={groups}, got {tuple(shape)}. Take the convolution's groups."
            )

        device = device_of("dirac", key)

        def where(size: int, index: int | Tensor) -> Tensor:
            return torch.arange(size, device=device) == index

        # Of each output channel, the number within its group.
        member = torch.arange(out, device=device) % (out // groups or 1)
        ones = where(in_, member[:, None])
        for size in kernel:
            ones = ones[..., None] & where(size, size // 2)
        return ones.to(torch.get_default_dtype() if dtype is None else dtype)

    return initializer
