# SPDX-License-Identifier: Apache-2.0
"""Parameters and buffers by the module's names: flat in torch, nested dicts here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Size, Tensor, nn


def parameters(module: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by its first: a tied weight has one leaf."""
    return _by_first(module, "_parameters")


def buffers(module: nn.Module) -> dict[str, list[str]]:
    return _by_first(module, "_buffers")


def _by_first(module: nn.Module, own: str) -> dict[str, list[str]]:
    firsts: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    # A submodule in two places is met once: exchanged under both its names, a tensor
    # would be put back as what it was exchanged for.
    for outer, part in module.named_modules():
        for last, tensor in getattr(part, own).items():
            if tensor is not None:
                name = f"{outer}.{last}" if outer else last
                first = firsts.setdefault(id(tensor), name)
                names.setdefault(first, []).append(name)
    return names


def nest(tensors: Mapping[str, Tensor]) -> Any:
    """`{"a.weight": x}` as `{"a": {"weight": x}}`; `()` where there is nothing."""
    if not tensors:
        return ()
    root: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *outer, last = name.split(".")
        node = root
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = tensor
    return root


def spread(
    tensors: Mapping[str, Tensor], names: Mapping[str, list[str]]
) -> dict[str, Tensor]:
    """Each tensor under all its names."""
    return {name: tensors[first] for first, all_ in names.items() for name in all_}


def flatten(
    where: str,
    argument: str,
    tree: Any,
    shapes: Mapping[str, Size],
    *,
    holes: bool = False,
) -> dict[str, Tensor]:
    """The inverse of `nest`, for exactly the names and shapes of `shapes`.

    Args:
        where: the function that the errors name.
        argument: its argument.
        tree: nested dicts of tensors, or `()`.
        shapes: of each tensor, by its dotted name.
        holes: whether `()` may stand for a tensor, which is then left out.

    Raises:
        ValueError: a name is missing or unknown, or a shape is another.
        TypeError: a leaf is no tensor.
    """
    found = dict(_named(tree, ""))
    expected = f"{where}: {argument}"
    for name in shapes:
        if name not in found:
            raise ValueError(
                f"{expected}{bracketed(name)}: expected a tensor of shape "
                f"{tuple(shapes[name])}, got nothing. {_REMEDY}"
            )
    for name, leaf in found.items():
        path = f"{expected}{bracketed(name)}"
        if name not in shapes:
            raise ValueError(
                f"{path}: expected no such name, got {_kind(leaf)}. {_REMEDY}"
            )
        if holes and isinstance(leaf, tuple) and not leaf:
            continue
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{path}: expected a tensor, got {_kind(leaf)}. {_REMEDY}")
        if leaf.shape != shapes[name]:
            raise ValueError(
                f"{path}: expected shape {tuple(shapes[name])}, got "
                f"{tuple(leaf.shape)}. {_REMEDY}"
            )
    return {name: found[name] for name in shapes if isinstance(found[name], Tensor)}


def leaf_names(tree: Any) -> set[str]:
    return {name for name, _ in _named(tree, "")}


_REMEDY = "Pass a tree like the one that from_module made of this module."


def bracketed(name: str) -> str:
    """`['a']['weight']` for `a.weight`, as the paths of `tree` are written."""
    return "".join(f"[{part!r}]" for part in name.split(".")) if name else ""


def _named(tree: Any, name: str) -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from _named(child, f"{name}.{key}" if name else str(key))
    elif name or not isinstance(tree, tuple) or tree:
        yield name, tree


def _kind(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"a tensor of shape {tuple(leaf.shape)}"
    return type(leaf).__name__
