# SPDX-License-Identifier: Apache-2.0
"""Seeing a loss use its parameters, while it computes one sample.

The loss gets, in place of each parameter, a stand-in that has a copy for each sample.
A rule that knows an operation computes it with the parameter itself, adds a probe (a
zero) to the output and keeps the input: the probe's gradient is what the input has to
be multiplied with. Whatever no rule knows goes through the stand-in, whose gradient is
then a gradient per sample. So a use that is overlooked costs memory, never exactness.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    peek_interpreter_stack,
)
from torch._functorch.pyfunctorch import coerce_cinterpreter
from torch.overrides import TorchFunctionMode

from functorch_lab.per_sample._frame import View, whole
from functorch_lab.per_sample._uses import Use

# `build(delta, *kept)`, all with a leading axis of samples, gives the use.
Build = Callable[..., Use]
# `rule(tape, *args, **kwargs)` gives the operation's output, or None to pass.
Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
VIEWS: dict[str, Callable[..., Any]] = {}

# Methods that Python implements call their like of the base class, which Dynamo finds
# only when they are called as methods.
_PYTHON_METHODS = frozenset(
    name
    for name, method in vars(torch.Tensor).items()
    if isinstance(method, types.FunctionType)
)


def rule_for(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of the torch functions and methods of these names."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


class Changed(Exception):
    """A second evaluation of the loss did not do what the first did."""


class Output(NamedTuple):
    """An output that carries a probe: its form, and which leaves it serves."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Tracked(NamedTuple):
    """A stand-in, or a view of one, beside the same view of the parameter itself."""

    stand_in: Tensor  # kept, so that its id stays its own
    parameter: Tensor
    view: View


class Tape(TorchFunctionMode):
    """Watches the uses of some leaves, in one evaluation of a loss.

    Args:
        stand_ins: the tensors that the loss gets, one for each leaf.
        parameters: the leaves themselves.
        names: their paths, for errors.
        probes: one for each recognised use, in their order; None to count them.
    """

    def __init__(
        self,
        stand_ins: Sequence[Tensor],
        parameters: Sequence[Tensor],
        names: Sequence[str],
        probes: Sequence[Tensor] | None,
    ) -> None:
        super().__init__()
        self.names = names
        self.level = _level()
        self.tracked: dict[int, Tracked] = {}
        for i, (stand_in, leaf) in enumerate(zip(stand_ins, parameters, strict=True)):
            self.tracked[id(stand_in)] = Tracked(stand_in, leaf, whole(i, leaf))
        self.probes = probes
        self.outputs: list[Output] = []
        self.kept: list[tuple[Tensor, ...]] = []
        self.builds: list[list[tuple[int, Build]]] = []

    def find(self, tensor: Any) -> Tracked | None:
        """What is known of a tensor that comes from a leaf."""
        return self.tracked.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def probed(
        self,
        output: Tensor,
        kept: tuple[Tensor, ...],
        builds: list[tuple[int, Build]],
    ) -> Tensor:
        """The output with its probe.

        Args:
            output: of an operation that was computed with the parameters themselves.
            kept: what the builds need beside the gradient at the output.
            builds: the leaf's index and the function of each use.

        Raises:
            Changed: there is no probe of its form.
        """
        number = len(self.outputs)
        self.outputs.append(Output(tuple(output.shape), output.dtype, output.device))
        self.kept.append(kept)
        self.builds.append(builds)
        if self.probes is None:
            return output
        probe = self.probes[number] if number < len(self.probes) else None
        if probe is None or probe.shape != output.shape or probe.dtype != output.dtype:
            raise Changed
        return output + probe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        rule = RULES.get(name)
        # Within a derivative or vmap that the loss takes itself, an output does not
        # tell all that a parameter does, and an input is of no use outside.
        if rule is not None and self.level == _level():
            result = rule(self, *args, **kwargs)
            if result is not None:
                return result
        return plainly(func, name, args, kwargs)


def _level() -> int:
    """How many transforms of torch.func are under way."""
    if not torch._C._are_functorch_transforms_active():
        return 0
    interpreter = peek_interpreter_stack()
    return coerce_cinterpreter(interpreter).level()


def plainly(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if name in _PYTHON_METHODS and isinstance(args[0], Tensor):
        return getattr(args[0], name)(*args[1:], **kwargs)
    return func(*args, **kwargs)
