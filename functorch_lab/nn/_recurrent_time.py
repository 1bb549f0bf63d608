# SPDX-License-Identifier: Apache-2.0
"""Cells along time, in both directions, and in layers on one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _recurrent_checks as checks
from functorch_lab.nn._dropout import dropout as dropout_layer
from functorch_lab.nn._recurrent_rules import Cell, State, as_torch
from functorch_lab.nn._sequential import keys_for
from functorch_lab.transforms import scan
from functorch_lab.types import Layer


@dataclass(frozen=True)
class _Stack:
    """Cells by layer and direction, as a layer of sequences."""

    function: str
    layers: tuple[dict[str, Cell], ...]
    dropout: float
    return_state: bool

    def init(self, key: Tensor) -> tuple[dict[str, Any], ...]:
        count = sum(len(layer) for layer in self.layers)
        keys = iter(random.split(key, count).unbind())
        return tuple(
            {direction: cell.init(next(keys)) for direction, cell in layer.items()}
            for layer in self.layers
        )

    def apply(
        self,
        params: Any,
        x: Tensor,
        initial: Any = None,
        lengths: Tensor | None = None,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Any:
        starts = self._checked(params, x, initial, lengths)
        drop, keys = self._dropout(key, train)
        # Time first, so that a step is a slice. Contiguous, as torch multiplies what is
        # not in as many products as there are steps, each with a weight gradient.
        y, inside = x.movedim(-2, 0).contiguous(), None
        if lengths is not None:
            inside = _inside(lengths, y)
            # Whatever is in the padding, also NaN, stays out of the derivative.
            y = torch.where(inside, y, 0.0)
        last: list[State] = []
        for layer, given, k in zip(self.layers, params, keys, strict=True):
            y = drop.apply((), y, key=k, train=k is not None)
            outputs = []
            for direction, cell in layer.items():
                output, state = _along_time(
                    cell,
                    given[direction],
                    y,
                    next(starts),
                    inside,
                    reverse=direction == "reverse",
                )
                outputs.append(output)
                last.append(state)
            y = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        y = y.movedim(0, -2)
        if not self.return_state:
            return y
        rows = zip(*last, strict=True)
        return y, as_torch(tuple(torch.stack(row) for row in rows))

    def _checked(
        self, params: Any, x: Tensor, initial: Any, lengths: Tensor | None
    ) -> Iterator[State | None]:
        """The initial state of each cell, None for zeros, once all inputs fit."""
        cell = self.layers[0]["forward"]
        first = checks.stack(self.function, params, self.layers)
        checks.features(self.function, x, cell, first, timed=True)
        checks.lengths(self.function, lengths, x)
        count = sum(len(layer) for layer in self.layers)
        axes = (count, *x.shape[:-2])
        state = checks.state(self.function, "initial", initial, cell, axes, x)
        if state is None:
            return iter([None] * count)
        return zip(*(tensor.unbind(0) for tensor in state), strict=True)

    def _dropout(
        self, key: Tensor | None, train: bool
    ) -> tuple[Layer, tuple[Tensor | None, ...]]:
        """What drops, and a key for each layer; None where nothing is dropped."""
        drops = train and self.dropout > 0
        if drops and key is None:
            raise ValueError(
                f"nn.{self.function}: key: expected a key with train=True and "
                f"dropout={self.dropout}, got None. Pass key= to apply, a new one for "
                "each step, from fl.random.split."
            )
        keys = keys_for(key if drops else None, len(self.layers) - 1)
        return dropout_layer(self.dropout), (None, *keys)


def stack(
    function: str,
    cell: Cell,
    *,
    num_layers: int,
    dropout: float,
    bidirectional: bool,
    return_state: bool,
) -> Layer:
    """The layer of sequences that `rnn`, `lstm` and `gru` are, of cells like `cell`."""
    checks.sizes(function, cell)
    dropout = checks.between_layers(function, dropout, num_layers)
    directions = ["forward", "reverse"] if bidirectional else ["forward"]
    later = replace(cell, input_size=len(directions) * cell.state_sizes[0])
    layers = tuple(
        dict.fromkeys(directions, later if number else cell)
        for number in range(num_layers)
    )
    made = _Stack(function, layers, dropout, return_state)
    return Layer(made.init, made.apply)


def _inside(lengths: Tensor, x: Tensor) -> Tensor:
    """Whether a step is one of its sequence's: `(T, ..., 1)`, as `x` is time first."""
    times = torch.arange(x.shape[0], device=x.device)
    return times.view(-1, *[1] * (x.ndim - 1)) < lengths.unsqueeze(-1)


def _along_time(
    cell: Cell,
    params: Any,
    x: Tensor,
    start: State | None,
    inside: Tensor | None,
    *,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Outputs `(T, ..., size)` of one direction, and the state it ends with."""
    of_x = cell.of_input(params, x)
    first = cell.start(start, of_x[0])

    def step(state: State, now: tuple[Tensor, ...]) -> tuple[State, Tensor]:
        after = cell.step(params, now[0], state)
        if inside is not None:
            # In the padding the state stays as it is. The reverse direction comes from
            # there, and thus begins at the end of each sequence.
            pairs = zip(after, state, strict=True)
            after = tuple(torch.where(now[1], new, old) for new, old in pairs)
        return after, after[0]

    xs = (of_x,) if inside is None else (of_x, inside)
    state, y = scan(step, first, xs, reverse=reverse)
    if inside is not None:
        y = torch.where(inside, y, 0.0)
    return y, state
