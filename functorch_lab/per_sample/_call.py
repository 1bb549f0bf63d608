# SPDX-License-Identifier: Apache-2.0
"""The calling convention: `per_sample.f(loss_fn, **options)(params, *batch)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks, _failures
from functorch_lab.per_sample._collect import (
    Batch,
    Collected,
    Found,
    Leaves,
    SampleLoss,
    collect,
    find,
    joined,
    one_by_one,
)
from functorch_lab.per_sample._factor import Factor
from functorch_lab.per_sample._tape import Tape
from functorch_lab.per_sample._watch import Watch, require_factored

Method = Literal["auto", "factored", "vmap", "loop"]
Wrt = str | Callable[[str, Tensor], bool] | None


class Options(NamedTuple):
    """What all functions of `per_sample` take when they are made.

    Attributes:
        wrt: which leaves of the params: a path pattern as `tree.select` takes it, a
            predicate `wrt(path, leaf)`, or None for all of floating point. The others
            have `()` in the results.
        method: "auto" and "factored" keep factors where an operation is known;
            "vmap" forms every gradient at once, "loop" one after another.
        chunk_size: how many samples are computed at once; all, if None.
        has_aux: `loss_fn` returns `(loss, aux)`.
        keep_batch_axis: each sample keeps a leading axis of size 1, for code that is
            written for batches.
    """

    wrt: Wrt = None
    method: Method = "auto"
    chunk_size: int | None = None
    has_aux: bool = False
    keep_batch_axis: bool = False


class Part(NamedTuple):
    """The samples of one chunk, collected."""

    values: Tensor
    factors: list[Factor]
    mask: Tensor | None


class Selected:
    """The leaves of params that are differentiated, and the way back to a tree."""

    def __init__(self, where: str, params: Any, wrt: Wrt) -> None:
        self.numbers = _checks.selection(where, params, wrt)
        found, self.structure = tree.flatten(params)
        self.found = found
        self.leaves = [found[i] for i in self.numbers]
        names = tree.paths(params)
        self.names = [names[i] for i in self.numbers]

    def differentiated(self) -> Leaves:
        return Leaves(self.leaves, self.names)

    def merge(self, leaves: list[Tensor]) -> Any:
        """The params with these in place of the selected leaves."""
        values = list(self.found)
        for i, leaf in zip(self.numbers, leaves, strict=True):
            values[i] = leaf
        return tree.unflatten(self.structure, values)

    def tree(self, values: list[Any]) -> Any:
        """A tree like params of what belongs to the selected leaves."""
        results: list[Any] = [() for _ in self.found]
        for i, value in zip(self.numbers, values, strict=True):
            results[i] = value
        return tree.unflatten(self.structure, results)


# `contract(part, selected) -> (stacked, summed)`: trees with a leading axis of samples,
# and trees to be added, or merged otherwise, over chunks.
Contract = Callable[[Part, Selected], tuple[Any, Any]]


def added(a: Any, b: Any) -> Any:
    """The sum of two trees."""
    return tree.map(torch.add, a, b)


def run(  # noqa: PLR0913, PLR0917  (a call in full, and what is made of it)
    where: str,
    loss_fn: Callable[..., Any],
    options: Options,
    params: Any,
    batch: tuple[Any, ...],
    keys: Tensor | None,
    mask: Tensor | None,
    contract: Contract,
    merge: Callable[[Any, Any], Any] = added,
) -> tuple[Any, Any, Any]:
    """`(stacked, summed, aux)` of a contraction over all chunks of a batch."""
    size = _checks.batch(where, batch, keys, mask)
    selected = Selected(where, params, options.wrt)
    everything = Batch(batch, keys, mask)
    step = options.chunk_size or size
    stacked, summed, auxes = [], None, []
    for begin in range(0, size, step):
        chunk = everything
        if step < size:
            chunk = everything.rows(begin, min(begin + step, size))
        collected = collected_by(where, loss_fn, options, selected, chunk)
        part = Part(collected.values, collected.factors, chunk.mask)
        each, total = contract(part, selected)
        stacked.append(each)
        summed = total if summed is None else merge(summed, total)
        auxes.append(collected.aux)
    if len(stacked) == 1:
        return stacked[0], summed, auxes[0]
    return joined(torch.cat, stacked), summed, joined(torch.cat, auxes)


def stacking(
    where: str, loss_fn: Callable[..., Any], options: Options, contract: Contract
) -> Callable[..., Any]:
    """The function of a batch whose result is what `contract` stacks."""
    _checks.options(where, loss_fn, options)

    def stacking_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        found, _, aux = run(
            where, loss_fn, options, params, batch, keys, mask, contract
        )
        return (found, aux) if options.has_aux else found

    return stacking_fn


def collected_by(
    where: str,
    loss_fn: Callable[..., Any],
    options: Options,
    selected: Selected,
    batch: Batch,
) -> Collected:
    """What the method of the options collects from a batch."""
    if options.method == "loop":
        loss = sample_loss(where, loss_fn, options, selected)
        with _failures.told(where, loss_fn, options):
            return one_by_one(loss, selected.differentiated(), batch)
    kind = None if options.method == "vmap" else Tape
    # While Dynamo traces there are no lines; the abstract run of fl.jit has them.
    is_strict = options.method == "factored" and not torch.compiler.is_compiling()
    if is_strict:
        kind = Watch
    found = found_by(where, loss_fn, options, selected, batch, kind)
    if is_strict:
        require_factored(where, loss_fn, found)
    return collect(found, batch.mask)


def found_by(
    where: str,
    loss_fn: Callable[..., Any],
    options: Options,
    selected: Selected,
    batch: Batch,
    kind: type[Tape] | None,
) -> Found:
    """What a pass over a batch finds, its failures told in terms of the loss."""
    loss = sample_loss(where, loss_fn, options, selected)
    with _failures.told(where, loss_fn, options):
        return find(loss, selected.differentiated(), batch, kind)


def sample_loss(
    where: str, loss_fn: Callable[..., Any], options: Options, selected: Selected
) -> SampleLoss:
    """The user's loss as a function of the selected leaves, its result checked."""

    def loss(leaves: list[Tensor], sample: Any, key: Any) -> tuple[Tensor, Any]:
        if options.keep_batch_axis:
            sample = tree.map(lambda leaf: leaf.unsqueeze(0), sample)
        keywords = {} if key is None else {"key": key}
        result = loss_fn(selected.merge(leaves), *sample, **keywords)
        return _checks.loss(where, loss_fn, result, options)

    return loss
