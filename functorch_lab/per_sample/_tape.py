# SPDX-License-Identifier: Apache-2.0
"""Seeing a loss use its parameters, while it computes one sample.

The loss gets, in place of each parameter, a stand-in that has a copy for each sample.
A rule that knows an operation computes it with the parameter itself, adds a probe (a
zero) to the output and keeps the input: the probe's gradient is what the input has to
be multiplied with. Whatever no rule knows goes through the stand-in, whose gradient is
then a gradient per sample. So a use that is overlooked costs memory, never exactness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    get_unwrapped,
    is_functorch_wrapped_tensor,
    peek_interpreter_stack,
)
from torch._functorch.pyfunctorch import coerce_cinterpreter
from torch.overrides import TorchFunctionMode

from functorch_lab.per_sample._changes import CHANGES
from functorch_lab.per_sample._follow import (
    FOLLOWED,
    Memory,
    Tracked,
    check_change,
    follow,
    plainly,
)
from functorch_lab.per_sample._frame import whole
from functorch_lab.per_sample._uses import Use
from functorch_lab.transforms._shown import show_all

# `build(delta, *kept)`, all with a leading axis of samples, gives the use.
Build = Callable[..., Use]
# `rule(tape, *args, **kwargs)` gives the operation's output, or None to pass.
Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
INSIDE: set[str] = set()


def rule_for(*names: str, inside: bool = False) -> Callable[[Rule], Rule]:
    """Registers the rule of the torch functions and methods of these names.

    Args:
        names: of the functions, which may have one name in several places.
        inside: whether it is for derivatives and vmap within the loss as well: what
            vmap alone refuses or gets wrong. There a rule must look up no parameter.
    """

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        INSIDE.update(names if inside else ())
        return rule

    return register


class Changed(Exception):
    """A second evaluation of the loss did not do what the first did."""


class Overwritten(Exception):
    """The loss wrote to what the gradient of a parameter, its argument, is made of."""


class Output(NamedTuple):
    """What gets a variable of its own, to take the gradient at: its form.

    Attributes:
        shape: of one sample.
        dtype: of its numbers.
        device: of its memory.
        value: what the variable is; zero, to be added to an output, if None.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    value: Tensor | None = None

    def probe(self, count: int) -> Tensor:
        """The variable, for this many samples."""
        shape = (count, *self.shape)
        if self.value is not None:
            return self.value.expand(shape)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


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
        if torch.compiler.is_dynamo_compiling():
            show_all()
        self.names = names
        self.level = _level()
        # By the tensors, not by their ids: Dynamo would guard on the id of whatever is
        # looked up, and so trace again for each new tensor of frozen parameters.
        self.tracked: dict[Tensor, Tracked] = {}
        self.memory: dict[Tensor, Memory] = {}
        for i, (stand_in, leaf) in enumerate(zip(stand_ins, parameters, strict=True)):
            self.tracked[stand_in] = Tracked(stand_in, leaf, whole(i, leaf))
            self.memory[stand_in] = Memory(i)
        self.probes = probes
        self.outputs: list[Output] = []
        self.kept: list[tuple[Tensor, ...]] = []
        self.builds: list[list[tuple[int, Build]]] = []
        # Under Dynamo memory has no versions; the abstract run of fl.jit looks at them.
        self.has_versions = not torch.compiler.is_compiling()
        self._versions: list[list[tuple[Tensor, int]]] = []

    def find(self, tensor: Any) -> Tracked | None:
        """What is known of a tensor that comes from a leaf."""
        return self.tracked.get(tensor) if isinstance(tensor, Tensor) else None

    def is_inside(self) -> bool:
        """Whether the loss itself is taking a derivative or vmap just now."""
        return self.level != _level()

    def probed(
        self,
        output: Tensor,
        kept: tuple[Tensor, ...],
        builds: list[tuple[int, Build]],
        *,
        stands_in: bool = False,
    ) -> Tensor:
        """The output with its probe.

        Args:
            output: of an operation that was computed with the parameters themselves.
            kept: what the builds need beside the gradient at the output.
            builds: the leaf's index and the function of each use.
            stands_in: the output is made of parameters alone; its probe is the same
                for each sample, in the output's place, and takes no memory.

        Raises:
            Changed: there is no probe of its form.
        """
        number = len(self.outputs)
        shape, value = tuple(output.shape), output if stands_in else None
        self.outputs.append(Output(shape, output.dtype, output.device, value))
        self.kept.append(kept)
        self.builds.append(builds)
        if self.has_versions:
            # What is computed without gradients may be changed later, as with torch.
            below = map(_memory, kept) if torch.is_grad_enabled() else ()
            versions = [(x, x._version) for x in below if not x.is_inference()]
            self._versions.append(versions)
        if self.probes is None:
            return output.detach() if stands_in else output
        probe = self.probes[number] if number < len(self.probes) else None
        if probe is None or probe.shape != output.shape or probe.dtype != output.dtype:
            raise Changed
        return probe if stands_in else output + probe

    def overwritten(self) -> dict[int, str]:
        """The outputs whose inputs were changed since; and the path of a leaf."""
        return {
            number: self.names[self.builds[number][0][0]]
            for number, versions in enumerate(self._versions)
            if any(x._version != version for x, version in versions)
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" or name == "__set__":  # noqa: PLR1714 - cheaper to trace
            name = attribute(func)
        rule = RULES.get(name)
        # Within a derivative or vmap that the loss takes itself, an output does not
        # tell all that a parameter does, and an input is of no use outside.
        if (
            rule is not None
            and "out" not in kwargs
            and (name in INSIDE or not self.is_inside())
        ):
            result = rule(self, *args, **kwargs)
            if result is not None:
                return result
        if name in FOLLOWED:
            return follow(self, func, name, args, kwargs)
        if name in CHANGES or "out" in kwargs or kwargs.get("inplace"):
            check_change(self, name, args, kwargs)
        return plainly(func, name, args, kwargs)


def attribute(func: Any) -> str:
    """The name of the attribute of tensors that is read, or written: then with `=`."""
    name = getattr(func.__self__, "__name__", "")
    return f"{name}=" if func.__name__ == "__set__" else name


def _memory(tensor: Tensor) -> Tensor:
    """The tensor below all transforms, which counts how often it was written to."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def _level() -> int:
    """How many transforms of torch.func are under way."""
    if not torch._C._are_functorch_transforms_active():
        return 0
    interpreter = peek_interpreter_stack()
    return coerce_cinterpreter(interpreter).level()
