# SPDX-License-Identifier: Apache-2.0
"""Outputs, inputs and caches of the library transformers as nodes.

The types are registered when the first of them is met in a tree: nothing here imports
the library, and where the user has not, nothing is looked for.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from functorch_lab.types import NAMESPACE

_seen: set[type] = {Tensor, type(None), bool, int, float, str}
_nodes: set[type] = set()
_lock = threading.Lock()


def met_new(leaves: Sequence[Any]) -> bool:
    """Whether a type among `leaves` has become a node by this call."""
    if "transformers" not in sys.modules:
        return False
    if _seen.issuperset(map(type, leaves)):  # nearly always, so this is to be quick
        return False
    unknown = set(map(type, leaves)) - _seen
    with _lock:  # another thread may have met the same
        registered = [kind in _nodes or _registered(kind) for kind in unknown]
        _seen.update(unknown)
    return any(registered)


def _registered(kind: type) -> bool:
    rules: Any = next(
        (_RULES[base.__name__] for base in kind.__mro__ if _is_theirs(base)), None
    )
    if rules is None or (rules is _CACHE and kind.__name__ != "DynamicCache"):
        return False
    flatten, unflatten = rules
    optree.register_pytree_node(
        kind, flatten, functools.partial(unflatten, kind), namespace=NAMESPACE
    )
    _nodes.add(kind)
    return True


def _is_theirs(base: type) -> bool:
    return base.__name__ in _RULES and base.__module__.startswith("transformers.")


Flat = tuple[list[Any], tuple[Any, ...], tuple[Any, ...]]


def _flatten_output(output: Any) -> Flat:
    """The fields that are not None, in their order."""
    names = tuple(output.keys())
    return list(output.values()), names, names


def _unflatten_output(kind: Any, names: tuple[str, ...], values: Iterable[Any]) -> Any:
    given = dict(zip(names, values, strict=True))
    if torch.compiler.is_dynamo_compiling():
        return kind(**given)
    # The constructor would take a first field that is no tensor for the whole output.
    output = kind.__new__(kind)
    for name in kind.__dataclass_fields__:
        object.__setattr__(output, name, None)
    for name, value in given.items():
        output[name] = value
    return output


def _flatten_inputs(inputs: Any) -> Flat:
    """The entries by sorted key; what a tokenizer notes of the texts is left out."""
    names = tuple(sorted(inputs.data))
    return [inputs.data[name] for name in names], names, names


def _unflatten_inputs(kind: Any, names: tuple[str, ...], values: Iterable[Any]) -> Any:
    return kind(dict(zip(names, values, strict=True)))


def _flatten_cache(cache: Any) -> Flat:
    """Keys and values of each layer."""
    kinds = tuple(type(layer) for layer in cache.layers)
    if any(kind.__name__ != "DynamicLayer" for kind in kinds):
        raise TypeError(
            "tree: past_key_values: expected a DynamicCache of DynamicLayers, got "
            f"{sorted({kind.__name__ for kind in kinds})}. Pass use_cache=False to the "
            "model."
        )
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    return pairs, kinds, tuple(range(len(pairs)))


def _unflatten_cache(kind: Any, kinds: tuple[Any, ...], pairs: Iterable[Any]) -> Any:
    cache = kind()
    for make, (keys, values) in zip(kinds, pairs, strict=True):
        layer = make()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        if isinstance(keys, Tensor):
            layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache


_CACHE = (_flatten_cache, _unflatten_cache)
_RULES: dict[str, Any] = {
    "ModelOutput": (_flatten_output, _unflatten_output),
    "BatchEncoding": (_flatten_inputs, _unflatten_inputs),
    "BatchFeature": (_flatten_inputs, _unflatten_inputs),
    "DynamicCache": _CACHE,
}
