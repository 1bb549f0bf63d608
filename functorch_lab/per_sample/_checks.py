# SPDX-License-Identifier: Apache-2.0
"""What every function of `per_sample` checks before and while it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.transforms._flat import is_differentiable, kind_of, name_of

if TYPE_CHECKING:
    from functorch_lab.per_sample._call import Options, Wrt

METHODS = ("auto", "factored", "vmap", "loop")


def options(where: str, loss_fn: object, given: Options) -> None:
    """The arguments with which the function is made.

    Raises:
        TypeError: the loss is no function; `wrt` is neither pattern nor predicate.
        ValueError: an unknown method, a chunk size below one.
    """
    if not callable(loss_fn):
        raise TypeError(
            f"per_sample.{where}: loss_fn: expected a function, got "
            f"{kind_of(loss_fn)}. Write per_sample.{where}(loss_fn)(params, x, y)."
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


def batch(where: str, leaves: Any, keys: object, mask: object) -> int:
    """The number of samples.

    Raises:
        TypeError: a leaf, the keys or the mask are no tensor of their kind.
        ValueError: there are none, or leaves disagree in their leading axis.
    """
    names = [f"batch{path}" for path in tree.paths(leaves)]
    found = list(zip(names, tree.leaves(leaves), strict=True))
    if keys is not None:
        found.append(("keys", keys))
    if mask is not None:
        found.append(("mask", mask))
    if not names:
        raise ValueError(
            f"per_sample.{where}: batch: expected tensors with a leading axis of "
            "samples after params, got none. Call it as f(params, x, y)."
        )
    for name, leaf in found:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"per_sample.{where}: {name}: expected a tensor with a leading axis of "
                f"samples, got {kind_of(leaf)}. Close over what all samples share."
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
    if isinstance(mask, Tensor) and (mask.dtype != torch.bool or mask.ndim != 1):
        raise TypeError(
            f"per_sample.{where}: mask: expected one bool for each sample, got "
            f"{kind_of(mask)}. Write mask=mask.bool()."
        )
    return size


def selection(where: str, params: Any, found: list[Any], wrt: Wrt) -> list[int]:
    """The positions of the leaves to differentiate.

    Raises:
        TypeError: there is nothing to differentiate, or `wrt` chose an integer leaf.
        ValueError: a pattern matches nothing.
    """
    kinds = [is_differentiable(leaf) for leaf in found]
    if wrt is None:
        chosen = [i for i, good in enumerate(kinds) if good]
    else:
        kept, _ = tree.partition(wrt, tree.map(lambda leaf: leaf, params))
        marks = _marks(tree.structure(params), kept)
        chosen = [i for i, mark in enumerate(marks) if mark]
    bad = [i for i in chosen if not kinds[i]]
    if bad or not chosen:
        names = tree.paths(params)
        got = f"{kind_of(found[bad[0]])} at {names[bad[0]]}" if bad else "none"
        raise TypeError(
            f"per_sample.{where}: params: expected floating-point leaves to "
            f"differentiate, got {got}. Choose with wrt=, or convert with .float()."
        )
    return chosen


def _marks(structure: Any, kept: Any) -> list[bool]:
    return [isinstance(leaf, Tensor) for leaf in structure.along(kept) or []]


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
                f"{kind_of(result)}. Return both, or leave has_aux out."
            )
        value, aux = result
    if not isinstance(value, Tensor) or not value.is_floating_point():
        hint = " Pass has_aux=True for (loss, aux)." if isinstance(value, tuple) else ""
        raise TypeError(
            f"{name}: expected the loss of one sample as a floating-point tensor, got "
            f"{kind_of(value)}.{hint or ' Return a 0-d tensor.'}"
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
