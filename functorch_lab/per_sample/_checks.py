# SPDX-License-Identifier: Apache-2.0
"""What every function of `per_sample` checks before and while it works."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.transforms._engine import is_outermost, is_traced
from functorch_lab.transforms._flat import (
    flatten,
    is_differentiable,
    kind_of,
    name_of,
    wraps,
)

if TYPE_CHECKING:
    from functorch_lab.per_sample._call import Options, Wrt

METHODS = ("auto", "factored", "vmap", "loop")

P = ParamSpec("P")
R = TypeVar("R")


def curried(make: Callable[P, R]) -> Callable[P, R]:
    """Says how a function is called to who passes it params and batch at once."""

    @wraps(make)
    def made(*given: P.args, **options: P.kwargs) -> R:
        if len(given) > 1:
            name = f"per_sample.{name_of(make)}"
            raise TypeError(
                f"{name}: expected one function, got {len(given)} arguments. It makes "
                f"a function: write {name}(loss_fn)(params, x, y)."
            )
        return make(*given, **options)

    return made


def brief(value: object) -> str:
    """A value in a few words, whatever it holds."""
    if isinstance(value, Tensor) or not isinstance(value, Sized):
        return kind_of(value)
    return f"{type(value).__name__} of {len(value)}"


def options(where: str, loss_fn: object, given: Options) -> None:
    """The arguments with which the function is made.

    Raises:
        TypeError: the loss is no function; `wrt` is neither pattern nor predicate.
        ValueError: an unknown method, a chunk size below one.
    """
    if not callable(loss_fn):
        raise TypeError(
            f"per_sample.{where}: loss_fn: expected a function, got "
            f"{brief(loss_fn)}. Write per_sample.{where}(loss_fn)(params, x, y)."
        )
    if given.method not in METHODS:
        raise ValueError(
            f"per_sample.{where}: method: expected one of {', '.join(METHODS)}, got "
            f"{given.method!r}. Leave it out for the quickest that is exact."
        )
    size = given.chunk_size
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(
            f"per_sample.{where}: chunk_size: expected at least 1 or None, got "
            f"{size!r}. Leave it out to compute all samples at once."
        )
    if given.wrt is not None and not (
        isinstance(given.wrt, str) or callable(given.wrt)
    ):
        raise TypeError(
            f"per_sample.{where}: wrt: expected a path pattern or a predicate "
            f"wrt(path, leaf), got {kind_of(given.wrt)}. Write wrt='layers.*'."
        )


def outermost(where: str, what: str) -> None:
    """Nothing traces or transforms the call.

    Raises:
        RuntimeError: something does, and there is no `what` to look at.
    """
    if is_traced() or not is_outermost():
        raise RuntimeError(
            f"per_sample.{where}: expected a call of its own, got one inside jit or "
            f"another transform, where there are no {what}. Call it outside."
        )


def batch(where: str, leaves: Any, keys: object, mask: object) -> int:
    """The number of samples.

    Raises:
        TypeError: a leaf, the keys or the mask are no tensor of their kind.
        ValueError: there are none, or leaves disagree in their leading axis.
    """
    _no_none(where, "batch", leaves)
    names = [f"batch{path}" for path in tree.paths(leaves)]
    found = list(zip(names, tree.leaves(leaves), strict=True))
    if not names:
        raise ValueError(
            f"per_sample.{where}: batch: expected tensors with a leading axis of "
            "samples after params, got none. Call it as f(params, x, y)."
        )
    for name, leaf in found:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"per_sample.{where}: {name}: expected a tensor with a leading axis of "
                f"samples, got {brief(leaf)}. {_conversion(leaf)}"
            )
        if leaf.ndim == 0:
            raise ValueError(
                f"per_sample.{where}: {name}: expected a leading axis of samples, got "
                f"{kind_of(leaf)}. Close over what all samples share."
            )
    first, size = names[0], found[0][1].shape[0]
    for name, leaf in found:
        if leaf.shape[0] != size:
            raise ValueError(
                f"per_sample.{where}: batch: expected leading axes of one size, got "
                f"{size} at {first} and {leaf.shape[0]} at {name}. Every leaf "
                "of the batch has samples along its axis 0."
            )
    if size == 0:
        raise ValueError(
            f"per_sample.{where}: batch: expected at least one sample, got shape "
            f"{tuple(found[0][1].shape)} at {first}. Check how the batches are made."
        )
    if keys is not None:
        _keys(where, keys, size)
    if mask is not None:
        _mask(where, mask, size)
    return size


def _keys(where: str, keys: Any, size: int) -> None:
    is_keys = isinstance(keys, Tensor) and keys.dtype == torch.int32
    if not is_keys or tuple(keys.shape) != (size, 2):
        raise (ValueError if is_keys else TypeError)(
            f"per_sample.{where}: keys: expected one key for each sample, int32 of "
            f"shape {(size, 2)}, got {brief(keys)}. Pass "
            f"keys=fl.random.split(key, {size})."
        )


def _mask(where: str, mask: Any, size: int) -> None:
    is_bool = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not is_bool or tuple(mask.shape) != (size,):
        raise (ValueError if is_bool else TypeError)(
            f"per_sample.{where}: mask: expected one bool for each sample, shape "
            f"{(size,)}, got {brief(mask)}. True stands for a sample that counts."
        )


def _conversion(leaf: object) -> str:
    if type(leaf).__module__ == "numpy":
        return "Convert it with torch.from_numpy."
    if isinstance(leaf, bool | int | float):
        return "Convert a list with torch.tensor; close over what all samples share."
    return "Close over what all samples share."


def _no_none(where: str, name: str, value: object) -> None:
    found, structure = flatten(value)
    for leaf, path in zip(found, structure.paths(), strict=True):
        if leaf is None:
            raise TypeError(
                f"per_sample.{where}: {name}{path}: expected a tensor, got None. Leave "
                "it out, or write a hole as (), the empty tuple."
            )


def selection(where: str, params: Any, wrt: Wrt) -> list[int]:
    """The positions of the leaves to differentiate.

    Raises:
        TypeError: there is nothing to differentiate, a leaf is complex, or `wrt` chose
            an integer leaf.
        ValueError: a pattern matches nothing.
    """
    _no_none(where, "params", params)
    found, names = tree.leaves(params), tree.paths(params)
    kinds = [isinstance(x, Tensor) and x.is_floating_point() for x in found]
    chosen = [i for i, leaf in enumerate(found) if is_differentiable(leaf)]
    if wrt is not None:
        try:
            kept, _ = tree.partition(wrt, params)
        except ValueError as error:
            text = str(error).removeprefix("tree.partition: pattern:")
            raise ValueError(f"per_sample.{where}: wrt:{text}") from None
        marks = tree.structure(params).along(kept) or []
        chosen = [i for i, mark in enumerate(marks) if not isinstance(mark, tuple)]
    bad = [i for i in chosen if not kinds[i]]
    if bad or not chosen:
        got = f"{brief(found[bad[0]])} at {names[bad[0]]}" if bad else "none"
        raise TypeError(
            f"per_sample.{where}: params: expected real floating-point leaves to "
            f"differentiate, got {got}. Choose with wrt=, or convert with .float()."
        )
    return chosen


def loss(
    where: str, loss_fn: Callable[..., Any], result: Any, given: Options
) -> tuple[Tensor, Any]:
    """`(value, aux)` of one sample's loss.

    Raises:
        TypeError: it is no real floating-point tensor, or no pair with `has_aux`.
        ValueError: it is not 0-d.
    """
    name = f"per_sample.{where}: {name_of(loss_fn)}"
    value, aux = result, ()
    if given.has_aux:
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise TypeError(
                f"{name}: expected a pair (loss, aux) for has_aux=True, got "
                f"{brief(result)}. Return both, or leave has_aux out."
            )
        value, aux = result
    if not isinstance(value, Tensor) or not value.is_floating_point():
        hint = " Pass has_aux=True for (loss, aux)." if isinstance(value, tuple) else ""
        raise TypeError(
            f"{name}: expected the loss of one sample as a floating-point tensor, got "
            f"{brief(value)}.{hint or ' Return a 0-d tensor.'}"
        )
    if value.ndim != 0:
        hint = (
            "keep_batch_axis=True passes batches of one: reduce their loss too."
            if given.keep_batch_axis
            else "Write the loss for one sample and reduce it to a number."
        )
        raise ValueError(
            f"{name}: expected one number as the loss of one sample, got shape "
            f"{tuple(value.shape)}. {hint}"
        )
    return value, aux
