# SPDX-License-Identifier: Apache-2.0
"""The operations of torch that change their first argument."""

from __future__ import annotations

from types import ModuleType

import torch

from functorch_lab.per_sample._views import names

_METADATA = ("requires_grad_",)


def _changing(where: type | ModuleType) -> list[str]:
    return [
        name
        for name in dir(where)
        if name.endswith("_")
        and not name.endswith("__")
        and (not name.startswith("_") or name.startswith("_foreach_"))
        and name not in _METADATA
    ]


_ASSIGNMENTS = names("""
    __iadd__ __isub__ __imul__ __imatmul__ __itruediv__ __idiv__ __ifloordiv__ __imod__
    __ipow__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__
    __setitem__ data= real= imag=
""")

CHANGES = frozenset(
    [
        *_changing(torch.Tensor),
        *_changing(torch),
        *_changing(torch.nn.functional),
        *_changing(torch.nn.init),
        *_ASSIGNMENTS,
    ]
)


def refusal(path: str, name: str) -> str:
    """What is said in place of a change to a parameter."""
    return (
        f"per_sample: params{path}: expected a loss that leaves its parameters as they "
        f"are, got {name}, which writes to this one or to a view of it. Compute a new "
        "tensor, as w = w + 1 does."
    )
