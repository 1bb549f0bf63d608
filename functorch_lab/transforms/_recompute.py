# SPDX-License-Identifier: Apache-2.0
"""Keeps Inductor from computing again too early what `checkpoint` did not keep.

In the one graph of a training step, what is computed again for a backward pass depends
on nothing but what the forward pass had. Inductor is free to do it at once, and does:
it fuses the second computation with the first, or puts it before the whole backward
pass, and the memory that was to be saved is taken (torch 2.13). This pass makes each
such computation depend on the gradient that has arrived where it is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.partitioners import must_recompute
from torch._inductor.custom_graph_pass import CustomGraphPass

_library = torch.library.Library("functorch_lab", "FRAGMENT")
_library.define("after(Tensor x, Tensor then) -> Tensor")
# A copy, because the result of an operation may not be its argument. It is of one
# tensor, the smallest, for each computation that starts anew.
_library.impl("after", lambda x, then: x.clone(), "CompositeExplicitAutograd")


class RecomputeLate(CustomGraphPass):
    """Puts `after(x, gradient)` for an `x` with which a second computation starts."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Changes the graph in place."""
        arrived: Any = None  # the last result of the backward pass so far
        late: set[torch.fx.Node] = set()  # what depends on a gradient
        for node in list(graph.nodes):
            if not node.meta.get("autograd_backward"):
                continue
            if not must_recompute(node):
                arrived = node if _is_tensor(node) else arrived
            elif any(source in late for source in node.all_input_nodes):
                late.add(node)
            elif arrived is not None and not _is_view(node):
                source = min(_tensors(node), key=lambda each: each.meta["val"].nbytes)
                late |= {node, _after(graph, node, source, arrived)}

    def uuid(self) -> str:
        """Identity for Inductor's cache on disk."""
        return "functorch_lab.RecomputeLate.1"


def _after(
    graph: torch.fx.Graph, node: torch.fx.Node, source: Any, arrived: Any
) -> torch.fx.Node:
    with graph.inserting_before(node):
        target = torch.ops.functorch_lab.after.default
        copy = graph.call_function(target, (source, arrived))
    copy.meta["val"] = torch.empty_like(source.meta["val"])
    # What is computed again further on reads the copy too: the original can go.
    source.replace_all_uses_with(
        copy, lambda user: user is not copy and _is_recomputed(user) and user > node
    )
    node.replace_input_with(source, copy)
    return copy


def _is_recomputed(node: torch.fx.Node) -> bool:
    return must_recompute(node) and bool(node.meta.get("autograd_backward"))


def _is_tensor(node: torch.fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _tensors(node: torch.fx.Node) -> list[torch.fx.Node]:
    return [source for source in node.all_input_nodes if _is_tensor(source)]


def _is_view(node: torch.fx.Node) -> bool:
    """Whether there is nothing to compute: a view, or a constant."""
    sources = _tensors(node)
    if not sources or not _is_tensor(node):
        return not sources
    memory = node.meta["val"].untyped_storage()._cdata
    return any(
        source.meta["val"].untyped_storage()._cdata == memory for source in sources
    )
