# SPDX-License-Identifier: Apache-2.0
"""The sum of gradients of which each is shortened: what differential privacy needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._bounds import WHERE, Bound, check_max_norm
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.per_sample._factor import root, total
from functorch_lab.per_sample._groups import (
    Groups,
    check_groups,
    check_partition,
    members,
)

Clipping = Literal["flat", "per_group", "automatic"]
_CLIPPINGS = ("flat", "per_group", "automatic")


@tree.dataclass
class Clipped:
    """What `clipped_sum` returns.

    Attributes:
        sum: `sum_i c_i gradient[i]`, a tree like params, float32 or better, with `()`
            at leaves that are not differentiated.
        values: the losses, `(B,)`; zero where masked.
        norms: of the gradients before clipping, over all leaves, `(B,)`; zero where
            masked, inf or nan where the gradient is not finite.
        clip_fraction: the share of the real, finite samples that were shortened, 0-d.
        non_finite: how many real samples were left out, 0-d.
    """

    sum: Any
    values: Tensor
    norms: Tensor
    clip_fraction: Tensor
    non_finite: Tensor


def clipped_sum(  # noqa: PLR0913  (the options of clipping, and those of all)
    loss_fn: Callable[..., Any],
    *,
    max_norm: Bound | Mapping[str, Bound],
    clipping: Clipping = "flat",
    groups: Groups | None = None,
    gamma: float = 0.01,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> ClippedSum:
    """The sum of the samples' gradients, each scaled to a bounded norm.

    Losses, norms and the sum come from one backward pass, and no gradient is formed.
    It is a sum, not a mean: for differential privacy add noise of standard deviation
    `noise_multiplier * sensitivity()` and divide by the *expected* batch size. The
    losses, norms and counts that come with it are not private. A model whose samples
    act on each other (batch normalisation in training) has no gradient per sample to
    bound.

    A sample whose loss or gradient is not finite (or the square of whose norm
    overflows) contributes exactly zero and is counted. The scales are constants to an
    outer derivative.

    Args:
        loss_fn: as for `grads`.
        max_norm: the bound `C`, positive: a number, or a 0-d tensor, whose value is not
            checked and may change without a new compilation. With "per_group" also a
            dict of bounds with the groups' names; one number is shared equally, as
            `C / sqrt(number of groups)` each.
        clipping: "flat" scales by `min(1, C / norm)`; "per_group" does so for each
            group by its own norm and bound; "automatic" scales by
            `C / (norm + gamma)`, so that `C` matters no more than a learning rate.
        groups: for "per_group": a dict from names of your choice to globs over dotted
            paths, as `tree.select` takes them. Each leaf that is differentiated must
            be in one group.
        gamma: for "automatic": keeps samples with small gradients small.
        wrt: as for `grads`.
        method: as for `grads`.
        chunk_size: as for `grads`.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        A function of `(params, *batch, keys=None, mask=None)`, called as that of
        `grads`, which returns `Clipped`; with `has_aux`, `(clipped, aux)`. Its method
        `sensitivity()` is the norm by which the sum can change when a sample is added
        or removed (twice that when one is replaced).

    Raises:
        TypeError: as `grads`; a bound is no number, or the groups are no dict.
        ValueError: as `grads`; a bound is not positive and finite; an unknown clipping;
            groups without "per_group" or the reverse; bounds and groups have other
            names; a pattern matches no leaf that is differentiated; such a leaf is in
            no group or in two.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> clipped = per_sample.clipped_sum(lambda w, x: (w * x).sum(), max_norm=1.0)
        >>> x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [float("nan"), 0.0]])
        >>> result = clipped(torch.ones(2), x)
        >>> result.sum, result.clip_fraction, result.non_finite
        (tensor([0.9000, 1.2000]), tensor(0.5000), tensor(1))
        >>> clipped.sensitivity()
        1.0

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, Algorithm 1,
    arXiv:1607.00133; "per_group", McMahan, Ramage, Talwar, Zhang, "Learning
    Differentially Private Recurrent Language Models", 2018, section 3.1,
    arXiv:1710.06963; "automatic", Bu, Wang, Zha, Karypis, "Automatic Clipping", 2022,
    AUTO-S, section 3, arXiv:2206.07136; one backward pass, Bu, Wang, Zha, Karypis,
    "Differentially Private Optimization on Large Model at Small Cost", 2022,
    arXiv:2210.00038.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("clipped_sum", loss_fn, options)
    _check_clipping(clipping, groups, gamma)
    return ClippedSum(loss_fn, options, max_norm, groups, clipping, gamma)


class ClippedSum:
    """A function that sums clipped gradients, and knows how much one can change it.

    Made by `clipped_sum`, which describes it.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        options: Options,
        max_norm: Bound | Mapping[str, Bound],
        groups: Groups | None,
        clipping: Clipping,
        gamma: float,
    ) -> None:
        self._loss_fn = loss_fn
        self._options = options
        self._groups = {"all": "*"} if groups is None else dict(groups)
        self._max_norm = max_norm
        check_max_norm(max_norm, groups)
        self._gamma = gamma if clipping == "automatic" else None

    def sensitivity(self) -> Any:
        """The largest norm of a sample's part in the sum.

        Returns:
            A float, or a 0-d tensor if a bound is one.
        """
        if not isinstance(self._max_norm, Mapping):
            bound = self._max_norm
            return bound if isinstance(bound, Tensor) else float(bound)
        first, *rest = [bound * bound for bound in self._max_norm.values()]
        return sum(rest, first) ** 0.5

    def __call__(
        self,
        params: Any,
        *batch: Any,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        """`Clipped`, or with `has_aux` `(Clipped, aux)`; see `clipped_sum`."""
        (values, norms), (summed, counts), aux = run(
            "clipped_sum",
            self._loss_fn,
            self._options,
            params,
            batch,
            keys,
            mask,
            self._contract,
        )
        kept, shortened, non_finite = counts
        fraction = shortened.to(norms.dtype) / kept.clamp(min=1)
        clipped = Clipped(summed, values, norms, fraction, non_finite)
        return (clipped, aux) if self._options.has_aux else clipped

    def _contract(self, part: Part, selected: Selected) -> tuple[Any, Any]:
        groups = members(f"{WHERE}: groups", self._groups, selected)
        check_partition(f"{WHERE}: groups", groups, selected)
        squares = [factor.squared_norm() for factor in part.factors]
        by_group = {
            g: total([squares[i] for i in leaves]) for g, leaves in groups.items()
        }
        square = total(list(by_group.values()))
        finite = part.values.isfinite() & square.isfinite()
        real = finite if part.mask is None else finite & part.mask
        scales: list[Any] = [None for _ in squares]
        shortened = torch.zeros_like(real)
        for group, leaves in groups.items():
            scale = self._scale(group, by_group[group])
            shortened = shortened | (scale < 1)
            for i in leaves:
                scales[i] = torch.where(real, scale, 0.0).detach()
        # What is not finite goes from the factors too: zero times infinity is not zero.
        sums = [
            factor.masked(finite).weighted_sum(scale)
            for factor, scale in zip(part.factors, scales, strict=True)
        ]
        counts = (real.sum(), (shortened & real).sum(), (~finite).sum())
        return (part.values, root(square)), (selected.tree(sums), counts)

    def _scale(self, group: str, square: Tensor) -> Tensor:
        norm, bound = root(square), self._bound(group)
        if self._gamma is not None:
            return bound / (norm + self._gamma)
        return (bound / norm).clamp(max=1)

    def _bound(self, group: str) -> Bound:
        if isinstance(self._max_norm, Mapping):
            return self._max_norm[group]
        return self._max_norm / math.sqrt(len(self._groups))


def _check_clipping(clipping: object, groups: object, gamma: object) -> None:
    if clipping not in _CLIPPINGS:
        raise ValueError(
            f"{WHERE}: clipping: expected one of {', '.join(_CLIPPINGS)}, got "
            f"{clipping!r}. Leave it out to clip by the norm over all leaves."
        )
    if (groups is not None) != (clipping == "per_group"):
        got = "none" if groups is None else "groups"
        raise ValueError(
            f"{WHERE}: groups: expected them with clipping='per_group' and only then, "
            f"got {got} with {clipping!r}. Change one of the two."
        )
    if groups is not None:
        check_groups(f"{WHERE}: groups", groups)
    if not isinstance(gamma, int | float) or not 0 < gamma < math.inf:
        raise ValueError(
            f"{WHERE}: gamma: expected a positive number, got {gamma!r}. "
            "Leave it out for 0.01."
        )
