# SPDX-License-Identifier: Apache-2.0
"""Random projections of each sample's gradient that keep inner products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.per_sample._kronecker import DRAWS, Projection, projection
from functorch_lab.transforms._flat import kind_of

Distribution = Literal["rademacher", "normal"]


def project(  # noqa: PLR0913  (the options of all, and three of its own)
    loss_fn: Callable[..., Any],
    key: Tensor,
    dim: int,
    *,
    distribution: Distribution = "rademacher",
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    r"""A random projection of each sample's gradient to few numbers.

    For any two samples the mean over keys of `<P g, P h>` is `<g, h>`. So gradients of
    a whole data set can be kept, compared and searched.

    A leaf of shape `(R, ...)` is a matrix `G` of R rows and of C columns, all other
    axes, and its projection `P_rows G P_columns^T` is computed from its factors,
    `sum_t (P_rows d_t) (P_columns a_t)^T`: neither `G` nor a matrix of `dim` times its
    size is formed. A vector, and a leaf of at most `dim` numbers, is one row. The
    projections of all leaves are added up. The matrices depend on the key, on `dim`, on
    the leaf's place in params and on its shape, and on nothing else: not on device,
    dtype, batch, or the way in which the loss uses the leaf.

    The price of the structure is variance. Of a leaf whose matrices have k1 and k2 rows
    (k1 k2 = dim, both near its root), with normal entries,
    `var(|P g|^2) / |g|^4 = 2/dim + 2s (1/k1 + 1/k2 + 1/dim)` where
    `s = |G G^T|^2 / |G|^4` lies between 1 / rank and 1, its value for one position.
    With dim = 4096 and s = 1 that is a standard deviation of 25 percent, with s near
    zero, or for a vector, of 2. It is smaller with entries of -1 and 1.

    Args:
        loss_fn: as for `grads`.
        key: of `random.key`. The same for all batches that are to be compared.
        dim: how many numbers for each sample.
        distribution: of the entries of the matrices: "rademacher" (-1 or 1) or
            "normal".
        wrt: as for `grads`. A leaf's matrices are the same whatever others are chosen.
        method: as for `grads`.
        chunk_size: as for `grads`.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        The function `project_fn(params, *batch, keys=None, mask=None)`, called as that
        of `grads`. It returns `(B, dim)` in float32 or better, or `(projections, aux)`
        with `has_aux`. Masked samples are projected to zero.

    Raises:
        TypeError: as `grads`; `key` is no key, `dim` no integer.
        ValueError: as `grads`; `dim` is below 1; the distribution is unknown.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample, random
        >>> loss_fn = lambda w, x: (w * x).sum()
        >>> project = per_sample.project(loss_fn, random.key(0), 4)
        >>> sketch = project(torch.ones(2), torch.tensor([[3.0, 0.0], [0.0, 5.0]]))
        >>> sketch.shape
        torch.Size([2, 4])
        >>> sketch.square().sum(1)  # of one entry: its square, with any signs
        tensor([ 9., 25.])

    Source: Choe et al., "What is Your Data Worth to GPT? LLM-Scale Data Valuation with
    Influence Functions", 2024, arXiv:2405.13954, whose LoGra it is, with one random
    matrix more for the leaves that are vectors; random projections of gradients, Park,
    Georgiev, Ilyas, Leclerc, Madry, "TRAK: Attributing Model Behavior at Scale", 2023,
    arXiv:2303.14186; Johnson, Lindenstrauss, "Extensions of Lipschitz mappings into a
    Hilbert space", 1984. The variance follows from the fourth moments of normal
    numbers, and a test measures it.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("project", loss_fn, options)
    _check(key, dim, distribution)

    def project_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        drawn: list[Projection] = []

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            if not drawn:  # in the first chunk
                leaves = zip(selected.numbers, selected.leaves, strict=True)
                drawn.extend(
                    projection(random.fold_in(key, number), leaf, dim, draw)
                    for number, leaf in leaves
                )
            pairs = zip(drawn, part.factors, strict=True)
            first, *rest = [each.of(factor) for each, factor in pairs]
            return sum(rest, first), ()

        draw = DRAWS[distribution]
        found, _, aux = run(
            "project", loss_fn, options, params, batch, keys, mask, contract
        )
        return (found, aux) if has_aux else found

    return project_fn


def _check(key: object, dim: object, distribution: object) -> None:
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(
            f"per_sample.project: dim: expected an integer, got {kind_of(dim)}. Give "
            "the numbers that are to be kept for each sample, such as 512."
        )
    if dim < 1:
        raise ValueError(
            f"per_sample.project: dim: expected at least 1, got {dim}. Give the "
            "numbers that are to be kept for each sample, such as 512."
        )
    if distribution not in DRAWS:
        raise ValueError(
            f"per_sample.project: distribution: expected one of {', '.join(DRAWS)}, "
            f"got {distribution!r}. Leave it out for the smaller variance."
        )
    if not isinstance(key, Tensor) or key.dtype != torch.int32 or key.shape != (2,):
        raise TypeError(
            f"per_sample.project: key: expected one key, got {kind_of(key)}. Make one "
            "with random.key(0)."
        )
