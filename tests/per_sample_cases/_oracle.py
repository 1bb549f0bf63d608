# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients by one backward pass each, and the distance from them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from per_sample_cases._row import Case

Grads = Mapping[str, Tensor]


def oracle(case: Case, graph: bool = False) -> dict[str, Tensor]:
    """Gradients of shape `(batch, *leaf)` by dotted path, with torch.autograd alone.

    Of the module itself where there is one, so that the bridge is not trusted. With
    `graph` they can be differentiated by the floating leaves of `case.params`.
    """
    count = len(_pytree.tree_leaves(case.batch)[0])
    rows = [_backward(case, i, graph) for i in range(count)]
    return {path: torch.stack([row[path] for row in rows]) for path in rows[0]}


def by_path(tree: Any) -> dict[str, Tensor]:
    """Leaves of nested dicts and sequences, named as a module names its parameters."""
    found = {}
    for path, leaf in _pytree.tree_flatten_with_path(tree)[0]:
        parts = (getattr(key, "key", getattr(key, "idx", None)) for key in path)
        found[".".join(map(str, parts))] = leaf
    return found


def norms(grads: Grads) -> Tensor:
    """One for each sample, of all leaves together."""
    squares = [_flat(grad).square().sum(1) for grad in grads.values()]
    return torch.stack(squares).sum(0).sqrt()


def gram(grads: Grads) -> Tensor:
    """Inner products between the samples, of all leaves together."""
    flat = torch.cat([_flat(grad) for grad in grads.values()], 1)
    return flat @ flat.T


def errors(got: Grads, expected: Grads) -> dict[str, float]:
    """The largest over the samples of |got - expected| / |expected|, by path.

    A leaf whose gradient is zero but for rounding (the bias of attention's keys) is
    measured by the norm of the sample's whole gradient.
    """
    whole = norms(expected)
    found = {}
    for path, wanted in expected.items():
        scale = _flat(wanted).norm(dim=1)
        scale = torch.where(scale > 1e-9 * whole, scale, whole)
        difference = _flat(got[path].to(wanted.dtype) - wanted).norm(dim=1)
        found[path] = (difference / scale).max().item()
    return found


def _flat(grads: Tensor) -> Tensor:
    return grads.reshape(len(grads), -1)


def one_by_one(
    loss_fn: Callable[..., Tensor], params: Any, *batch: Any, **how: Any
) -> dict[str, Tensor]:
    """`oracle` of a loss of parameters and one sample; `how` are fields of a case."""
    return oracle(Case(params, loss_fn, batch, **how))


def _variable(leaf: Tensor) -> Tensor:
    return leaf.detach().clone().requires_grad_(leaf.is_floating_point())


def _backward(case: Case, i: int, graph: bool) -> dict[str, Tensor]:
    if case.module is not None and case.batch_losses is not None:
        sample = _pytree.tree_map(lambda leaf: leaf[i : i + 1], case.batch)
        leaves = dict(case.module.named_parameters())
        loss = case.batch_losses(case.module, *sample)[0]
    else:
        place = slice(i, i + 1) if case.keep_batch_axis else i
        sample = _pytree.tree_map(lambda leaf: leaf[place], case.batch)
        params = case.params
        if not graph:
            params = _pytree.tree_map(_variable, params)
        leaves = {k: p for k, p in by_path(params).items() if p.requires_grad}
        key = {} if case.keys is None else {"key": case.keys[i]}
        loss = case.loss_fn(params, *sample, **key)
    grads = torch.autograd.grad(
        loss,
        list(leaves.values()),
        create_graph=graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(leaves, grads, strict=True))
