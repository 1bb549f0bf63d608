# SPDX-License-Identifier: Apache-2.0
"""Random numbers as pure functions of a key: the numbers of ``jax.random``.

A key is used once. Make new ones from it with `split` or `fold_in`, and a batch of keys
is drawn from with vmap. The same key and shape give the same numbers on every device,
in eager mode, compiled and under vmap.
"""

from functorch_lab.random._continuous import (
    exponential,
    gumbel,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
)
from functorch_lab.random._discrete import bernoulli, categorical, rademacher, randint
from functorch_lab.random._generator import generator
from functorch_lab.random._keys import bits, fold_in, key, split
from functorch_lab.random._orders import choice, permutation

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "exponential",
    "fold_in",
    "generator",
    "gumbel",
    "key",
    "normal",
    "orthogonal",
    "permutation",
    "rademacher",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]
