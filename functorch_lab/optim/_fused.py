# SPDX-License-Identifier: Apache-2.0
"""One buffer per dtype and device in place of many leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._arguments import check_grads, check_transformation, trainable
from functorch_lab.optim._elementwise import elementwise, is_elementwise
from functorch_lab.types import GradientTransformation


def fused(inner: GradientTransformation) -> GradientTransformation:
    """Joins the leaves into one buffer per dtype and device, and runs `inner` on these.

    The updates are those of `inner`; its state holds flat buffers, a tuple of them
    where it would hold a tree. One kernel replaces one per leaf, which compiles in
    seconds where hundreds of leaves take minutes.

    Raises:
        ValueError: `inner` is not elementwise; in `update`, grads that differ from the
            params, a hole among the gradients of floating leaves included.
        TypeError: `inner` is no transformation.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.fused(fl.optim.sgd(lr=0.5, momentum=0.9))
        >>> params = {"w": torch.ones(2, 3), "b": torch.ones(2)}
        >>> state = optimizer.init(params)
        >>> [buffer.shape for buffer in state.momentum_buffer]
        [torch.Size([8])]
        >>> updates, state = optimizer.update(params, state, params)
        >>> updates["b"]
        tensor([-0.5000, -0.5000])
    """
    where = "optim.fused"
    check_transformation(where, inner)
    if not is_elementwise(inner):
        raise ValueError(
            f"{where}: inner: expected an elementwise transformation, got one that "
            "looks at single leaves. Use it unfused, or fuse the members of a chain "
            "that are elementwise; freeze goes outside: freeze(fused(...), pattern)."
        )

    def init(params: Any) -> Any:
        leaves = tree.leaves(trainable(f"{where}.init", params))
        return inner.init(_join(leaves, _groups(leaves)))

    @elementwise
    def update(
        grads: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        check_grads(f"{where}.update", grads)
        leaves, treedef = tree.flatten(grads)
        like, joined = leaves, None
        if params is not None:
            params = trainable(f"{where}.update", params)
            _check(f"{where}.update", params, grads)
            like = tree.leaves(params)
        groups = _groups(like)
        if params is not None:
            joined = _join(like, groups)
        buffers, state = inner.update(_join(leaves, groups), state, joined, **extra)
        return tree.unflatten(treedef, _split(buffers, leaves, groups)), state

    return GradientTransformation(init, update)


def _check(where: str, params: Any, grads: Any) -> None:
    # Stricter than for other transformations: a buffer cannot leave one leaf out.
    if not torch.compiler.is_dynamo_compiling():
        tree.check_same_structure(
            params,
            grads,
            what=where,
            names=("params", "grads"),
            remedy="Pass the gradients of these params; for a part of them, "
            "freeze(fused(...), pattern).",
            check_dtype=False,
        )


def _groups(leaves: Iterable[Tensor]) -> list[list[int]]:
    """The positions of the leaves that share dtype and device, by first appearance."""
    groups: dict[Any, list[int]] = {}
    for position, leaf in enumerate(leaves):
        groups.setdefault((leaf.dtype, leaf.device), []).append(position)
    return list(groups.values())


def _join(leaves: list[Tensor], groups: list[list[int]]) -> tuple[Tensor, ...]:
    return tuple([torch.cat([leaves[i].reshape(-1) for i in g]) for g in groups])


def _split(
    buffers: tuple[Tensor, ...], leaves: list[Tensor], groups: list[list[int]]
) -> list[Tensor]:
    result = list(leaves)
    for buffer, group in zip(buffers, groups, strict=True):
        start = 0
        for i in group:
            # Slices and not split(): the compiler stores a value that many slices read,
            # but computes one that is split again for each of the pieces.
            stop = start + leaves[i].numel()
            result[i] = buffer[start:stop].reshape(leaves[i].shape)
            start = stop
    return result
