# SPDX-License-Identifier: Apache-2.0
"""What a row of the suite is, and how one is made of a module or of a function."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

import functorch_lab as fl

BATCH = 3
Losses = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One model with its data: the same loss for one sample and for a batch.

    `loss_fn(params, *sample)` is pure. `batch_losses(call, *batch)` gives one loss per
    sample with `call` a module or what behaves like it; it is None where a row has no
    module. `batch_first` is False for modules whose every layer has time first.
    """

    params: Any
    loss_fn: Losses
    batch: tuple[Any, ...]
    module: nn.Module | None = None
    batch_losses: Losses | None = None
    keep_batch_axis: bool = False
    keys: Tensor | None = None
    batch_first: bool = True


@dataclass(frozen=True)
class Row:
    """A named case in any dtype, and what is expected of it.

    `factored` says that each leaf is used in operations with a rule alone; `refused` is
    the message, as a pattern, of a case that is refused.
    """

    group: str
    name: str
    make: Callable[[torch.dtype], Case]
    factored: bool = True
    refused: str | None = None
    tolerance: float | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)

    @property
    def id(self) -> str:
        """Group and name."""
        return f"{self.group}: {self.name}"


def draw(*shape: int, seed: int = 5) -> Tensor:
    """Normal numbers in float64 that float32 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).double()


def ids(high: int, *shape: int, seed: int = 7) -> Tensor:
    """Integers below `high`."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def curved(output: Tensor) -> Tensor:
    """One loss per sample, to which every element contributes in its own way."""
    flat = output.flatten(1)
    weights = torch.linspace(0.3, 1.7, flat.shape[1], dtype=flat.dtype)
    return (weights * flat.square()).sum(1)


def curved_output(call: Any, *batch: Any) -> Tensor:
    """The loss of most rows."""
    return curved(call(*batch))


def filled(module: Any, dtype: torch.dtype) -> Any:
    """The module with numbers other than 0 and 1 in parameters and statistics."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with torch.no_grad():
        for seed, (name, tensor) in enumerate(tensors):
            if "running_mean" in name or isinstance(tensor, nn.Parameter):
                tensor.copy_(0.5 * draw(*tensor.shape, seed=seed))
            elif "running_var" in name:
                tensor.copy_(0.5 + draw(*tensor.shape, seed=seed).abs())
    return module.to(dtype)


def convert(tree: Any, dtype: torch.dtype) -> Any:
    """Floating leaves in `dtype`; drawn for a shape where a leaf is one."""
    if isinstance(tree, Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree
    return {name: convert(leaf, dtype) for name, leaf in tree.items()}


def one(tree: Any) -> Any:
    """A sample as a batch of one."""
    return _pytree.tree_map(lambda leaf: leaf[None], tree)


def of_module(
    group: str,
    name: str,
    build: Callable[[], nn.Module],
    *batch: Any,
    losses: Losses = curved_output,
    axis: str = "added",
    batch_first: bool = True,
    **expected: Any,
) -> Row:
    """A row about a module in evaluation mode, which the loss calls by the bridge.

    `batch` holds tensors, shapes of tensors to draw, or dicts of tensors. `axis` is
    "bare" where the module takes a sample as it is, "added" where the loss adds a batch
    axis of 1, "kept" where each sample comes with it.
    """
    drawn = tuple(
        draw(*leaf, seed=i) if isinstance(leaf, tuple) else leaf
        for i, leaf in enumerate(batch)
    )

    def make(dtype: torch.dtype) -> Case:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # vectors of spectral_norm
            module = filled(build(), dtype).eval()
        layer, params, state = fl.nn.from_module(module)

        def loss_fn(params: Any, *sample: Any) -> Tensor:
            def call(*inputs: Any, **named: Any) -> Any:
                if state == ():
                    return layer.apply(params, *inputs, **named)
                return layer.apply(params, state, *inputs, **named)[0]

            if axis == "bare":
                return losses(lambda *inputs: call(*inputs)[None], *sample)[0]
            return losses(call, *(sample if axis == "kept" else one(sample)))[0]

        return Case(
            params,
            loss_fn,
            tuple(convert(leaf, dtype) for leaf in drawn),
            module,
            losses,
            keep_batch_axis=axis == "kept",
            batch_first=batch_first,
        )

    return Row(group, name, make, **expected)


class _Free(nn.Module):
    """A function of free parameters as a module."""

    def __init__(self, function: Callable[..., Tensor], params: dict[str, Tensor]):
        super().__init__()
        self.function = function
        for name, tensor in params.items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))

    def forward(self, *inputs: Any) -> Tensor:
        return self.function(dict(self.named_parameters()), *inputs)


def of_function(
    group: str,
    name: str,
    function: Callable[..., Tensor],
    params: dict[str, tuple[int, ...]],
    *batch: Any,
    axis: str = "bare",
    module: bool = True,
    **expected: Any,
) -> Row:
    """A row about `function(params, *inputs)`, no bridge in between.

    The function takes a batch as well as a sample, or, with `module=False`, only the
    sample; then peers that want a module have nothing to do with the row.
    """
    drawn = tuple(
        draw(*leaf, seed=i) if isinstance(leaf, tuple) else leaf
        for i, leaf in enumerate(batch)
    )

    def loss_fn(params: Any, *sample: Any) -> Tensor:
        if axis == "bare":
            return curved(function(params, *sample)[None])[0]
        return curved(function(params, *(sample if axis == "kept" else one(sample))))[0]

    def make(dtype: torch.dtype) -> Case:
        tensors = {
            leaf: (0.5 * draw(*shape, seed=11 + i)).to(dtype)
            for i, (leaf, shape) in enumerate(params.items())
        }
        inputs = tuple(convert(leaf, dtype) for leaf in drawn)
        case = Case(tensors, loss_fn, inputs, keep_batch_axis=axis == "kept")
        if not module:
            return case
        free = _Free(function, tensors)
        return replace(case, module=free, batch_losses=curved_output)

    return Row(group, name, make, **expected)
