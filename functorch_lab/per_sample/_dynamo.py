# SPDX-License-Identifier: Apache-2.0
"""What Dynamo does not show to a mode."""

from __future__ import annotations

from typing import Any


def show_attributes() -> None:
    """Lets `x.T` and `x.mT` reach the modes of a traced function.

    Dynamo writes attributes into the graph without asking them (torch 2.13), so that
    the transposed parameter in `x @ w.T` would be an unknown tensor. In a mode it now
    traces the methods that do the same; outside of modes nothing changes.
    """
    from torch._dynamo.variables.constant import ConstantVariable
    from torch._dynamo.variables.tensor import TensorVariable

    def in_mode(tensor: Any, tx: Any) -> bool:
        # An input of the whole trace: Dynamo would look up its attribute again.
        state = tx.symbolic_torch_function_state
        return tensor.source is None and state.in_torch_function_mode()

    def method_attr_T(tensor: Any, tx: Any) -> Any:
        if tensor.ndim != 2 or not in_mode(tensor, tx):
            return None
        return tensor.call_method(tx, "t", [], {})

    def method_attr_mT(tensor: Any, tx: Any) -> Any:
        if not in_mode(tensor, tx):
            return None
        axes = [ConstantVariable.create(-2), ConstantVariable.create(-1)]
        return tensor.call_method(tx, "transpose", axes, {})

    variable: Any = TensorVariable
    if not hasattr(variable, "method_attr_T"):
        variable.method_attr_T = method_attr_T
        variable.method_attr_mT = method_attr_mT


# Called while Dynamo traces; what it does is no part of the graph.
show_attributes._dynamo_marked_constant = True  # pyright: ignore
