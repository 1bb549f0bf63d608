# SPDX-License-Identifier: Apache-2.0
"""One step of a recurrent network as a layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from functorch_lab.nn import _checks
from functorch_lab.nn import _recurrent_checks as checks
from functorch_lab.nn._recurrent_rules import GRU, LSTM, Cell, as_torch
from functorch_lab.types import Layer


def rnn_cell(
    input_size: int, hidden_size: int, *, bias: bool = True, nonlinearity: str = "tanh"
) -> Layer:
    """`h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`, one step of `rnn`.

    Args:
        input_size: size of the last axis of the input.
        hidden_size: size of the last axis of the state.
        bias: whether there are the two biases.
        nonlinearity: "tanh", or "relu" in its place.

    Returns:
        A layer.
        `apply(params, x, state=None)` is the next state `(..., hidden_size)`, of an
        input `(..., input_size)` and a state, zeros if None. The params are
        "weight_ih", of shape `(hidden_size, input_size)`, "weight_hh", of shape
        `(hidden_size, hidden_size)`, "bias_ih" and "bias_hh", of shape
        `(hidden_size,)`, all uniform on +-1/sqrt(hidden_size). `apply` raises
        `ValueError` for params, an input or a state of other shapes, and `TypeError`
        for an input that is not floating-point, and for what differs in dtype or
        device.

    Raises:
        ValueError: a size below 1, or another nonlinearity.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> cell = fl.nn.rnn_cell(1, 1, bias=False, nonlinearity="relu")
        >>> params = {"weight_ih": torch.eye(1), "weight_hh": 10 * torch.eye(1)}
        >>> cell.apply(params, torch.tensor([2.0]), torch.tensor([3.0]))
        tensor([32.])

    Source: Elman, Finding Structure in Time (1990), figure 2, doi
    10.1207/s15516709cog1402_1; the two biases as in torch.nn.RNNCell.
    """
    rule = checks.nonlinearity("rnn_cell", nonlinearity)
    return _cell("rnn_cell", Cell(rule, input_size, hidden_size, bias))


def lstm_cell(
    input_size: int, hidden_size: int, *, bias: bool = True, proj_size: int = 0
) -> Layer:
    """One step of `lstm`: a memory `c` behind gates, and the output `h` read from it.

    With `i, f, g, o` the four parts of `W_ih x + b_ih + W_hh h + b_hh`, in this order,
    after `tanh` for `g` and after `sigmoid` for the gates i, f and o:
    `c' = f * c + i * g` and `h' = o * tanh(c')`.

    Args:
        input_size: size of the last axis of the input.
        hidden_size: size of the last axis of `c`, and of `h` without a projection.
        bias: whether there are the two biases.
        proj_size: if above 0, `h' = W_hr (o * tanh(c'))` has this size instead.

    Returns:
        A layer.
        `apply(params, x, state=None)` is the next state `(h', c')`, of an input
        `(..., input_size)` and a state `(h, c)`, zeros if None. The params are as those
        of `rnn_cell`, with `4 * hidden_size` rows for the parts i, f, g, o, and with
        "weight_hr", of shape `(proj_size, hidden_size)`, if there is a projection.
        `apply` raises the errors of `rnn_cell`'s, and `TypeError` for a state that is
        no pair.

    Raises:
        ValueError: a size below 1, or a `proj_size` that is negative or not below
            `hidden_size`.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> cell = fl.nn.lstm_cell(1, 1)
        >>> params = fl.tree.zeros_like(cell.init(fl.random.key(0)))
        >>> h, c = cell.apply(params, torch.ones(1), (torch.zeros(1), torch.ones(1)))
        >>> c, torch.allclose(h, torch.tensor(0.5).tanh() / 2)  # all gates half open
        (tensor([0.5000]), True)

    Source: Hochreiter and Schmidhuber, Long Short-Term Memory (1997), section 4, with
    the forget gate of Gers et al., Learning to Forget (2000), equation 3.1, and the
    projection of Sak et al. (2014), equations 7 to 12, arXiv 1402.1128.
    """
    return _cell("lstm_cell", Cell(LSTM, input_size, hidden_size, bias, proj_size))


def gru_cell(input_size: int, hidden_size: int, *, bias: bool = True) -> Layer:
    """One step of `gru`: the state moves towards a proposal `n`, as far as `z` lets it.

    With `x_r, x_z, x_n` the three parts of `W_ih x + b_ih`, and in the same way those
    of `W_hh h + b_hh`: `r = sigmoid(x_r + h_r)`, `z = sigmoid(x_z + h_z)` and
    `n = tanh(x_n + r * h_n)` give `h' = (1 - z) * n + z * h`.

    Args:
        input_size: size of the last axis of the input.
        hidden_size: size of the last axis of the state.
        bias: whether there are the two biases.

    Returns:
        A layer.
        `apply(params, x, state=None)` is the next state, as that of `rnn_cell`, with
        the same params but `3 * hidden_size` rows for the parts r, z, n, and with the
        same errors.

    Raises:
        ValueError: a size below 1.
        TypeError: a size that is no integer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> cell = fl.nn.gru_cell(1, 1)
        >>> params = fl.tree.zeros_like(cell.init(fl.random.key(0)))
        >>> cell.apply(params, torch.ones(1), torch.tensor([8.0]))  # z = 1/2, n = 0
        tensor([4.])

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder
    (2014), equations 5 to 8, arXiv 1406.1078; with `r` after the product with `W_hh`,
    as in torch.nn.GRUCell.
    """
    return _cell("gru_cell", Cell(GRU, input_size, hidden_size, bias))


def _cell(function: str, cell: Cell) -> Layer:
    checks.sizes(function, cell)

    def apply(
        params: Any,
        x: Tensor,
        state: Any = None,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Any:
        _checks.params(function, params, cell.shapes)
        checks.features(function, x, cell, params, timed=False)
        axes = tuple(x.shape[:-1])
        given = checks.state(function, "state", state, cell, axes, x)
        of_x = cell.of_input(params, x)
        return as_torch(cell.step(params, of_x, cell.start(given, of_x)))

    return Layer(cell.init, apply)
