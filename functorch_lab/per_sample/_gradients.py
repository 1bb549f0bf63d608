# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients themselves: as factors, as tensors, as their mean."""

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
    run,
    stacking,
)
from functorch_lab.per_sample._factor import root, total_squared_norm


@_checks.curried
def factors(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The gradient of each sample's loss in factored form.

    Where a parameter multiplies, `y = x W^T`, the gradient of one sample is a sum over
    the positions at which it does, `sum_t dy_t x_t^T`. The factors are the inputs and
    the gradients at the outputs; the gradient itself is not formed. All else of
    `per_sample` is computed from them.

    The options are those of `grads`, but for `chunk_size`.

    Returns:
        The function `factors_fn(params, *batch, keys=None, mask=None)`, called as that
        of `grads`. It returns a tree like params with a `Factor` at each leaf that is
        differentiated and `()` at the others; with `has_aux`, `(factors, aux)`.
        Masked samples have zero gradients.

    Raises:
        TypeError: as `grads`.
        ValueError: as `grads`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> def loss_fn(params, x):
        ...     return torch.nn.functional.linear(x, params["w"]).sum()
        >>> params = {"w": torch.ones(1, 2)}
        >>> x = torch.tensor([[3.0, 4.0], [5.0, 7.0]])
        >>> factors = per_sample.factors(loss_fn)(params, x)
        >>> factors["w"].materialize()
        tensor([[[3., 4.]],
        <BLANKLINE>
                [[5., 7.]]])

    Source: the factors are those of Goodfellow, "Efficient Per-Example Gradient
    Computations", 2015, section 5, arXiv:1510.01799; several uses of one parameter are
    kept as a list, whose gradients add up.
    """
    options = Options(wrt, method, None, has_aux, keep_batch_axis)

    def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
        return selected.tree(part.factors), ()

    return stacking("factors", loss_fn, options, contract)


@_checks.curried
def grads(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The gradient of each sample's loss, formed: batch times the size of params.

    Args:
        loss_fn: a pure function `loss_fn(params, *sample)` of one sample, or
            `loss_fn(params, *sample, key=key)` where it draws random numbers; returns
            a 0-d tensor.
        wrt: which leaves of params are differentiated: a glob over dotted paths, as
            `tree.select` takes it, a predicate `wrt(path, leaf)`, or None for all
            that are floating point.
        method: "auto" and "factored" keep factors where an operation is known, and
            "factored" raises where one is not; "vmap" and "loop" form every gradient,
            at once and one after another. All give the same numbers.
        chunk_size: how many samples are computed at once; all, if None. It need not
            divide the batch.
        has_aux: `loss_fn` returns `(loss, aux)`.
        keep_batch_axis: each sample keeps a leading axis of size 1, for code that is
            written for batches.

    Returns:
        The function `grads_fn(params, *batch, keys=None, mask=None)`. Every leaf of
        `*batch` has a leading axis of samples; `keys` holds a key for each, which
        the loss gets as `key=`; where `mask`, `(B,)` of bool, is False, a sample is
        padding: its gradient is zero whatever it holds. The result is a tree like
        params with leaves `(B, *leaf)` in the dtype of params, and `()` at leaves that
        are not differentiated; with `has_aux` it is `(grads, aux)`, where each leaf of
        aux has a leading axis of samples.

    Raises:
        TypeError: `loss_fn` is no function, or returns no floating-point tensor; a leaf
            of the batch, the keys or the mask is none of its kind; there is nothing to
            differentiate.
        ValueError: an unknown method, a chunk size below one; the loss of a sample
            is not one number; the batch is empty, or its leaves differ in their
            leading axis; `wrt` matches no leaf.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda w, x, y: 0.5 * ((w * x).sum() - y) ** 2
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 5.0])
        >>> per_sample.grads(loss_fn)(torch.tensor([1.0, 1.0]), x, y)
        tensor([[2., 4.],
                [6., 8.]])
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)

    def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
        return _materialized(part, selected), ()

    return stacking("grads", loss_fn, options, contract)


@_checks.curried
def values_and_grads(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The loss of each sample and its gradient, formed.

    The options are those of `grads`.

    Returns:
        The function `values_and_grads_fn(params, *batch, keys=None, mask=None)`, called
        as that of `grads`. It returns `(values, grads)`, the losses `(B,)` and what
        `grads` gives; with `has_aux`, `((values, aux), grads)`. Masked samples have
        zero values.

    Raises:
        TypeError: as `grads`.
        ValueError: as `grads`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> both = per_sample.values_and_grads(lambda w, x: w**2 * x)
        >>> both(torch.tensor(3.0), torch.tensor([1.0, 2.0]))
        (tensor([ 9., 18.]), tensor([ 6., 12.]))
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("values_and_grads", loss_fn, options)

    def values_and_grads_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            return (part.values, _materialized(part, selected)), ()

        (values, found), _, aux = run(
            "values_and_grads", loss_fn, options, params, batch, keys, mask, contract
        )
        return ((values, aux) if has_aux else values), found

    return values_and_grads_fn


def _materialized(part: Part, selected: Selected) -> Any:
    pairs = zip(part.factors, selected.leaves, strict=True)
    return selected.tree([f.materialize().to(leaf.dtype) for f, leaf in pairs])


@_checks.curried
def value_and_grad(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """Each sample's loss and gradient norm, and the mean gradient, in one backward.

    In a training step it takes the place of `value_and_grad` of the mean loss. No
    gradient of a sample is formed. The options are those of `grads`.

    Returns:
        The function `value_and_grad_fn(params, *batch, keys=None, mask=None)`, called
        as that of `grads`. It returns `((values, norms), mean_grads)`: the losses
        `(B,)`, the Euclidean norms of their gradients over all leaves `(B,)`, float32
        or better, and a tree like params, in its dtypes, with `()` at leaves that are
        not differentiated; with `has_aux`, `((values, norms, aux), mean_grads)`.
        Masked samples have zero values and norms and do not count in the mean, which
        is zero if all are masked.

    Raises:
        TypeError: as `grads`.
        ValueError: as `grads`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> step = per_sample.value_and_grad(lambda w, x: (w * x).sum())
        >>> x = torch.tensor([[3.0, 4.0], [5.0, 12.0]])
        >>> step(torch.tensor([1.0, 1.0]), x)
        ((tensor([ 7., 17.]), tensor([ 5., 13.])), tensor([4., 8.]))
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("value_and_grad", loss_fn, options)

    def value_and_grad_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        leaves: Any = None

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            nonlocal leaves
            leaves = selected.tree(selected.leaves)
            norms = root(total_squared_norm(part.factors))
            sums = [factor.weighted_sum() for factor in part.factors]
            return (part.values, norms), selected.tree(sums)

        (values, norms), total, aux = run(
            "value_and_grad", loss_fn, options, params, batch, keys, mask, contract
        )
        count = len(values) if mask is None else mask.sum().clamp(min=1)
        mean = tree.map(lambda s, leaf: (s / count).to(leaf.dtype), total, leaves)
        return ((values, norms, aux) if has_aux else (values, norms)), mean

    return value_and_grad_fn
