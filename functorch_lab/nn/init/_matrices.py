# SPDX-License-Identifier: Apache-2.0
"""Matrices whose elements depend on one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn.init._initializer import Initializer, axes
from functorch_lab.transforms import vmap


def orthogonal(gain: float = 1.0) -> Initializer:
    """`gain` times a random matrix with orthonormal rows or columns.

    Axes after the first count as one. The distribution is uniform over such matrices.

    Returns:
        An initializer of shapes of at least 2 axes, in float32 or float64.

    Example:
        >>> import functorch_lab as fl
        >>> q = fl.nn.init.orthogonal(gain=2.0)(fl.random.key(0), (2, 3, 5))
        >>> q = q.reshape(2, 15)
        >>> (q @ q.T).round(decimals=3).abs()
        tensor([[4., 0.],
                [0., 4.]])

    Source: Saxe, McClelland and Ganguli, Exact Solutions to the Nonlinear Dynamics of
    Learning in Deep Linear Neural Networks (2013), arXiv 1312.6120; the signs:
    Mezzadri, How to Generate Random Matrices from the Classical Compact Groups (2007),
    arXiv math-ph/0609050, section 5.
    """

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        rows, *others = axes("orthogonal", shape, 2)
        q = random.orthogonal(key, rows, (), dtype, math.prod(others))
        return gain * q.reshape(tuple(shape))

    return initializer


def sparse(sparsity: float, std: float = 0.01) -> Initializer:
    """Normal, with zeros at random places, equally many in each column.

    Args:
        sparsity: the share of zeros in a column, in [0, 1]; of 7 rows and a third that
            is ceil(7 / 3) = 3.
        std: standard deviation of the other elements.

    Returns:
        An initializer of shapes of 2 axes, (out, in): every input is connected with
        equally many outputs.

    Raises:
        ValueError: `sparsity` is outside [0, 1], or `std` below 0.

    Example:
        >>> import functorch_lab as fl
        >>> weight = fl.nn.init.sparse(0.6)(fl.random.key(0), (5, 4))
        >>> (weight == 0).sum(0)
        tensor([3, 3, 3, 3])

    Source: Martens, Deep Learning via Hessian-Free Optimization (2010), section 5.
    """
    for name, value, most in [("sparsity", sparsity, 1), ("std", std, math.inf)]:
        if not 0 <= value <= most:
            raise ValueError(
                f"nn.init.sparse: {name}: expected a number in [0, {most}], got "
                f"{value}. The sparsity is the share of zeros."
            )

    def initializer(
        key: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        rows, columns = axes("sparse", shape, 2, 2)
        values_key, order_key = random.split(key).unbind()
        values = std * random.normal(values_key, (rows, columns), dtype)
        if columns == 0:
            return values
        column_keys = random.split(order_key, columns)
        rank = vmap(lambda k: random.permutation(k, rows), out_dims=1)(column_keys)
        return torch.where(rank < math.ceil(sparsity * rows), 0.0, values)

    return initializer
