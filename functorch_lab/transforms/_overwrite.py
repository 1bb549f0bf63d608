# SPDX-License-Identifier: Apache-2.0
"""Keeps Inductor from reading a donated tensor after it was overwritten.

Inductor removes clones. When the new value of one donated tensor is a copy of another
donated tensor, what is left is `copy_(a, b); copy_(b, a)`, and the second line reads
the new `a`: a swap of two tensors gives twice the same (torch 2.13). This pass runs
after the removal and puts back the copies that are needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass


class ReadBeforeOverwrite(CustomGraphPass):
    """Copies what the write-back reads from memory that is itself written."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        """Changes the graph in place."""
        writes = [
            node
            for node in graph.find_nodes(
                op="call_function", target=torch.ops.aten.copy_.default
            )
            if node.args[0].op == "placeholder"
        ]
        written = {_memory(node.args[0]) for node in writes}
        for node in writes:
            target, source = node.args
            if source is target or _memory(source) not in written:
                continue
            with graph.inserting_before(writes[0]):
                copy = graph.call_function(torch.ops.aten.clone.default, (source,))
                copy.meta["val"] = source.meta["val"].clone()
            node.update_arg(1, copy)

    def uuid(self) -> str:
        """Identity for Inductor's cache on disk."""
        return "functorch_lab.ReadBeforeOverwrite.1"


def _memory(node: Any) -> Any:
    value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return object()
    return value.untyped_storage()._cdata
