# SPDX-License-Identifier: Apache-2.0
"""One step of a recurrent network: its parameters and its equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import init

State = tuple[Tensor, ...]  # (h,), or (h, c) for an LSTM


def as_torch(state: State) -> Any:
    """A state as torch's modules have it: the tensor itself if there is but one."""
    h, *rest = state
    return state if rest else h


@dataclass(frozen=True)
class Rule:
    """The equations of one kind of cell.

    Attributes:
        gates: how many rows of `hidden_size` the weights have.
        states: how many tensors the state has; the first is the output.
        joined: whether the affine maps of the input and of the output of the step
            before matter by their sum alone.
        update: `update(params, of_x, state)`, the next state, from `Cell.of_input`.
    """

    gates: int
    states: int
    joined: bool
    update: Callable[[Any, Tensor, State], State]


@dataclass(frozen=True)
class Cell:
    """A rule with sizes."""

    rule: Rule
    input_size: int
    hidden_size: int
    bias: bool = True
    proj_size: int = 0

    @property
    def state_sizes(self) -> tuple[int, ...]:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        return sizes[: self.rule.states]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self.rule.gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.state_sizes[0]),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        return shapes

    def init(self, key: Tensor) -> dict[str, Tensor]:
        bound = 1.0 / math.sqrt(self.hidden_size)
        draw = init.uniform(-bound, bound)
        keys = random.split(key, len(self.shapes)).unbind()
        named = zip(self.shapes.items(), keys, strict=True)
        return {name: draw(k, shape) for (name, shape), k in named}

    def of_input(self, params: Any, x: Tensor) -> Tensor:
        """What a step needs of `x`; of a whole sequence it is one product."""
        bias = params.get("bias_ih")
        if self.bias and self.rule.joined:
            bias = bias + params["bias_hh"]
        return F.linear(x, params["weight_ih"], bias)

    def start(self, given: State | None, of_x: Tensor) -> State:
        """The state before the first step, zeros if none is given."""
        if given is None:
            axes = of_x.shape[:-1]
            return tuple(of_x.new_zeros((*axes, size)) for size in self.state_sizes)
        # Under autocast `of_x` has the lower precision, and so will every later state.
        return tuple(tensor.to(of_x.dtype) for tensor in given)

    def step(self, params: Any, of_x: Tensor, state: State) -> State:
        h, *rest = self.rule.update(params, of_x, state)
        if self.proj_size:
            h = F.linear(h, params["weight_hr"])
        return h, *rest


def _joined(params: Any, of_x: Tensor, state: State) -> Tensor:
    """The sum of both maps.

    The product adds it. What follows then reads no slice of the sequence, which lies
    elsewhere for each step, so that compiled steps are the same few kernels.
    """
    rows, h = of_x.reshape(-1, of_x.shape[-1]), state[0]
    h = h.reshape(-1, h.shape[-1])
    return torch.addmm(rows, h, params["weight_hh"].mT).reshape(of_x.shape)


def _tanh(params: Any, of_x: Tensor, state: State) -> State:
    return (torch.tanh(_joined(params, of_x, state)),)


def _relu(params: Any, of_x: Tensor, state: State) -> State:
    return (torch.relu(_joined(params, of_x, state)),)


def _lstm(params: Any, of_x: Tensor, state: State) -> State:
    i, f, g, o = _joined(params, of_x, state).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(params: Any, of_x: Tensor, state: State) -> State:
    of_h = F.linear(state[0], params["weight_hh"], params.get("bias_hh"))
    x_r, x_z, x_n = of_x.chunk(3, -1)
    h_r, h_z, h_n = of_h.chunk(3, -1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return (n + z * (state[0] - n),)


RNN = {"tanh": Rule(1, 1, True, _tanh), "relu": Rule(1, 1, True, _relu)}
LSTM = Rule(4, 2, True, _lstm)
GRU = Rule(3, 1, False, _gru)
