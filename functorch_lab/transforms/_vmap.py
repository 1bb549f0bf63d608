# SPDX-License-Identifier: Apache-2.0
"""A function of one sample as a function of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._flat import (
    flatten,
    kind_of,
    leaves,
    map_tensors,
    name_of,
    paths,
    require_callable,
    unflatten,
    wraps,
)
from functorch_lab.transforms._grad import split_aux

Dims = Any


def vmap(
    fn: Callable[..., Any],
    in_dims: Dims = 0,
    out_dims: Dims = 0,
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Maps a function over an axis of its arguments, all at once.

    Args:
        fn: a pure function of one sample.
        in_dims: the mapped axis: an int for all positional arguments, None for what is
            not mapped, or a tuple with one entry for each; an entry may be a tree of
            ints and None that matches the argument's outer structure. Keyword
            arguments are mapped over their axis 0, as in JAX.
        out_dims: where the mapped axis stands in the results, in the same form.
        chunk_size: how many samples are computed at once; all, if None.

    Returns:
        A function of arguments with the mapped axis. Python numbers and None are passed
        through as they are where their entry of `in_dims` is None; a number among the
        results is repeated for each sample.

    Raises:
        TypeError: something to be mapped over is no tensor.
        ValueError: nothing is mapped; axes differ in size or do not exist; `in_dims`
            does not fit the arguments.

    Example:
        >>> import torch, functorch_lab as fl
        >>> dot = fl.vmap(lambda a, b: (a * b).sum())
        >>> dot(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0]] * 2))
        tensor([17., 39.])

    Source: the semantics of `jax.vmap`, by `torch.func.vmap`.
    """
    require_callable("vmap", fn)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(
            f"vmap: chunk_size: expected at least 1 or None, got {chunk_size}. "
            "Leave it out to compute all samples at once."
        )

    @wraps(fn)
    def vmapped(*args: Any, **kwargs: Any) -> Any:
        dims = list(in_dims) if isinstance(in_dims, tuple | list) else in_dims
        found, spec = flatten((list(args), kwargs))
        spread = _spread("in_dims", dims, list(args)) + [0] * len(leaves(kwargs))
        _check_axes(fn, found, spread, args, kwargs)
        mapped = [i for i, dim in enumerate(spread) if dim is not None]
        out_spec: Any = None
        out_axes: list[int | None] = []
        missing: list[bool] = []

        def flat_fn(*samples: Any) -> tuple[list[Any], list[Any]]:
            nonlocal out_spec, out_axes, missing
            values = list(found)
            for i, sample in zip(mapped, samples, strict=True):
                values[i] = sample
            sample_args, sample_kwargs = unflatten(spec, values)
            result = fn(*sample_args, **sample_kwargs)
            results, out_spec = flatten(result)
            out_axes = _spread("out_dims", out_dims, result)
            tensors = [_result(fn, value) for value in results]
            missing = [value is None for value in tensors]
            pairs = [p for p in zip(tensors, out_axes, strict=True) if p[0] is not None]
            stacked = [value for value, axis in pairs if axis is not None]
            return stacked, [value for value, axis in pairs if axis is None]

        size = found[mapped[0]].shape[spread[mapped[0]]]
        stacked, single = _run(
            torch.func.vmap(
                flat_fn,
                tuple(spread[i] for i in mapped),
                (0, None),  # pyright: ignore[reportArgumentType] - a prefix with None
                chunk_size=chunk_size if size else None,
            ),
            [found[i] for i in mapped],
        )
        moved, kept = iter(stacked), iter(single)

        def placed(axis: int | None, is_missing: bool) -> Any:
            if is_missing:
                return None
            return next(kept) if axis is None else next(moved).movedim(0, axis)

        return unflatten(out_spec, list(map(placed, out_axes, missing)))

    return vmapped


def mean_over_batch(
    loss_fn: Callable[..., Any], *, has_aux: bool = False
) -> Callable[..., Any]:
    """The batch loss of a sample loss: its mean, by `vmap` over all but `params`.

    Args:
        loss_fn: `loss_fn(params, *sample)`, or `loss_fn(params, *sample, key=key)`
            where it draws random numbers; returns a 0-d tensor.
        has_aux: `loss_fn` returns `(loss, aux)`.

    Returns:
        The function `batch_loss(params, *batch, key=None, mask=None)`.
        It returns the mean over the samples, a 0-d tensor; with `has_aux` it returns
        `(mean, aux)`, where each leaf of aux has a leading sample axis. A key is split,
        so that each sample has one of its own. A mask, bool of shape (batch,), is True
        for the samples that count: the others change neither the mean nor its gradient,
        whatever is in them, and have zeros in aux. The mean of no samples is 0, and so
        is its gradient if those of the samples are finite.

    Raises:
        ValueError: no batch was passed, its leaves differ in their leading axis, it is
            empty, `loss_fn` returns something else than one number per sample, or
            there is not one bool of the mask for each sample.

    Example:
        >>> import torch, functorch_lab as fl
        >>> batch_loss = fl.mean_over_batch(lambda w, x: (w - x) ** 2)
        >>> batch_loss(torch.tensor(2.0), torch.tensor([3.0, 5.0]))
        tensor(5.)
        >>> mask = torch.tensor([True, False])
        >>> batch_loss(torch.tensor(2.0), torch.tensor([3.0, torch.nan]), mask=mask)
        tensor(1.)
    """
    require_callable("mean_over_batch", loss_fn)

    @wraps(loss_fn)
    def batch_loss(
        params: Any,
        *batch: Any,
        key: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        from functorch_lab import random

        size = _batch_size(loss_fn, batch)
        if mask is not None:
            _check_mask(loss_fn, mask, size)
            batch = _filled(batch, mask)
        keys = {} if key is None else {"key": random.split(key, size)}
        axes = (None, *[0] * len(batch))
        result = vmap(loss_fn, in_dims=axes)(params, *batch, **keys)
        values, aux = split_aux("mean_over_batch", loss_fn, result, has_aux)
        if not isinstance(values, Tensor) or values.shape != (size,):
            shape = tuple(values.shape[1:]) if isinstance(values, Tensor) else values
            raise ValueError(
                f"mean_over_batch: {name_of(loss_fn)}: expected a 0-d loss for each "
                f"sample, got {shape}. Reduce the loss of one sample to a number."
            )
        if mask is None:
            mean = values.mean()
        else:
            wide = torch.promote_types(values.dtype, torch.float32)
            total = torch.where(mask, values, 0).sum(dtype=wide)
            mean = (total / mask.sum().clamp(min=1)).to(values.dtype)
            aux = map_tensors(lambda leaf: torch.where(_like(mask, leaf), leaf, 0), aux)
        return (mean, aux) if has_aux else mean

    return batch_loss


def _filled(batch: Any, mask: Tensor) -> Any:
    # Samples that don't count become copies of the first that does, before the loss
    # sees them: if it were infinite there, so would be its derivative, and zero times
    # that is no zero.
    first = mask.to(torch.uint8).argmax().reshape(1)

    def fill(leaf: Tensor) -> Tensor:
        return torch.where(_like(mask, leaf), leaf, leaf.index_select(0, first))

    return map_tensors(fill, batch)


def _like(mask: Tensor, leaf: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (leaf.ndim - 1))


def _check_mask(loss_fn: Callable[..., Any], mask: object, size: int) -> None:
    is_bool = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not is_bool or mask.shape != (size,):  # pyright: ignore
        raise ValueError(
            f"mean_over_batch: {name_of(loss_fn)}: mask: expected one bool for each "
            f"sample, shape {(size,)}, got {kind_of(mask)}. True stands for a sample "
            "that counts."
        )


def _batch_size(loss_fn: Callable[..., Any], batch: tuple[Any, ...]) -> int:
    where = f"mean_over_batch: {name_of(loss_fn)}"
    found = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]
    if not found or found[0].ndim == 0:
        raise ValueError(
            f"{where}: expected batch arguments with a leading sample axis after "
            f"params, got {kind_of(found[0]) if found else 'none'}. "
            "Call it as batch_loss(params, x, y)."
        )
    if found[0].shape[0] == 0:
        raise ValueError(
            f"{where}: expected at least one sample, got an empty batch of shape "
            f"{tuple(found[0].shape)}. Check how the batches are made."
        )
    return found[0].shape[0]


def _spread(name: str, dims: Dims, tree: Any) -> list[int | None]:
    """One entry of `dims` for each leaf of `tree`."""
    if dims is None or (isinstance(dims, int) and not isinstance(dims, bool)):
        return [dims] * len(leaves(tree))
    pairs: list[tuple[Any, Any]] | None = None
    if isinstance(dims, dict) and isinstance(tree, dict) and set(dims) == set(tree):
        pairs = [(dims[key], tree[key]) for key in sorted(tree)]
    elif isinstance(dims, tuple | list) and isinstance(tree, tuple | list):
        pairs = list(zip(dims, tree, strict=True)) if len(dims) == len(tree) else None
    if pairs is None:
        raise ValueError(
            f"vmap: {name}: expected ints and None that match the outer structure, got "
            f"{dims!r} for {_outline(tree)}. Give one entry for each argument."
        )
    return [dim for d, t in pairs for dim in _spread(name, d, t)]


def _outline(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return kind_of(tree)
    count = f" of {len(tree)}" if isinstance(tree, tuple | list | dict) else ""
    return f"{type(tree).__name__}{count}"


def _check_axes(
    fn: Callable[..., Any],
    found: list[Any],
    dims: Sequence[int | None],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    where = f"vmap: {name_of(fn)}"
    first: int | None = None

    def at(index: int) -> str:
        path = paths((list(args), kwargs))[index]
        return "args" + path[3:] if path.startswith("[0]") else "kwargs" + path[3:]

    for index, (leaf, dim) in enumerate(zip(found, dims, strict=True)):
        if dim is None:
            continue
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{where}: {at(index)}: expected a tensor to map over axis {dim}, got "
                f"{kind_of(leaf)}. Give it None in in_dims."
            )
        if not -leaf.ndim <= dim < leaf.ndim:
            raise ValueError(
                f"{where}: {at(index)}: expected a tensor that has an axis {dim}, got "
                f"shape {tuple(leaf.shape)}. Give it None in in_dims if it is shared."
            )
        if first is None:
            first = index
        elif leaf.shape[dim] != found[first].shape[dims[first]]:
            raise ValueError(
                f"{where}: expected mapped axes of one size, got "
                f"{found[first].shape[dims[first]]} at {at(first)} and "
                f"{leaf.shape[dim]} at {at(index)}. Give None in in_dims to what is "
                "not mapped."
            )
    if first is None:
        raise ValueError(
            f"{where}: expected at least one mapped tensor, got none. Pass an argument "
            "with a mapped axis, or set in_dims."
        )


def _result(fn: Callable[..., Any], value: Any) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, bool | int | float | complex):
        return torch.tensor(value)
    raise TypeError(
        f"vmap: {name_of(fn)}: expected tensors as results, got {kind_of(value)}. "
        "Return tensors only."
    )


def _run(mapped: Callable[..., Any], inputs: list[Tensor]) -> Any:
    """Calls torch's vmap; what it says of its own arguments is said of ours."""
    try:
        return mapped(*inputs)
    except RuntimeError as error:
        asks = ("data-dependent control flow", "calling .item()")
        if any(what in str(error) for what in asks):
            raise RuntimeError(
                "vmap: expected a function that needs no tensor's value, got a branch "
                "on one, or .item(), where each sample has its own. Use torch.where in "
                "place of if, and keep numbers as tensors."
            ) from error
        if "randomness" not in str(error):
            raise
        raise RuntimeError(
            "vmap: expected a function without hidden randomness, got one that draws "
            "from torch's global generator. Pass a key to each sample and draw with "
            "functorch_lab.random."
        ) from error
    except ValueError as error:
        if "can not return a BatchedTensor" not in str(error):
            raise
        raise ValueError(
            "vmap: out_dims: expected an axis for each result that depends on a mapped "
            "argument, got None. Give None only to results that are the same for all."
        ) from error
