# SPDX-License-Identifier: Apache-2.0
"""What a loop carries from step to step: a tree whose types never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._flat import (
    flatten,
    kind_of,
    name_of,
    paths,
    unflatten,
)

NUMBERS = (bool, int, float, complex)


class Carry:
    """The current value of a carry, as flat leaves, and the check of the next one.

    Python numbers in `init` are weakly typed, as in JAX: they take the dtype and device
    that the first step gives them.
    """

    def __init__(self, where: str, fn: Callable[..., Any], init: Any) -> None:
        self.where = f"{where}: {name_of(fn)}"
        found, self.spec = flatten(init)
        for index, leaf in enumerate(found):
            if leaf is not None and not isinstance(leaf, (Tensor, *NUMBERS)):
                raise TypeError(
                    f"{where}: init: expected tensors or numbers, got {kind_of(leaf)} "
                    f"at {path_of(init, index)}. Close the function over what is "
                    "no tensor."
                )
        self._numbers = [x if isinstance(x, NUMBERS) else None for x in found]
        self.previous: list[Any] = []
        self.leaves = [torch.tensor(x) if isinstance(x, NUMBERS) else x for x in found]

    @property
    def tree(self) -> Any:
        return unflatten(self.spec, self.leaves)

    def advance(self, step: Callable[[Any], tuple[Any, Any]]) -> Any:
        """Replaces the value by the first result of `step(value)`; returns the other.

        Raises:
            ValueError: the result differs from the carry in structure, shape, dtype or
                device.
        """
        carry, extra = step(self.tree)
        if self._numbers:
            if self._adopt(carry):
                carry, extra = step(self.tree)
            self._numbers = []
        self.previous, self.leaves = self.leaves, self.checked(carry)
        return extra

    def checked(self, carry: Any) -> list[Any]:
        """The leaves of a next value, if it has the type of this one."""
        found, spec = flatten(carry)
        remedy = "Return a carry of the same structure, shapes and dtypes as init."
        if spec != self.spec:
            raise ValueError(
                f"{self.where}: carry: expected the structure {self.spec}, got {spec}. "
                f"{remedy}"
            )
        for index, old in enumerate(self.leaves):
            if isinstance(found[index], NUMBERS) and isinstance(old, Tensor):
                found[index] = _as_like(found[index], old)
            new = found[index]
            if not _same_type(old, new):
                raise ValueError(
                    f"{self.where}: carry: expected {_type_of(old)} at "
                    f"{path_of(carry, index)}, as it came in, got {_type_of(new)}. "
                    f"{remedy}"
                )
        return found

    def _adopt(self, carry: Any) -> bool:
        """Gives what was a number the type of the result; whether that changed it."""
        found, spec = flatten(carry)
        if spec != self.spec:
            return False
        changed = False
        for index, (number, new) in enumerate(zip(self._numbers, found, strict=True)):
            if number is None or not isinstance(new, Tensor):
                continue
            old = self.leaves[index]
            differs = (new.dtype, new.device) != (old.dtype, old.device)
            if differs and _rank(new.dtype) >= _rank(old.dtype):
                self.leaves[index] = torch.tensor(
                    number, dtype=new.dtype, device=new.device
                )
                changed = True
        return changed


def path_of(tree: Any, index: int) -> str:
    return paths(tree)[index] or "the root"


def _rank(dtype: torch.dtype) -> int:
    """Bool, integer, real, complex: a number may become what stands further right."""
    if dtype.is_complex:
        return 3
    return 2 if dtype.is_floating_point else int(dtype != torch.bool)


def _as_like(number: complex, like: Tensor) -> Tensor:
    found = torch.tensor(number, device=like.device)
    return found.to(like.dtype) if _rank(found.dtype) == _rank(like.dtype) else found


def _same_type(old: Any, new: Any) -> bool:
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        return old is None and new is None
    return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)


def _type_of(value: Any) -> str:
    if not isinstance(value, Tensor) or value.device.type == "cpu":
        return kind_of(value)
    return f"{kind_of(value)} on {value.device}"


def require_function(where: str, name: str, function: object) -> None:
    if not callable(function):
        raise TypeError(
            f"{where}: {name}: expected a function, got {kind_of(function)}. "
            "Pass the function itself, uncalled."
        )
