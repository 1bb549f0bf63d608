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
    name_of,
    paths,
    require_callable,
    unflatten,
    wraps,
)

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
