# SPDX-License-Identifier: Apache-2.0
"""Rules of torch's recurrent cells and layers, of which vmap knows no rule.

Written out, their weights are those of linear maps, which keep their factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._composite import seen
from functorch_lab.per_sample._tape import Rule, Tape, rule_for

State = tuple[Tensor, ...]  # (h,), or (h, c) of an LSTM
# `step(of_x, state, *weights) -> state`, from the linear map of the input.
Step = Callable[..., State]


def _gru(of_x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    (h,) = state
    x_r, x_z, x_n = of_x.chunk(3, -1)
    h_r, h_z, h_n = F.linear(h, w_hh, b_hh).chunk(3, -1)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return (n + torch.sigmoid(x_z + h_z) * (h - n),)


def _lstm(
    of_x: Tensor,
    state: State,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None = None,
) -> State:
    h, c = state
    i, f, g, o = (of_x + F.linear(h, w_hh, b_hh)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (h if w_hr is None else F.linear(h, w_hr)), c


def _tanh(of_x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    return (torch.tanh(of_x + F.linear(state[0], w_hh, b_hh)),)


def _relu(of_x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    return (torch.relu(of_x + F.linear(state[0], w_hh, b_hh)),)


def _cell(step: Step) -> Callable[..., Any]:
    """One step, with the arguments of `torch.gru_cell`."""

    def cell(
        input: Tensor,  # noqa: A002 - torch's name
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        state = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        h, *rest = step(F.linear(input, w_ih, b_ih), state, w_hh, b_hh)
        return (h, *rest) if rest else h

    return cell


def _layers(step: Step) -> Callable[..., Any]:
    """Sequences in layers, with the arguments of `torch.gru`."""

    def layers(  # noqa: PLR0913, PLR0917 - torch's signature
        input: Tensor,  # noqa: A002 - torch's name
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool = False,
    ) -> tuple[Tensor, ...] | None:
        if dropout and train and num_layers > 1:
            return None  # torch draws without a key, and vmap says so
        x = input.transpose(0, 1) if batch_first else input
        begins = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        directions = 2 if bidirectional else 1
        count = len(params) // (num_layers * directions)
        ends: list[State] = []
        for layer in range(num_layers):
            outputs = []
            for reverse in range(directions):
                number = layer * directions + reverse
                weights: list[Any] = list(params[number * count : (number + 1) * count])
                if not has_biases:
                    weights[2:2] = [None, None]
                state = tuple([tensor[number] for tensor in begins])
                output, state = _along_time(step, x, state, weights, bool(reverse))
                outputs.append(output)
                ends.append(state)
            x = torch.cat(outputs, -1)
        last = [torch.stack(tensors) for tensors in zip(*ends, strict=True)]
        return (x.transpose(0, 1) if batch_first else x), *last

    return layers


def _along_time(
    step: Step, x: Tensor, state: State, weights: list[Any], reverse: bool
) -> tuple[Tensor, State]:
    """The outputs, in the order of the inputs `(time, batch, size)`, and the end."""
    w_ih, w_hh, b_ih, b_hh, *projection = weights
    rows = list(F.linear(x, w_ih, b_ih).unbind())
    outputs = []
    for row in reversed(rows) if reverse else rows:
        state = step(row, state, w_hh, b_hh, *projection)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _rule(written_out: Callable[..., Any]) -> Rule:
    def rule(tape: Tape, *args: Any, **kwargs: Any) -> Any:
        return seen(tape, written_out, *args, **kwargs)

    return rule


for _name, _step in {
    "gru": _gru,
    "lstm": _lstm,
    "rnn_tanh": _tanh,
    "rnn_relu": _relu,
}.items():
    rule_for(f"{_name}_cell", inside=True)(_rule(_cell(_step)))
    rule_for(_name, inside=True)(_rule(_layers(_step)))
