# SPDX-License-Identifier: Apache-2.0
"""Rules of torch's recurrent cells, whose one call vmap runs sample after sample.

Written out, their weights are those of linear maps, which keep their factors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._composite import seen
from functorch_lab.per_sample._tape import Rule, Tape, rule_for


def _rule(step: Callable[..., Any]) -> Rule:
    def rule(tape: Tape, *args: Any, **kwargs: Any) -> Any:
        return seen(tape, step, *args, **kwargs)

    return rule


def _gru(
    input: Tensor,  # noqa: A002 - torch's name
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    x_r, x_z, x_n = F.linear(input, w_ih, b_ih).chunk(3, -1)
    h_r, h_z, h_n = F.linear(hx, w_hh, b_hh).chunk(3, -1)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return n + torch.sigmoid(x_z + h_z) * (hx - n)


def _lstm(
    input: Tensor,  # noqa: A002 - torch's name
    hx: tuple[Tensor, Tensor],
    *weights: Any,
    **named: Any,
) -> tuple[Tensor, Tensor]:
    h, c = hx
    i, f, g, o = _gates(input, h, *weights, **named).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _rnn(
    nonlinearity: Callable[[Tensor], Tensor],
    input: Tensor,  # noqa: A002 - torch's name
    hx: Tensor,
    *weights: Any,
    **named: Any,
) -> Tensor:
    return nonlinearity(_gates(input, hx, *weights, **named))


def _gates(
    x: Tensor,
    h: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    return F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)


for _name, _step in {
    "gru_cell": _gru,
    "lstm_cell": _lstm,
    "rnn_tanh_cell": partial(_rnn, torch.tanh),
    "rnn_relu_cell": partial(_rnn, torch.relu),
}.items():
    rule_for(_name)(_rule(_step))
