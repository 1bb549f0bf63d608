# SPDX-License-Identifier: Apache-2.0
"""Batches on their way to a device."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree


def moved(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    for batch in batches:
        yield tree.to(batch, device)


def moved_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """`moved`; to CUDA one batch ahead, by a stream of its own, from pinned memory."""
    if device.type != "cuda":
        yield from moved(batches, device)
        return
    stream = torch.cuda.Stream(device)
    waiting: list[tuple[Any, Any]] = []
    for batch in batches:
        with torch.cuda.stream(stream):
            copy = tree.map(lambda leaf: _copied(leaf, device), batch)
            waiting.append((copy, stream.record_event()))
        if len(waiting) > 1:
            yield _awaited(*waiting.pop(0))
    for copy, event in waiting:
        yield _awaited(copy, event)


def _copied(leaf: Tensor, device: torch.device) -> Tensor:
    # Pinned memory is used again only when the copies from it are done: torch counts.
    leaf = leaf.pin_memory() if leaf.device.type == "cpu" else leaf
    return leaf.to(device, non_blocking=True)


def _awaited(batch: Any, event: Any) -> Any:
    for leaf in tree.leaves(batch):
        stream = torch.cuda.current_stream(leaf.device)
        stream.wait_event(event)
        leaf.record_stream(stream)  # its memory was taken on the other stream
    return batch
