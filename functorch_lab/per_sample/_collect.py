# SPDX-License-Identifier: Apache-2.0
"""From a loss and a batch to the factored gradients of its samples, in one backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _linear, _lookup  # noqa: F401  (the rules)
from functorch_lab.per_sample._factor import Factor, merged
from functorch_lab.per_sample._tape import Build, Output, Tape
from functorch_lab.per_sample._uses import Direct, Unused, Use, chosen
from functorch_lab.transforms import vmap
from functorch_lab.transforms._engine import value_and_gradients

# `loss(leaves, sample, key) -> (value, aux)` of one sample, checked.
SampleLoss = Callable[[list[Tensor], Any, Any], tuple[Tensor, Any]]


class Collected(NamedTuple):
    """What one pass over a batch of samples gives.

    Attributes:
        values: the losses, `(B,)`.
        aux: with a leading axis of samples.
        factors: one for each leaf.
    """

    values: Tensor
    aux: Any
    factors: list[Factor]


def collect(
    loss: SampleLoss,
    leaves: list[Tensor],
    batch: Any,
    keys: Tensor | None,
    mask: Tensor | None,
    *,
    factored: bool,
) -> Collected:
    """Runs the loss of all samples forward and backward.

    Args:
        loss: of one sample.
        leaves: the parameters to differentiate.
        batch: a tree whose leaves have a leading axis of samples.
        keys: one for each sample, or None.
        mask: which samples count, `(B,)`, or None for all.
        factored: whether recognised uses are kept as factors; else all are direct.
    """
    mapped = (batch,) if keys is None else (batch, keys)
    count = tree.leaves(batch)[0].shape[0]
    outputs = _plan(loss, leaves, mapped) if factored else []
    probes = [
        torch.zeros((count, *o.shape), dtype=o.dtype, device=o.device) for o in outputs
    ]
    stand_ins = [leaf.expand(count, *leaf.shape) for leaf in leaves]
    builds: list[list[tuple[int, Build]]] = []

    def call(variables: list[Tensor]) -> tuple[Tensor, Any]:
        def one(variables: list[Tensor], sample: Any, key: Any = None) -> Any:
            nonlocal builds
            stand_ins = variables[len(outputs) :]
            if not factored:
                return *loss(stand_ins, sample, key), []
            tape = Tape(stand_ins, leaves, variables[: len(outputs)])
            with tape:
                value, aux = loss(stand_ins, sample, key)
            builds = tape.builds
            return value, aux, tape.kept

        values, aux, kept = vmap(one)(variables, *mapped)
        counted = values if mask is None else chosen(mask, values)
        return counted.sum(), (values, aux, kept)

    _, (values, aux, kept), gradients = value_and_gradients(
        call, [*probes, *stand_ins], materialize=False
    )
    uses: list[list[Use]] = [[] for _ in leaves]
    for delta, tensors, pairs in zip(
        gradients[: len(outputs)], kept, builds, strict=True
    ):
        for leaf, build in pairs if delta is not None else []:
            uses[leaf].append(build(delta, *tensors))
    for leaf, gradient in enumerate(gradients[len(outputs) :]):
        if gradient is not None:
            uses[leaf].append(Direct(gradient))
        if not uses[leaf]:
            zero = leaves[leaf].new_zeros(count)
            uses[leaf].append(Unused(zero, tuple(leaves[leaf].shape)))
    factors = [merged(found) for found in uses]
    if mask is not None:
        values = chosen(mask, values)
        factors = [factor.masked(mask) for factor in factors]
    return Collected(values, aux, factors)


def _plan(
    loss: SampleLoss, leaves: list[Tensor], mapped: tuple[Any, ...]
) -> list[Output]:
    """The outputs that get a probe, from an evaluation of the first sample."""
    tape = Tape(leaves, leaves, None)
    first = tree.map(lambda leaf: leaf[0].detach(), mapped)
    with torch.no_grad(), tape:
        loss(leaves, *first, *[None for _ in range(2 - len(mapped))])
    return tape.outputs


def one_by_one(
    loss: SampleLoss,
    leaves: list[Tensor],
    batch: Any,
    keys: Tensor | None,
    mask: Tensor | None,
) -> Collected:
    """What `collect` gives, by one backward pass for each sample, without vmap."""
    found: list[tuple[Tensor, Any, list[Tensor]]] = []
    for i in range(tree.leaves(batch)[0].shape[0]):
        sample = tree.map(lambda leaf, i=i: leaf[i], batch)
        key = None if keys is None else keys[i]
        found.append(
            value_and_gradients(
                lambda variables, sample=sample, key=key: loss(variables, sample, key),
                leaves,
            )
        )
    values = torch.stack([value for value, _, _ in found])
    aux = tree.map(lambda *parts: torch.stack(parts), *[aux for _, aux, _ in found])
    columns = zip(*[gradients for _, _, gradients in found], strict=True)
    factors = [Factor((Direct(torch.stack(column)),)) for column in columns]
    if mask is not None:
        values = chosen(mask, values)
        factors = [factor.masked(mask) for factor in factors]
    return Collected(values, aux, factors)
