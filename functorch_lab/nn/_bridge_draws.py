# SPDX-License-Identifier: Apache-2.0
"""Random numbers inside a module, from a key instead of torch's generator.

`functional_call` alone is no pure function: `F.dropout` draws from a generator that
every call advances. Under `Draws` each drawing function of torch is replaced by one of
`functorch_lab.random`, with a key of its own for each call.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from functorch_lab import random
from functorch_lab.nn._batched import batch_levels
from functorch_lab.nn._bridge_rules import RULES, check_generator
from functorch_lab.nn._bridge_values import ASKS, refused_answer
from functorch_lab.transforms._opened import opened


class Draws(TorchFunctionMode):
    """While it is active, what draws takes a key, and `constants` are not written to.

    Args:
        key: `None` where nothing may draw.
        constants: buffers that are shared between calls, by name.
    """

    def __init__(self, key: Tensor | None, constants: dict[str, Tensor]) -> None:
        super().__init__()
        self._key = key
        self._drawn = 0
        self._constants = constants

    def key(self, what: str) -> Tensor:
        """A new key.

        Raises:
            ValueError: there is none.
        """
        if self._key is None:
            raise ValueError(
                f"nn.from_module.apply: key: expected a key, since the module calls "
                f"{what}, got None. Pass key= to apply, a new one for each step, from "
                "fl.random.split."
            )
        self._drawn += 1
        return random.fold_in(self._key, self._drawn - 1)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        for tensor in _written(name, args, kwargs):
            self._refuse_constant(tensor)
        if name in ASKS and not torch.compiler.is_compiling() and batch_levels(args[0]):
            return refused_answer(name)
        if name in RULES:
            check_generator(name, args, kwargs)
            return RULES[name](self.key, func, *args, **kwargs)
        if name in _OPENED:
            # The mode is off while it handles a function, and has to see the inside.
            with self:
                return _OPENED[name](*args, **kwargs)
        if name in _METHODS and func is getattr(Tensor, name):
            # Dynamo traces the call of such a method, not of the function behind it.
            return getattr(args[0], name)(*args[1:], **kwargs)
        return func(*args, **kwargs)

    def _refuse_constant(self, written: Any) -> None:
        for name, constant in self._constants.items():
            if written is constant:
                raise ValueError(changed(name))


def changed(name: str) -> str:
    """What to say of a buffer that changed and is not in the state."""
    return (
        f"nn.from_module: state: expected {name!r} among the names of the buffers that "
        f"a forward pass changes, got a module that writes to it. "
        f"Pass state=[{name!r}] to from_module."
    )


_WRITES = {name for name in dir(Tensor) if name.endswith("_") and name[0] != "_"}
_WRITES |= {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
_STATISTICS = {"batch_norm", "instance_norm"}
_METHODS = {n for n, f in vars(Tensor).items() if isinstance(f, FunctionType)}


def _written(name: str, args: Any, kwargs: Any) -> Any:
    """The arguments that a function writes to."""
    if name in _WRITES:
        return args[:1]
    if name in _STATISTICS:
        trains = kwargs.get("training", False) or kwargs.get("use_input_stats", False)
        named = (kwargs.get("running_mean"), kwargs.get("running_var"))
        return (*args[1:3], *named) if trains else ()
    return (kwargs["out"],) if "out" in kwargs else ()


def _check_padding(mask: Tensor, sources: int, samples: int) -> None:
    if mask.shape != (samples, sources):
        raise ValueError(
            f"nn.from_module.apply: key_padding_mask: expected shape "
            f"{(samples, sources)}, got {tuple(mask.shape)}. Give one entry for each "
            "position of each sample."
        )


_OPENED = {
    "multi_head_attention_forward": opened(
        F.multi_head_attention_forward,
        _check_key_padding_mask=_check_padding,  # torch's does not compile
    ),
    "gumbel_softmax": opened(F.gumbel_softmax),
}
