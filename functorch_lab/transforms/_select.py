# SPDX-License-Identifier: Apache-2.0
"""Which leaves of which arguments a derivative is taken of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from functorch_lab.transforms._flat import (
    as_tensor,
    flatten,
    is_differentiable,
    kind_of,
    paths,
    unflatten,
)

Argnums = int | Sequence[int]


class Selection:
    """The differentiable leaves of the arguments `argnums`, and the way back."""

    def __init__(self, where: str, args: tuple[Any, ...], argnums: Argnums) -> None:
        self.args = args
        self.single = isinstance(argnums, int)
        numbers = [argnums] if isinstance(argnums, int) else list(argnums)
        self.indices = [_checked_index(where, n, len(args)) for n in numbers]
        if len(set(self.indices)) < len(self.indices):
            raise ValueError(
                f"{where}: argnums: expected each argument once, got {argnums}. Name "
                "it once, and use its gradient twice."
            )
        selected = [args[i] for i in self.indices]
        found, spec = flatten(selected)
        self.spec = spec
        self.leaves: list[Any] = [as_tensor(leaf) for leaf in found]
        self.chosen = [i for i, x in enumerate(self.leaves) if is_differentiable(x)]
        for index, leaf in enumerate(self.leaves):
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"{where}: argument {self.path(index)}: expected a tensor, got "
                    f"{kind_of(leaf)}. Pass it outside argnums, or close over it."
                )
        if found and not self.chosen:
            raise TypeError(
                f"{where}: argument {self.path(0)}: expected a floating-point tensor "
                f"to differentiate, got {kind_of(self.leaves[0])}. Convert it with "
                ".float(), or choose another argument by argnums."
            )

    def path(self, index: int) -> str:
        """`0['w']`: the argument's number, then the path in it."""
        selected = [self.args[i] for i in self.indices]
        path = paths(selected)[index]
        number, rest = path[1:].split("]", 1)
        return f"{self.indices[int(number)]}{rest}"

    @property
    def primals(self) -> list[Tensor]:
        return [self.leaves[i] for i in self.chosen]

    def bind(
        self, function: Callable[..., Any], kwargs: dict[str, Any]
    ) -> Callable[[list[Tensor]], Any]:
        """`function` as a function of the chosen leaves alone."""

        def call(variables: Sequence[Tensor]) -> Any:
            leaves = list(self.leaves)
            for i, variable in zip(self.chosen, variables, strict=True):
                leaves[i] = variable
            args = list(self.args)
            for i, tree in zip(self.indices, unflatten(self.spec, leaves), strict=True):
                args[i] = tree
            return function(*args, **kwargs)

        return call

    def tree(self, values: Sequence[Any]) -> Any:
        """`values` in the structure of the arguments, `()` at the leaves not chosen."""
        leaves: list[Any] = [()] * len(self.leaves)
        for i, value in zip(self.chosen, values, strict=True):
            leaves[i] = value
        trees = unflatten(self.spec, leaves)
        return trees[0] if self.single else tuple(trees)


def _checked_index(where: str, number: int, count: int) -> int:
    if not -count <= number < count:
        raise ValueError(
            f"{where}: argnums: expected a position among {count} positional "
            f"arguments, got {number}. Arguments that are differentiated are passed by "
            "position."
        )
    return number % count


def checked_argnums(where: str, argnums: object) -> Argnums:
    if isinstance(argnums, int) and not isinstance(argnums, bool):
        return argnums
    listed = tuple(argnums) if isinstance(argnums, tuple | list) else ()
    if listed and all(isinstance(n, int) for n in listed):
        return listed
    raise TypeError(
        f"{where}: argnums: expected an int or a tuple of ints, got {argnums!r}. "
        "Name the positions of the arguments to differentiate."
    )
