# SPDX-License-Identifier: Apache-2.0
"""The end of a step: updates added to the parameters."""

from typing import Any

from torch import Tensor

from functorch_lab import tree
from functorch_lab.optim._arguments import check_like, is_hole


def apply_updates(params: Any, updates: Any) -> Any:
    """`params + updates`, in the dtype of the params.

    The sum is rounded once, so that a float32 update moves bfloat16 params as far as
    they can. Where the updates have a hole `()`, the parameter stays as it is.

    Raises:
        ValueError: the trees differ in structure or in a shape; the path is named.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> params = {"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor(3)}
        >>> updates = {"w": torch.tensor([0.5, -0.5]), "steps": ()}
        >>> fl.optim.apply_updates(params, updates)
        {'w': tensor([1.5000, 1.5000]), 'steps': tensor(3)}
    """
    check_like("optim.apply_updates", params, updates, "updates", "Pass their updates.")

    def add(p: Tensor, u: Any) -> Tensor:
        return p if is_hole(u) else (p + u).to(p.dtype)

    return tree.map(add, params, updates)
