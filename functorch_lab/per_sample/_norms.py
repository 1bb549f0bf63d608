# SPDX-License-Identifier: Apache-2.0
"""The norm of each sample's gradient, of which no gradient need be formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import (
    Method,
    Options,
    Part,
    Selected,
    Wrt,
    stacking,
)
from functorch_lab.per_sample._factor import root, total, total_squared_norm
from functorch_lab.per_sample._groups import Groups, check_groups, members


@_checks.curried
def squared_norms(
    loss_fn: Callable[..., Any],
    *,
    per: str | Groups | None = None,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The squared Euclidean norm of the gradient of each sample's loss.

    As `norms`, without the root: these add up over leaves and can be averaged.

    Raises:
        TypeError: as `norms`.
        ValueError: as `norms`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> squares = per_sample.squared_norms(lambda w, x: (w * x).sum())
        >>> squares(torch.ones(2), torch.tensor([[3.0, 4.0], [1.0, 2.0]]))
        tensor([25.,  5.])
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    return _made("squared_norms", loss_fn, options, per)


@_checks.curried
def norms(
    loss_fn: Callable[..., Any],
    *,
    per: str | Groups | None = None,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The Euclidean norm of the gradient of each sample's loss.

    The gradients are not formed where a rule knows the operation, nor is their mean:
    it costs about as much as a plain gradient, for large matrices less. The square is
    summed in float32 or better. Where a norm is zero its own derivative is zero, as
    that of `torch.linalg.norm`.

    Args:
        loss_fn: as for `grads`.
        per: None for one norm over all leaves; "leaf" for one for each leaf; or a
            dict from names of your choice to globs over dotted paths, as `tree.select`
            takes them, for one for each group. Groups may share leaves.
        wrt: as for `grads`.
        method: as for `grads`.
        chunk_size: as for `grads`.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        The function `norms_fn(params, *batch, keys=None, mask=None)`, called as that of
        `grads`. It returns norms `(B,)`, a tree like params of them with `()` at leaves
        that are not differentiated, or a dict of them; with `has_aux`, `(norms, aux)`.
        Masked samples have norm zero.

    Raises:
        TypeError: as `grads`; `per` is none of the three.
        ValueError: as `grads`; a group's pattern matches no leaf that is
            differentiated, with the nearest paths.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda p, x: (p["w"] * x).sum() + 12 * p["b"]
        >>> params = {"w": torch.ones(2), "b": torch.tensor(1.0)}
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
        >>> per_sample.norms(loss_fn)(params, x)
        tensor([13., 13.])
        >>> per_sample.norms(loss_fn, per="leaf")(params, x)
        {'w': tensor([5., 5.]), 'b': tensor([12., 12.])}
        >>> per_sample.norms(loss_fn, per={"weights": "w*"})(params, x)
        {'weights': tensor([5., 5.])}

    Source: Goodfellow, "Efficient Per-Example Gradient Computations", 2015, section 5,
    arXiv:1510.01799; over positions, Li, Tramer, Liang, Hashimoto, "Large Language
    Models Can Be Strong Differentially Private Learners", 2022, section 4,
    arXiv:2110.05679; the choice between products of positions and the gradient itself,
    Bu, Mao, Xu, "Scalable and Efficient Training of Large Convolutional Neural Networks
    with Differential Privacy", 2022, section 3, arXiv:2205.10683.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    squared = _made("norms", loss_fn, options, per)

    def norms_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        found = squared(params, *batch, keys=keys, mask=mask)
        if has_aux:
            return tree.map(root, found[0]), found[1]
        return tree.map(root, found)

    return norms_fn


def _made(
    where: str,
    loss_fn: Callable[..., Any],
    options: Options,
    per: str | Groups | None,
) -> Callable[..., Any]:
    if isinstance(per, str) and per != "leaf":
        raise ValueError(
            f"per_sample.{where}: per: expected None, 'leaf' or a dict of path "
            f"patterns, got {per!r}. Write per={{'name': {per!r}}} for one group."
        )
    if per is not None and not isinstance(per, str):
        check_groups(f"per_sample.{where}: per", per)

    def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
        if per is None:
            return total_squared_norm(part.factors), ()
        squares = [factor.squared_norm() for factor in part.factors]
        if isinstance(per, str):
            return selected.tree(squares), ()
        groups = members(f"per_sample.{where}: per", per, selected)
        return {
            name: total([squares[i] for i in numbers])
            for name, numbers in groups.items()
        }, ()

    return stacking(where, loss_fn, options, contract)
