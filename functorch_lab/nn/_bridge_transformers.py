# SPDX-License-Identifier: Apache-2.0
"""What the models of the library transformers do in their own way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from functorch_lab import tree


def install_hooks(module: nn.Module) -> None:
    """What a model would do at the first call that asks for hidden states.

    And no recomputing: under jit nothing takes `_bridge_recompute`'s place.
    """
    capturing: Any = sys.modules.get("transformers.utils.output_capturing")
    install = getattr(capturing, "maybe_install_capturing_hooks", None)
    part: Any
    for part in module.modules():
        if install is not None and _is_model(type(part)):
            install(part)
        if hasattr(part, "_gradient_checkpointing_func"):
            part.gradient_checkpointing = False


def own_cache(value: Any) -> Any:
    """A cache of keys and values as a new object: the model adds to what it is given.

    Raises:
        TypeError: it is of a kind that is written to in place.
    """
    if value is None or isinstance(value, _PLAIN):
        return value  # Dynamo looks into few types
    if not any(_is(base, "Cache") for base in type(value).__mro__):
        return value
    if type(value).__name__ != "DynamicCache":
        raise TypeError(
            "nn.from_module.apply: past_key_values: expected a DynamicCache, which "
            f"grows with each call, got {type(value).__name__}, which the model would "
            "write to. Pass DynamicCache()."
        )
    leaves, structure = tree.flatten(value, none_is_leaf=True)
    return structure.unflatten(leaves)


def owners(module: nn.Module) -> dict[nn.Module, Any]:
    """The innermost model of transformers around each part that is inside one.

    They have no `reset_parameters`; a model has `_init_weights(part)` for its parts.
    """
    found: dict[nn.Module, Any] = {}
    _collect(module, None, found)
    return found


def _collect(part: nn.Module, owner: Any, found: dict[nn.Module, Any]) -> None:
    if _is_model(type(part)):
        owner = part
    if owner is not None:
        found[part] = owner
    for child in part.children():
        _collect(child, owner, found)


_PLAIN = (Tensor, bool, int, float, str, dict, list, tuple)


def _is_model(kind: type) -> bool:
    return any(_is(base, "PreTrainedModel") for base in kind.__mro__)


def _is(kind: type, name: str) -> bool:
    return kind.__name__ == name and kind.__module__.startswith("transformers.")


def left_out(initialise: Callable[[], Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that a function leaves as they are."""
    with _Writes() as writes:
        initialise()
    return [n for n, t in tensors.items() if _memory(t) not in writes.found]


class _Writes(TorchDispatchMode):
    """Notes the memory that operations write to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for value, argument in zip(args, func._schema.arguments, strict=False):
            alias = argument.alias_info
            if alias is not None and alias.is_write and isinstance(value, Tensor):
                self.found.add(_memory(value))
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
