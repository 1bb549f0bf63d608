# SPDX-License-Identifier: Apache-2.0
"""The arguments of a jitted function: their names, kinds and signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab.transforms._donation import Donated
from functorch_lab.transforms._flat import kind_of

Names = int | str | Sequence[int] | Sequence[str] | None


class Parameters:
    """Positions and names of a function's parameters, as far as it tells them."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        try:
            parameters = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        self.names = [p.name for p in parameters if p.kind in positional]
        self.all = [p.name for p in parameters]
        self.open = not parameters or any(
            p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
        )

    def resolve(self, what: str, numbers: Names, names: Names) -> frozenset[int | str]:
        """Both ways to say the same arguments: `{0, "params"}`.

        Raises:
            TypeError: an entry is neither an int nor a str where it should be.
            ValueError: the function has no such parameter.
        """
        found: set[int | str] = set()
        for number in _listed(what + "_argnums", numbers, int):
            count = len(self.names)
            if not self.open and not -count <= number < count:
                raise ValueError(
                    f"jit: {what}_argnums: expected a position among {count} "
                    f"parameters, got {number}. Count from 0."
                )
            place = number % count if number < 0 and count else number
            found.add(place)
            if place < count:
                found.add(self.names[place])
        for name in _listed(what + "_argnames", names, str):
            if not self.open and name not in self.all:
                raise ValueError(
                    f"jit: {what}_argnames: expected one of {self.all}, got {name!r}. "
                    "Name a parameter of the function."
                )
            found.add(name)
            if name in self.names:
                found.add(self.names.index(name))
        return frozenset(found)

    def path(self, path: str) -> str:
        """`params['w']` for the leaf at `[0][0]['w']` of `(args, kwargs)`."""
        side, key, rest = _PLACE.fullmatch(path).groups()  # type: ignore[union-attr]
        if side == "1":
            return key.strip("'") + rest
        number = int(key)
        known = number < len(self.names)
        return (self.names[number] if known else f"args[{number}]") + rest


_PLACE = re.compile(r"\[(.)\]\[(.*?)\](.*)", re.DOTALL)


def _listed(what: str, given: Names, kind: type) -> list[Any]:
    if given is None:
        return []
    single = isinstance(given, int | str)
    listed: Iterable[Any] = [given] if single else given  # type: ignore[assignment]
    listed = list(listed)
    for entry in listed:
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise TypeError(
                f"jit: {what}: expected {kind.__name__} or a tuple of them, got "
                f"{given!r}. Positions go in argnums, names in argnames."
            )
    return listed


def admit(name: str, leaves: list[Any], path: Callable[[int], str]) -> list[Any]:
    """Leaves as tensors: Python numbers and NumPy arrays become tensors.

    Raises:
        RuntimeError: a leaf was donated before.
        TypeError: a leaf is of another kind.
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    for index, leaf in enumerate(leaves):
        if type(leaf) is not Tensor and isinstance(leaf, Donated):
            raise RuntimeError(f"{type(leaf).message} (Passed as {path(index)}.)")
    wide = any(leaf.dtype in (torch.float64, torch.complex128) for leaf in tensors)
    device = next((x.device for x in tensors if x.device.type != "cpu"), None)
    return [
        leaf
        if isinstance(leaf, Tensor) or leaf is None
        else _number(name, leaf, i, path, wide, device)
        for i, leaf in enumerate(leaves)
    ]


def _number(
    name: str,
    leaf: Any,
    index: int,
    path: Callable[[int], str],
    wide: bool,
    device: torch.device | None,
) -> Tensor:
    if isinstance(leaf, float) and wide:
        # 0.1 in float32 would spoil float64 arithmetic.
        return torch.tensor(leaf, dtype=torch.float64, device=device)
    if isinstance(leaf, complex) and wide:
        return torch.tensor(leaf, dtype=torch.complex128, device=device)
    if isinstance(leaf, int) and not -(2**63) <= leaf < 2**63:
        raise ValueError(
            f"jit: {name}: {path(index)}: expected an int of 64 bits, got {leaf}. Pass "
            "a float, or name the argument in static_argnames."
        )
    if isinstance(leaf, bool | int | float | complex):
        return torch.tensor(leaf, device=device)
    if type(leaf).__module__ == "numpy":
        # A copy: the array's owner may change it, and a donated one is written to.
        return torch.tensor(leaf, device=device)
    raise TypeError(
        f"jit: {name}: {path(index)}: expected tensors, numbers, or trees of them, got "
        f"{kind_of(leaf)}. Name the argument in static_argnames if it is a constant."
    )


def signature(leaves: Sequence[Any], labels: Sequence[str]) -> dict[str, str]:
    """What a trace depends on, leaf by leaf, in words."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for label, leaf in zip(labels, leaves, strict=True):
        same = first.setdefault(id(leaf), label)
        if leaf is None:
            found[label] = "None"
        else:
            alias = "" if same == label else f", the same tensor as {same}"
            found[label] = _traits(leaf) + alias
    return found


def _traits(leaf: Tensor) -> str:
    dtype = str(leaf.dtype).removeprefix("torch.")
    words = [f"shape {tuple(leaf.shape)}", dtype, str(leaf.device)]
    if leaf.layout == torch.strided and not leaf.is_contiguous():
        words.append(f"strides {leaf.stride()}")
    if leaf.requires_grad:
        words.append("requires_grad")
    if type(leaf) is not Tensor:
        words.append(type(leaf).__name__)
    return ", ".join(words)


def changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The differences of two signatures, one line for each argument."""
    lines = [
        f"{label}: {old[label]} -> {new[label]}"
        for label in new
        if label in old and old[label] != new[label]
    ]
    lines += [f"{label}: new, {new[label]}" for label in new if label not in old]
    lines += [f"{label}: gone, was {old[label]}" for label in old if label not in new]
    return lines
