# SPDX-License-Identifier: Apache-2.0
"""What Dynamo does not show to a mode."""

from __future__ import annotations

from typing import Any


def show_all() -> None:
    """Lets `x.T`, `x.mT` and `for row in x` reach the modes of a traced function.

    Dynamo writes attributes and rows into the graph without asking a mode (torch 2.13),
    so that the transposed parameter in `x @ w.T` would be an unknown tensor. In a mode
    it now traces the methods that do the same; outside of modes nothing changes.
    """
    from torch._dynamo.variables.constant import ConstantVariable
    from torch._dynamo.variables.tensor import TensorVariable

    variable: Any = TensorVariable
    if hasattr(variable, "method_attr_T"):
        return
    unpack = variable.unpack_var_sequence

    def is_watched(tensor: Any, tx: Any) -> bool:
        # Of an input of the whole trace Dynamo would read the attribute again.
        state = tx.symbolic_torch_function_state
        return tensor.source is None and state.in_torch_function_mode()

    def transposed(tensor: Any, tx: Any) -> Any:
        if not is_watched(tensor, tx) or tensor.ndim != 2 or tensor.dtype.is_complex:
            return None
        return tensor.call_method(tx, "t", [], {})

    def batch_transposed(tensor: Any, tx: Any) -> Any:
        if not is_watched(tensor, tx) or tensor.dtype.is_complex:
            return None
        axes = [ConstantVariable.create(-2), ConstantVariable.create(-1)]
        return tensor.call_method(tx, "transpose", axes, {})

    def rows(tensor: Any, tx: Any, idxes: Any = None) -> Any:
        if not is_watched(tensor, tx) or not tensor.ndim:
            return unpack(tensor, tx, idxes)
        found = tensor.call_method(tx, "unbind", [], {}).unpack_var_sequence(tx)
        if idxes is None or len(idxes) == len(found):
            return found
        return unpack(tensor, tx, idxes)

    variable.method_attr_T = variable.method_attr_H = transposed
    variable.method_attr_mT = variable.method_attr_mH = batch_transposed
    variable.unpack_var_sequence = rows


# Called while Dynamo traces; what it does is no part of the graph.
show_all._dynamo_marked_constant = True  # pyright: ignore
