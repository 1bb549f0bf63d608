# SPDX-License-Identifier: Apache-2.0
"""Keeps an optimizer's kernels from reading gradients in another order than weights.

On CPU Inductor computes convolutions with channels last, the gradients of their weights
too. An update that reads such a gradient together with a contiguous weight and its
moments goes back and forth in memory, and takes 20 times as long as one in a single
order (torch 2.13). This pass copies these gradients into the order of the weights.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass

_library = torch.library.Library("functorch_lab", "FRAGMENT")
# An operation that Inductor neither fuses nor asks for an order of its argument.
_library.define("in_order(Tensor x) -> Tensor", tags=[torch.Tag.flexible_layout])


def _in_order(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


_library.impl("in_order", _in_order, "CompositeExplicitAutograd")


class WeightGradientsInOrder(CustomGraphPass):
    """Copies the gradients of weights of convolutions that are contiguous."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Changes the graph in place."""
        target = torch.ops.aten.convolution_backward.default
        for node in graph.find_nodes(op="call_function", target=target):
            weight = node.args[2].meta["val"]
            pixels = math.prod(weight.shape[2:])
            if weight.device.type == "cpu" and weight.is_contiguous() and pixels > 1:
                for user in list(node.users):
                    if user.target is operator.getitem and user.args[1] == 1:
                        _copied(graph, user, weight)

    def uuid(self) -> str:
        """Identity for Inductor's cache on disk."""
        return "functorch_lab.WeightGradientsInOrder.1"


def _copied(graph: torch.fx.Graph, gradient: Any, weight: Tensor) -> None:
    with graph.inserting_after(gradient):
        copy = graph.call_function(
            torch.ops.functorch_lab.in_order.default, (gradient,)
        )
    copy.meta["val"] = torch.empty_like(weight)
    gradient.replace_all_uses_with(copy, lambda user: user is not copy)
