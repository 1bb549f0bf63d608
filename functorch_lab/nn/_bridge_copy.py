# SPDX-License-Identifier: Apache-2.0
"""A private copy of a module, without its parameters, that runs as a pure function."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from functorch_lab.nn._bridge_draws import Draws, changed
from functorch_lab.nn._bridge_pure import make_pure
from functorch_lab.nn._bridge_recompute import no_recomputing
from functorch_lab.nn._bridge_rules import truncated_normal
from functorch_lab.nn._bridge_transformers import (
    install_hooks,
    left_out,
    own_cache,
    owners,
)


class Call(NamedTuple):
    """What one call of a copy takes beside its inputs."""

    tensors: dict[str, Tensor]  # every parameter and buffer, under all its names
    constants: dict[str, Tensor]  # those of them that are shared between calls
    key: Tensor | None


class Copy:
    """A module in training or in evaluation mode, whose tensors come with each call.

    Args:
        module: stays as it is.
        train: the mode.
        constants: the buffers that the copy keeps, by the id of the module's own.
        changing: the names of the buffers that come back changed.
    """

    def __init__(
        self,
        module: nn.Module,
        train: bool,
        constants: Mapping[int, Tensor],
        changing: list[str],
    ) -> None:
        self._inner = _copied(module, constants).train(train)
        for part in self._inner.modules():
            make_pure(part)
        install_hooks(self._inner)
        self._forward = _Forward(self._inner, changing)
        self._reset = _Reset(self._inner)

    def __call__(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Tensor]]:
        """The output, and the buffers of `changing` after it."""
        tensors = {f"inner.{name}": tensor for name, tensor in call.tensors.items()}
        args = tuple(map(own_cache, args))
        options = {name: own_cache(value) for name, value in kwargs.items()}
        options["_constants"] = call.constants
        # Entered also where nothing draws: it refuses writes to constants, and torch
        # leaves out the fused evaluation of attention, which no transform takes.
        draws = Draws(call.key, call.constants)
        with draws, _unchanged(self._inner), no_recomputing():
            return functional_call(
                self._forward, tensors, args, options, tie_weights=False
            )

    def reset(self, tensors: dict[str, Tensor], key: Tensor) -> dict[str, Tensor]:
        """All tensors after every submodule has reset its parameters."""
        draws = Draws(key, {})
        with draws, truncated_normal(draws.key):
            return self._reset_all(tensors)

    def _reset_all(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        inner = {f"inner.{name}": tensor for name, tensor in tensors.items()}
        with _unchanged(self._inner):
            return functional_call(
                self._reset, inner, (list(tensors),), tie_weights=False
            )

    def not_resettable(self, names: Mapping[str, list[str]]) -> list[str]:
        """Names of the parameters of models of transformers that `reset` leaves out.

        Args:
            names: all names of each parameter and buffer, by its first.
        """
        owned = {
            f"{outer}.{last}" if outer else last
            for outer, part in self._inner.named_modules()
            if part in self._reset.owners
            for last in part._parameters
        }
        if not owned:
            return []
        tensors = {
            name: torch.empty_like(_tensor(self._inner, first), device="meta")
            for first, all_ in names.items()
            for name in all_[:1]
        }
        full = {name: tensors[first] for first, all_ in names.items() for name in all_}
        try:
            with truncated_normal(Draws(None, {}).key):
                left = left_out(lambda: self._reset_all(full), tensors)
        except Exception:  # another library's code, that may want values
            left = list(tensors)
        return [name for name in left if name in owned]


class _Forward(nn.Module):
    """Reads the buffers while those of the call are still in the module."""

    def __init__(self, inner: nn.Module, changing: list[str]) -> None:
        super().__init__()
        self.inner = inner
        self._changing = changing

    def forward(
        self, *args: Any, _constants: Mapping[str, Tensor], **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        output = self.inner(*args, **kwargs)
        for name, constant in _constants.items():
            if _tensor(self.inner, name) is not constant:
                raise ValueError(changed(name))
        return output, {name: _tensor(self.inner, name) for name in self._changing}


class _Reset(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.owners = owners(inner)
        # Parents after their children, as constructors run: a parent may have its own
        # idea of a child's distribution.
        self._parts = [(p, self.owners.get(p)) for p in reversed([*inner.modules()])]

    def forward(self, names: list[str]) -> dict[str, Any]:
        for part, owner in self._parts:
            reset = resetter(part)
            if owner is not None:
                owner._init_weights(part)
            elif reset is not None:
                getattr(part, reset)()
        return {name: _tensor(self.inner, name) for name in names}


def resetter(part: nn.Module) -> str | None:
    """The method that draws a module's parameters anew."""
    # Attention and nn.Transformer spell it with an underscore.
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(getattr(part, name, None)):
            return name
    return None


def not_resettable(module: nn.Module) -> list[str]:
    """Names of the submodules with parameters of their own and no way to reset them."""
    owned = owners(module)
    return [
        name
        for name, part in module.named_modules()
        if any(True for _ in part.parameters(recurse=False))
        and resetter(part) is None
        and part not in owned
    ]


def changing_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers that torch's own modules change in training."""
    found = set()
    for name, part in module.named_modules():
        dot = f"{name}." if name else ""
        for buffer in _changing(part):
            if part._buffers.get(buffer) is not None:
                found.add(dot + buffer)
    return found


def _changing(part: nn.Module) -> list[str]:
    if isinstance(part, _NormBase) and part.track_running_stats:
        return ["running_mean", "running_var", "num_batches_tracked"]
    if type(part).__name__ == "_SpectralNorm":
        return ["_u", "_v"]
    hooks = part._forward_pre_hooks.values()
    spectral = [h for h in hooks if type(h).__name__ == "SpectralNorm"]
    return [f"{getattr(h, 'name', '')}{end}" for h in spectral for end in ("_u", "_v")]


def _tensor(module: nn.Module, name: str) -> Any:
    outer, _, last = name.rpartition(".")
    part = module.get_submodule(outer)
    own = part._parameters if last in part._parameters else part._buffers
    return own[last]


def _copied(module: nn.Module, constants: Mapping[int, Tensor]) -> nn.Module:
    """A deep copy with the constants given and without memory for other tensors.

    Raises:
        TypeError: the module cannot be copied.
    """
    memo: dict[int, Any] = dict(constants)
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in module.buffers():
        memo.setdefault(id(buffer), torch.empty_like(buffer, device="meta"))
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor):
                # What a hook computed has a graph, and deepcopy refuses it.
                memo.setdefault(id(value), value.detach().clone())
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise TypeError(
            f"nn.from_module: module: expected one that copy.deepcopy takes, got "
            f"{type(module).__name__}: {error} Give what it holds a __deepcopy__."
        ) from error


@contextlib.contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Takes back what a call leaves in the attributes of the copy.

    Raises:
        TypeError: it left a number, which a pure function cannot count.
    """
    if torch.compiler.is_compiling():
        yield
        return
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        left = [each for part, then in before for each in _restored(part, then)]
    if left:
        raise TypeError(
            f"nn.from_module.apply: module: expected no Python state that changes in a "
            f"forward pass, got {sorted(left)}. Register it as a buffer and name it in "
            "from_module's state."
        )


_COUNTED = (bool, int, float, str)


def _restored(part: nn.Module, then: dict[str, Any]) -> list[str]:
    """Names of public attributes that held a number and now hold another."""
    now = vars(part)
    other = [name for name in now if now[name] is not then.get(name, now)]
    left = [
        f"{type(part).__name__}.{name}"
        for name in other
        if isinstance(now[name], _COUNTED) and isinstance(then.get(name), _COUNTED)
        if not name.startswith("_") and now[name] != then[name]
    ]
    for name in other:
        if name in then:
            now[name] = then[name]
        else:
            del now[name]
    return left
