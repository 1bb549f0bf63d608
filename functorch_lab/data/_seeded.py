# SPDX-License-Identifier: Apache-2.0
"""One pass over a loader in an order that is a function of a key."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from functorch_lab import random
from functorch_lab.types import Key


def seeded(loader: Iterable[Any], key: Key) -> Iterator[Any]:
    """The items of a loader whose generators are seeded from the key for this pass."""
    # A loader draws a seed for its workers in each pass, but only once if they persist:
    # from its own generator, or the order would depend on it.
    for_workers, for_order = random.generator(key), random.generator(key)
    first, *others = _owners(loader)
    generators = [(first, for_workers), *((owner, for_order) for owner in others)]
    # Lent around each access alone: a pass that is left in the middle keeps nothing.
    with _lent(generators):
        for owner, generator in generators:
            if callable(set_epoch := getattr(owner, "set_epoch", None)):
                set_epoch(generator.initial_seed() & 0x7FFFFFFF)
        items = iter(loader)
    while True:
        with _lent(generators):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _owners(loader: Any) -> list[Any]:
    # Whatever may hold a generator: the loader, its samplers, and what they wrap.
    found, waiting = [], [loader]
    while waiting:
        owner = waiting.pop()
        if owner is None or any(owner is other for other in found):
            continue
        found.append(owner)
        waiting += [getattr(owner, name, None) for name in ("sampler", "batch_sampler")]
    return found


@contextmanager
def _lent(generators: list[tuple[Any, torch.Generator]]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, generator in generators:
            if hasattr(owner, "generator"):
                stack.callback(setattr, owner, "generator", owner.generator)
                owner.generator = generator
        yield
