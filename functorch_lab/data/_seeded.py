# SPDX-License-Identifier: Apache-2.0
"""One pass over a loader in an order that is a function of a key."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from functorch_lab import random
from functorch_lab.types import Key


def seeded(loader: Iterable[Any], key: Key) -> Iterator[Any]:
    """The items of a loader whose generators are seeded from the key for this pass."""
    owners = _owners(loader)
    generator = random.generator(key)
    # Lent around each access alone: a pass that is left in the middle keeps nothing.
    with _lent(owners, generator):
        for owner in owners:
            if callable(set_epoch := getattr(owner, "set_epoch", None)):
                set_epoch(generator.initial_seed() & 0x7FFFFFFF)
        items = iter(loader)
    while True:
        with _lent(owners, generator):
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
def _lent(owners: list[Any], generator: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for owner in owners:
            if hasattr(owner, "generator"):
                stack.callback(setattr, owner, "generator", owner.generator)
                owner.generator = generator
        yield
