# SPDX-License-Identifier: Apache-2.0
"""From a loss and a batch to the factored gradients of its samples, in one backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import (  # noqa: F401  (the rules)
    _attention,
    _bags,
    _cells,
    _composite,
    _convolution,
    _einsum,
    _linear,
    _lookup,
    _vectors,
)
from functorch_lab.per_sample._factor import Factor, merged
from functorch_lab.per_sample._tape import Build, Changed, Output, Overwritten, Tape
from functorch_lab.per_sample._uses import Direct, Unused, Use, chosen
from functorch_lab.transforms import vmap
from functorch_lab.transforms._engine import value_and_gradients
from functorch_lab.transforms._flat import flatten

# `loss(leaves, sample, key) -> (value, aux)` of one sample, checked.
SampleLoss = Callable[[list[Tensor], Any, Any], tuple[Tensor, Any]]


class Batch(NamedTuple):
    """Everything with a leading axis of samples.

    Attributes:
        leaves: a tree.
        keys: one for each sample, or None.
        mask: which samples count, `(B,)`, or None for all.
    """

    leaves: Any
    keys: Tensor | None
    mask: Tensor | None

    def size(self) -> int:
        return tree.leaves(self.leaves)[0].shape[0]

    def mapped(self) -> tuple[Any, ...]:
        """What the loss of one sample gets one row of."""
        return (self.leaves,) if self.keys is None else (self.leaves, self.keys)

    def rows(self, begin: int, end: int) -> Batch:
        leaves = tree.map(lambda leaf: leaf[begin:end], self.leaves)
        keys = None if self.keys is None else self.keys[begin:end]
        return Batch(leaves, keys, None if self.mask is None else self.mask[begin:end])


class Leaves(NamedTuple):
    """The parameters to differentiate, and their paths."""

    tensors: list[Tensor]
    names: list[str]


class Found(NamedTuple):
    """What one forward and one backward pass over a batch give.

    Attributes:
        values: the losses, `(B,)`.
        aux: with a leading axis of samples.
        uses: for each leaf its uses; each with the number of the output that showed
            it, or None for what no rule knows.
        tape: what watched the loss, if uses were to be recognised.
    """

    values: Tensor
    aux: Any
    uses: list[list[tuple[int | None, Use]]]
    tape: Tape | None


class Collected(NamedTuple):
    """The losses and gradients of a batch.

    Attributes:
        values: the losses, `(B,)`; zero where masked.
        aux: with a leading axis of samples.
        factors: one for each leaf.
    """

    values: Tensor
    aux: Any
    factors: list[Factor]


def collect(found: Found, mask: Tensor | None) -> Collected:
    """The factor of each leaf, of the uses that `find` gives."""
    factors = [merged([use for _, use in uses]) for uses in found.uses]
    return _masked(found.values, found.aux, factors, mask)


def find(
    loss: SampleLoss, leaves: Leaves, batch: Batch, kind: type[Tape] | None = Tape
) -> Found:
    """Runs the loss of all samples forward and backward.

    Args:
        loss: of one sample.
        leaves: what to differentiate.
        batch: the samples.
        kind: what watches the loss; None to take all uses as unknown.

    Raises:
        Changed: the loss does not use its parameters alike at each evaluation.
        Overwritten: the loss wrote to an input of an operation with a parameter.
    """
    overwritten: dict[int, str] = {}
    outputs = _plan(loss, leaves, batch) if kind else []
    tape: Tape | None = None

    def call(variables: list[Tensor]) -> tuple[Tensor, Any]:
        def one(variables: list[Tensor], sample: Any, key: Any = None) -> Any:
            nonlocal tape, overwritten
            probes, stand_ins = variables[: len(outputs)], variables[len(outputs) :]
            if kind is None:
                # Finds no parameter, but what vmap alone refuses or gets wrong is done
                # by its rule.
                unseeing = Tape(stand_ins, *leaves, ())
                unseeing.tracked.clear()
                with unseeing:
                    return *loss(stand_ins, sample, key), []
            tape = kind(stand_ins, *leaves, probes)
            with tape:
                value, aux = loss(stand_ins, sample, key)
            overwritten = tape.overwritten()
            return value, aux, tape.kept

        values, aux, kept = vmap(one)(variables, *batch.mapped())
        return values.sum(), (values, aux, kept)  # `collect` masks the gradients

    count = batch.size()
    probes = [output.probe(count) for output in outputs]
    stand_ins = [leaf.expand(count, *leaf.shape) for leaf in leaves.tensors]
    _, (values, aux, kept), gradients = value_and_gradients(
        call, [*probes, *stand_ins], materialize=False
    )
    builds = [] if tape is None else tape.builds
    if len(builds) != len(outputs):
        raise Changed
    for number, name in overwritten.items():
        if gradients[number] is not None:
            raise Overwritten(name)
    uses: list[list[tuple[int | None, Use]]] = [[] for _ in stand_ins]
    _add_recognised(uses, gradients[: len(outputs)], kept, builds)
    for i, gradient in enumerate(gradients[len(outputs) :]):
        if gradient is not None:
            uses[i].append((None, Direct(gradient)))
        if not uses[i]:
            zero = leaves.tensors[i].new_zeros(count)
            uses[i].append((None, Unused(zero, tuple(leaves.tensors[i].shape))))
    return Found(values, aux, uses, tape)


def _add_recognised(
    uses: list[list[tuple[int | None, Use]]],
    deltas: list[Any],
    kept: list[tuple[Tensor, ...]],
    builds: list[list[tuple[int, Build]]],
) -> None:
    for number, delta in enumerate(deltas):
        for leaf, build in builds[number] if delta is not None else []:
            uses[leaf].append((number, build(delta, *kept[number])))


def _plan(loss: SampleLoss, leaves: Leaves, batch: Batch) -> list[Output]:
    """The outputs that get a probe, from an evaluation of the first sample."""
    outputs: list[Output] = []

    # Under vmap as the pass that follows, so that the loss does the same in both.
    def one(sample: Any, key: Any = None) -> tuple[Tensor]:
        nonlocal outputs
        tape = Tape(stand_ins, *leaves, None)
        with tape:
            value, _ = loss(stand_ins, sample, key)
        outputs = tape.outputs
        return (value,)

    first = tree.map(torch.Tensor.detach, batch.rows(0, 1).mapped())
    # With gradients on, as then, but without a graph.
    stand_ins = [leaf.detach() for leaf in leaves.tensors]
    with torch.enable_grad():
        vmap(one)(*first)
    return outputs


def one_by_one(loss: SampleLoss, leaves: Leaves, batch: Batch) -> Collected:
    """What `collect` gives, by one backward pass for each sample, without vmap."""
    found: list[tuple[Tensor, Any, list[Tensor]]] = []
    for i in range(batch.size()):
        sample, *key = tree.map(lambda leaf, i=i: leaf[i], batch.mapped())
        found.append(
            value_and_gradients(
                lambda variables, sample=sample, key=key: loss(
                    variables, sample, key[0] if key else None
                ),
                leaves.tensors,
            )
        )
    values = torch.stack([value for value, _, _ in found])
    aux = joined(_stacked, [aux for _, aux, _ in found])
    columns = zip(*[gradients for _, _, gradients in found], strict=True)
    factors = [Factor((Direct(torch.stack(column)),)) for column in columns]
    return _masked(values, aux, factors, batch.mask)


def joined(join: Callable[[Any], Tensor], trees: list[Any]) -> Any:
    """One tree of several; `None` where they have it."""
    columns = zip(*[flatten(node)[0] for node in trees], strict=True)
    found = [None if parts[0] is None else join(parts) for parts in columns]
    return flatten(trees[0])[1].unflatten(found)


def _stacked(parts: Any) -> Tensor:
    return torch.stack([torch.as_tensor(part) for part in parts])


def _masked(
    values: Tensor, aux: Any, factors: list[Factor], mask: Tensor | None
) -> Collected:
    if mask is None:
        return Collected(values, aux, factors)
    kept = [factor.masked(mask) for factor in factors]
    return Collected(chosen(mask, values), aux, kept)
