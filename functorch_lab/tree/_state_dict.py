# SPDX-License-Identifier: Apache-2.0
"""A tree as torch's flat dict of tensors by dotted name, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from functorch_lab.tree._difference import describe_node, dtype_name
from functorch_lab.tree._flatten import checked
from functorch_lab.tree._nodes import Child, Tree, named_leaves

_SHOWN = 5  # names in an error


def to_state_dict(tree: Tree) -> dict[str, Tensor]:
    """The leaves of a tree by torch's flat names, such as `encoder.0.weight`.

    They are the tensors of the tree themselves, in the order of `leaves`:
    `module.load_state_dict` copies them, `torch.func.functional_call` differentiates
    through them, safetensors saves them.

    Raises:
        TypeError: a leaf is no tensor.
        ValueError: two leaves have the same name, since a key holds a dot or is no
            string; the tree is a single tensor, which has no name; there is a `None`.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> params = {"encoder": [{"weight": torch.tensor([[2.0, 3.0]])}]}
        >>> module = torch.nn.ModuleDict(
        ...     {"encoder": torch.nn.ModuleList([torch.nn.Linear(2, 1, bias=False)])}
        ... )
        >>> module.load_state_dict(tree.to_state_dict(params))
        <All keys matched successfully>
        >>> module["encoder"][0](torch.tensor([5.0, 7.0])).item()
        31.0
    """
    return {name: leaf.value for name, leaf in _named("to_state_dict", tree).items()}


def from_state_dict(state_dict: Mapping[str, Tensor], like: Tree) -> Tree:
    """A tree like another one, its leaves taken from a flat dict by their names.

    `from_state_dict(to_state_dict(tree), tree)` equals `tree`. As with
    `module.load_state_dict`, each leaf is a copy without a graph, on the device of the
    leaf of `like` (where that one is on the meta device, on its own), and floating
    tensors take its floating dtype. To leave keys out or to rename them, build another
    dict first.

    Args:
        state_dict: tensors by name: what `module.state_dict()` or
            `safetensors.torch.load_file` returned.
        like: a tree of the wanted structure and shapes; its values do not count.

    Raises:
        TypeError: `state_dict` is not a dict of tensors with values, of the layouts
            (dense, sparse) of `like`; or a leaf of `like` is no tensor.
        ValueError: keys are missing or unexpected (they are named); a shape is not that
            of `like`, or a dtype that is not floating; or `to_state_dict` refuses
            `like`.

    Example:
        >>> import torch
        >>> from functorch_lab import tree
        >>> module = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(module.weight, 3.0)
        >>> tree.from_state_dict(module.state_dict(), {"weight": torch.zeros(1, 2)})
        {'weight': tensor([[3., 3.]])}
    """
    where = "tree.from_state_dict: state_dict: expected"
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"{where} a dict of tensors, got a {type(state_dict).__name__}. Pass what "
            "module.state_dict() returned."
        )
    named = _named("from_state_dict", like)
    missing = [name for name in named if name not in state_dict]
    unexpected = [name for name in state_dict if name not in named]
    if missing or unexpected:
        notes = [f"missing {_listed(missing)}"] if missing else []
        notes += [f"unexpected {_listed(unexpected)}"] if unexpected else []
        raise ValueError(
            f"{where} the keys of tree.to_state_dict(like), got {', '.join(notes)}. "
            "Rename the keys, or pass another like."
        )
    for name, leaf in named.items():
        _check(where, name, leaf.value, state_dict[name])
    return checked(like, "from_state_dict")[1].unflatten(
        [_loaded(leaf.value, state_dict[name]) for name, leaf in named.items()]
    )


def _named(where: str, tree: Tree) -> dict[str, Child]:
    """The leaves by dotted name."""
    checked(tree, where)
    named: dict[str, Child] = {}
    for leaf in named_leaves(tree):
        if not isinstance(leaf.value, Tensor):
            raise TypeError(
                f"tree.{where}: tree: expected tensors, got "
                f"{describe_node(leaf.value)} at {leaf.bracket or 'the root'}. Make a "
                "number a tensor: torch.tensor."
            )
        if not leaf.bracket:
            raise ValueError(
                f"tree.{where}: tree: expected leaves with names, got a single tensor. "
                'Put it into a dict: {"weight": tensor}.'
            )
        if leaf.dotted in named:
            raise ValueError(
                f"tree.{where}: tree: expected one leaf for each name, got "
                f"{named[leaf.dotted].bracket} and {leaf.bracket}, which are both "
                f"{leaf.dotted!r}. Rename one of the keys."
            )
        named[leaf.dotted] = leaf
    return named


def _check(where: str, name: str, expected: Tensor, got: Any) -> None:
    if not isinstance(got, Tensor):
        raise TypeError(
            f"{where} tensors, got {describe_node(got)} at {name!r}. Leave it out, or "
            "make it a tensor."
        )
    if got.layout != expected.layout:
        raise TypeError(
            f"{where} the layouts of like, got {got.layout} for {expected.layout} at "
            f"{name!r}. Convert it first, such as by tensor.to_dense()."
        )
    if got.is_meta and not expected.is_meta:
        raise TypeError(
            f"{where} tensors with values, got one on the meta device at {name!r}. "
            "Load the values first."
        )
    if got.shape != expected.shape:
        raise ValueError(
            f"{where} the shapes of like, got {tuple(got.shape)} for "
            f"{tuple(expected.shape)} at {name!r}. Pass a like of the same shapes."
        )
    floating = expected.is_floating_point() and got.is_floating_point()
    if not floating and expected.dtype != got.dtype:
        raise ValueError(
            f"{where} the dtypes of like where they are not floating, got "
            f"{dtype_name(got.dtype)} for {dtype_name(expected.dtype)} at {name!r}. "
            "Convert it first."
        )


def _loaded(like: Tensor, value: Tensor) -> Tensor:
    device = value.device if like.device.type == "meta" else like.device
    return value.detach().to(device, like.dtype, copy=True)


def _listed(names: Iterable[Any]) -> str:
    found = [repr(name) for name in names]
    rest = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
