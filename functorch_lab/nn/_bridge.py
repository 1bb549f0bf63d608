# SPDX-License-Identifier: Apache-2.0
"""Any torch.nn.Module as a layer and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from functorch_lab import random
from functorch_lab.nn import _bridge_names as names
from functorch_lab.nn._bridge_batch_norm import converted
from functorch_lab.nn._bridge_copy import (
    Call,
    Copy,
    changing_buffers,
    not_resettable,
)
from functorch_lab.types import Layer, StatefulLayer


class Bridged(NamedTuple):
    """A module as pure functions and trees, from `from_module`."""

    layer: Any
    """A `Layer`, or a `StatefulLayer` where a buffer changes in training."""
    params: Any
    """Nested dicts by the module's names: `params["encoder"]["weight"]`."""
    state: Any
    """The changing buffers likewise, `()` where there is none."""


def from_module(
    module: nn.Module,
    *,
    state: Sequence[str] = (),
    copy: bool = True,
    batch_norm: str | int = "batch",
) -> Bridged:
    """A module as a layer, its parameters and its state.

    `layer.apply(params, *inputs, key=None, train=False, **inputs_by_name)` computes
    what the module's forward does, with any inputs and any output; where there is a
    state, `layer.apply(params, state, *inputs, ...)` returns `(output, state)`. The
    module stays as it is, its `training` flags too: `train` says which mode it is, for
    all its submodules as `module.train(train)` does.

    Whatever the module draws (dropout, noise) it draws from `key`, with numbers of
    `functorch_lab.random` and not those of torch's generator. An input that forward
    itself calls `key` or `train` is passed by position.

    Buffers that a forward pass changes are the state: the statistics of batch norm and
    instance norm, the vectors of spectral norm, and those named in `state`. All others
    are constants, which the layer keeps. A weight that is used under several names is
    one leaf, under the first of them.

    `layer.init(key)` draws new parameters, in the module's dtypes, from the
    distributions of its `reset_parameters` methods, those of children before those of
    parents; a state begins as these leave it. What a constructor does beside them is
    not repeated.

    Args:
        module: in any mode, on any device.
        state: names, as in `module.named_buffers()`, of further buffers that change.
        copy: False keeps the memory of parameters and buffers in common with the
            module: changes of its tensors in place are seen here.
        batch_norm: what becomes of batch norms (the module keeps its own): "batch" as
            it is; "frozen", with train=True too they normalise by the statistics they
            have, which are constants (instance norms with statistics likewise);
            "group", each becomes a group norm with the same parameters and 32 groups
            (fewer where 64 does not divide the channels: the largest divisor that
            leaves two in each); or a number of groups. With the last three there is a
            gradient for each sample. Params keep their names, for `load_into` too.

    Returns:
        `(layer, params, state)`; the params need no grad. `apply` raises `ValueError`
        for params of another module, without a key where one is needed, for a fused
        nn.RNN, nn.GRU or nn.LSTM under vmap, for batch norm in training on one sample,
        and for a module that writes to a buffer outside the state; `RuntimeError` for a
        branch on a tensor's value under vmap; `TypeError` for a module that counts in
        its attributes, or draws what no key can. `init` raises `TypeError` where a
        submodule has parameters and no `reset_parameters`.

    Raises:
        TypeError: `module` is no module, is scripted, or cannot be copied; or
            `batch_norm` is neither a name nor a number, or meets a norm with a forward
            of its own.
        ValueError: it has lazy parameters that no input has shaped yet, or `state`
            names what is no buffer; `batch_norm` is another name, does not divide the
            channels of a norm, or is "frozen" where a batch norm has no statistics.

    Example:
        >>> import torch, functorch_lab as fl
        >>> module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
        >>> layer, params, state = fl.nn.from_module(module)
        >>> params["0"]["weight"].shape, state
        (torch.Size([2, 3]), ())
        >>> twos = fl.tree.map(lambda p: torch.full_like(p, 2.0), params)
        >>> layer.apply(twos, torch.ones(3))
        tensor([8., 8.])
        >>> y = layer.apply(twos, torch.ones(3), key=fl.random.key(0), train=True)
        >>> set(y.tolist()) <= {0.0, 16.0}
        True
    """
    _check_module("from_module", module)
    module = converted(module, batch_norm)
    changing = _changing(module, state)
    params = {n: module.get_parameter(n).detach() for n in names.parameters(module)}
    buffers = {n: module.get_buffer(n).detach() for n in names.buffers(module)}
    if copy:
        params = {name: tensor.clone() for name, tensor in params.items()}
        buffers = {name: tensor.clone() for name, tensor in buffers.items()}
    begin = {n: buffers[n] for n in changing}
    bridge = _Bridge(module, params, buffers, changing)
    layer = bridge.stateful() if begin else bridge.stateless()
    return Bridged(layer, names.nest(params), names.nest(begin))


def _check_module(function: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"nn.{function}: module: expected a torch.nn.Module, got "
            f"{type(module).__name__}. Layers of functorch_lab need no bridge."
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise TypeError(
            f"nn.{function}: module: expected modules of Python, got a ScriptModule. "
            "Use the module that it was scripted or traced from."
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"nn.{function}: module: expected initialised parameters, got a lazy "
                f"{name!r}. Call the module once on a batch."
            )


def _changing(module: nn.Module, further: Sequence[str]) -> list[str]:
    if isinstance(further, str):
        raise TypeError(
            f"nn.from_module: state: expected a sequence of names, got {further!r}. "
            f"Pass [{further!r}]."
        )
    known = names.buffers(module)
    firsts = {name: first for first, all_ in known.items() for name in all_}
    for name in further:
        if name not in firsts:
            raise ValueError(
                f"nn.from_module: state: expected names of buffers, got {name!r}. "
                f"Choose from {sorted(firsts)}."
            )
    changing = {firsts[n] for n in (*changing_buffers(module), *further)}
    return [name for name in known if name in changing]


class _Bridge:
    """Everything about a module that is no argument of its functions."""

    def __init__(
        self,
        module: nn.Module,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        changing: list[str],
    ) -> None:
        constants = {n: b for n, b in buffers.items() if n not in changing}
        kept = {id(module.get_buffer(n)): b for n, b in constants.items()}
        self._changing = changing
        self._constants = constants
        self._begin = {n: buffers[n].clone() for n in changing}
        self._names = {**names.parameters(module), **names.buffers(module)}
        self._param_shapes = {name: p.shape for name, p in params.items()}
        self._state_shapes = {name: b.shape for name, b in self._begin.items()}
        self._dtypes = {name: p.dtype for name, p in params.items()}
        self._unresettable = not_resettable(module)
        self._training = Copy(module, True, kept, changing)
        self._evaluating = Copy(module, False, kept, changing)
        self._left_out = self._evaluating.not_resettable(self._names)

    def stateless(self) -> Layer:
        def init(key: Tensor) -> Any:
            return self._init(key)[0]

        def apply(
            params: Any,
            /,
            *inputs: Any,
            key: Tensor | None = None,
            train: bool = False,
            **named: Any,
        ) -> Any:
            return self._apply(params, (), key, train, inputs, named)[0]

        return Layer(init, apply)

    def stateful(self) -> StatefulLayer:
        def apply(
            params: Any,
            state: Any,
            /,
            *inputs: Any,
            key: Tensor | None = None,
            train: bool = False,
            **named: Any,
        ) -> tuple[Any, Any]:
            return self._apply(params, state, key, train, inputs, named)

        return StatefulLayer(self._init, apply)

    def _apply(
        self,
        params: Any,
        state: Any,
        key: Tensor | None,
        train: bool,
        inputs: tuple[Any, ...],
        named: dict[str, Any],
    ) -> tuple[Any, Any]:
        where = "nn.from_module.apply"
        given = names.flatten(where, "params", params, self._param_shapes)
        begin = names.flatten(where, "state", state, self._state_shapes)
        # A module may write to its state in place; the caller's stays as it is.
        buffers = {name: buffer.clone() for name, buffer in begin.items()}
        tensors = {**given, **buffers, **self._constants}
        call = Call(names.spread(tensors, self._names), self._constants, key)
        run = self._training if train else self._evaluating
        output, end = run(call, inputs, named)
        return output, names.nest(end)

    def _init(self, key: Tensor) -> tuple[Any, Any]:
        if self._unresettable:
            raise TypeError(
                "nn.from_module.init: module: expected a reset_parameters method in "
                "every submodule with parameters, got none in "
                f"{[name or 'the module itself' for name in self._unresettable]}. "
                "Define it, or begin with the params that from_module returned."
            )
        if self._left_out:
            raise TypeError(
                "nn.from_module.init: module: expected a model of transformers whose "
                "_init_weights draws every parameter, got one that leaves out "
                f"{self._left_out}. Begin with the params that from_module returned."
            )
        random.fold_in(key, 0)  # raises for what is no key
        # Sum with the key: under vmap over keys these have its batch axis, and can be
        # written to in place.
        zero = 0 * key.sum()
        fresh = {
            name: torch.zeros(shape, dtype=self._dtypes[name], device=key.device)
            for name, shape in self._param_shapes.items()
        }
        kept = {**self._begin, **self._constants}
        fresh |= {name: buffer.to(key.device) for name, buffer in kept.items()}
        fresh = {name: t + zero.to(t.dtype) for name, t in fresh.items()}
        all_names = names.spread(fresh, self._names)
        end = self._evaluating.reset(all_names, key)
        params = names.nest({name: end[name] for name in self._param_shapes})
        return params, names.nest({name: end[name] for name in self._changing})
