# SPDX-License-Identifier: Apache-2.0
"""What is gathered batch by batch: four pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Accumulator:
    """What is gathered over batches: four pure functions.

    Attributes:
        init: `state = init(...)`, a tree of tensors for no data at all.
        update: `state = update(state, ...)`: more data.
        merge: `state = merge(a, b)`: the state of the data of both, such as those of
            two devices.
        compute: `result = compute(state)`, a tree of tensors.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    merge: Callable[[Any, Any], Any]
    compute: Callable[[Any], Any]
