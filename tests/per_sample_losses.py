# SPDX-License-Identifier: Apache-2.0
"""Losses that use their parameters in every way that is kept, and their gradients."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree

import functorch_lab as fl
from per_sample_cases import Case, oracle

COUNT = 7  # samples; chunks of 3 don't divide it
MASK = torch.tensor([True, True, False, True, True, False, True])
WEIGHTS = torch.tensor([0.7, -1.3, 2.1, 0.4, -0.6, 1.7, 0.9])


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).double()


def params() -> dict[str, Any]:
    """A table that is also the head, two linear maps and a free scale."""
    shapes = {"up": (5, 3), "bias": (5,), "down": (3, 5)}
    deep = {
        name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())
    }
    return {"words": draw(11, 3, seed=5), "deep": deep, "scale": [draw(3, seed=6)]}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Two words a sample, of which two samples repeat one; shifts; targets."""
    words = torch.tensor([[1, 4], [6, 6], [2, 9], [10, 3], [8, 8], [4, 1], [7, 0]])
    targets = torch.tensor([[3, 1], [5, 10], [0, 2], [8, 8], [4, 6], [9, 7], [2, 5]])
    return words, draw(COUNT, 2, 3, seed=8), targets


def loss_fn(params: Any, words: Tensor, shift: Tensor, targets: Tensor) -> Tensor:
    """Tied table and head at two positions; the scale by a use that no rule knows."""
    x = F.embedding(words, params["words"]) + shift * params["scale"][0].sin()
    deep = params["deep"]
    x = x + F.linear(F.linear(x, deep["up"], deep["bias"]).tanh(), deep["down"])
    logits = F.linear(x, params["words"])
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def noisy_loss_fn(params: Any, *sample: Tensor, key: Tensor) -> Tensor:
    """Draws from its key."""
    words, shift, targets = sample
    noise = fl.random.normal(key, shift.shape, dtype=shift.dtype)
    return loss_fn(params, words, shift + noise, targets)


def with_aux(function: Callable[..., Any]) -> Callable[..., Any]:
    """The loss with a tensor, a number and nothing beside it."""

    def both(params: Any, *sample: Any, **key: Any) -> Any:
        value = function(params, *sample, **key)
        return value, {"twice": 2 * value, "sizes": [3, None]}

    return both


def mlp_params() -> dict[str, Tensor]:
    shapes = {"up": (5, 3), "bias": (5,), "down": (2, 5)}
    return {name: draw(*s, seed=20 + i) for i, (name, s) in enumerate(shapes.items())}


def mlp_loss_fn(params: Any, x: Tensor) -> Tensor:
    """Each matrix at one position."""
    hidden = F.linear(x, params["up"], params["bias"]).tanh()
    return F.linear(hidden, params["down"]).square().sum()


def gradients(
    function: Callable[..., Any], params: Any, batch: tuple[Any, ...], **how: Any
) -> dict[str, Tensor]:
    """By dotted path, `(samples, *leaf)`: one backward pass for each sample."""
    return oracle(Case(params, function, batch, **how))


def rows(mask: Tensor, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(leaf[mask] for leaf in batch)


def padded(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What is not a number in all floating-point leaves where the mask is False."""
    return _pytree.tree_map(
        lambda leaf: (
            torch.where(MASK.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, torch.nan)
            if leaf.is_floating_point()
            else leaf
        ),
        batch,
    )


def flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([leaf.flatten(1) for leaf in grads.values()], 1)
