# SPDX-License-Identifier: Apache-2.0
"""Recurrent networks over sequences."""

from __future__ import annotations

from functorch_lab.nn import _recurrent_checks as checks
from functorch_lab.nn._recurrent_rules import GRU, LSTM, Cell
from functorch_lab.nn._recurrent_time import stack
from functorch_lab.types import Layer


def rnn(
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    nonlinearity: str = "tanh",
    bias: bool = True,
    dropout: float = 0.0,
    bidirectional: bool = False,
    return_state: bool = False,
) -> Layer:
    """`rnn_cell` along the time axis: from `(..., T, input_size)` to the outputs.

    Time is the axis before the features, as with torch's `batch_first=True`; there may
    be any axes before it, or none. The loop is `fl.scan`: it is right under every
    transform, and what does not depend on the step before, the product of the input
    with "weight_ih", is one product for all steps.

    Args:
        input_size: size of the last axis of the input.
        hidden_size: size of the state.
        num_layers: how many networks, each reading the outputs of the one before.
        nonlinearity: "tanh" or "relu".
        bias: whether there are the two biases.
        dropout: the share of the outputs, between layers, that is dropped in training,
            each step anew.
        bidirectional: whether each layer has a second network, which reads from the
            last step to the first; its outputs stand behind those of the other, so that
            an output has `2 * hidden_size` features.
        return_state: whether `apply` returns `(output, state)`, as torch's modules do,
            or the output alone, as `sequential` needs it.

    Returns:
        A layer.
        `apply(params, x, initial=None, lengths=None, *, key=None, train=False)` has the
        outputs of the last layer, `(..., T, hidden_size)`, and with `return_state` the
        state after the last step, `(num_layers, ..., hidden_size)`, with twice as many
        rows if `bidirectional`: layer by layer, forward before reverse. `initial` is
        such a state, zeros if None, so that a sequence can be read in pieces.

        `lengths`, integers of the shape of the leading axes, are for padded sequences:
        outputs past a sequence's end are 0, the state is that after its last step, the
        reverse direction begins there, and the values in the padding have no influence.
        One above T counts as T, and one of 0 leaves the state as it was.

        The params are `params[layer][direction]`, a tuple of dicts with "forward" and,
        if `bidirectional`, "reverse"; in it are the params of an `rnn_cell`, which
        takes the same steps one by one.

        `apply` raises `ValueError` for params, an input, a state or lengths of other
        shapes, for no time steps, and for no key where it drops; `TypeError` for an
        input that is not floating-point, lengths that are no integers, and for what
        differs in dtype or device.

    Raises:
        ValueError: a size or `num_layers` below 1, another nonlinearity, `dropout`
            outside [0, 1], or above 0 with one layer.
        TypeError: a size that is no integer, or `dropout` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.rnn(1, 1, nonlinearity="relu", bias=False, return_state=True)
        >>> cell = {"weight_ih": torch.eye(1), "weight_hh": 10 * torch.eye(1)}
        >>> params = ({"forward": cell},)
        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> y, state = layer.apply(params, x)
        >>> y[:, 0], state
        (tensor([  1.,  12., 123.]), tensor([[123.]]))
        >>> y, state = layer.apply(params, x, None, torch.tensor(2))  # the last is none
        >>> y[:, 0], state
        (tensor([ 1., 12.,  0.]), tensor([[12.]]))

    Source: Elman, Finding Structure in Time (1990), figure 2, doi
    10.1207/s15516709cog1402_1; both directions from Schuster and Paliwal, Bidirectional
    Recurrent Neural Networks (1997), section II.C, doi 10.1109/78.650093.
    """
    rule = checks.nonlinearity("rnn", nonlinearity)
    return stack(
        "rnn",
        Cell(rule, input_size, hidden_size, bias),
        num_layers=num_layers,
        dropout=dropout,
        bidirectional=bidirectional,
        return_state=return_state,
    )


def lstm(
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    dropout: float = 0.0,
    bidirectional: bool = False,
    proj_size: int = 0,
    return_state: bool = False,
) -> Layer:
    """`lstm_cell` along the time axis: from `(..., T, input_size)` to the outputs `h`.

    Everything but the cell, also `initial`, `lengths` and the params' form, is as in
    `rnn`.

    Args:
        input_size: size of the last axis of the input.
        hidden_size: size of the memory `c`, and of `h` without a projection.
        num_layers: how many networks, each reading the outputs of the one before.
        bias: whether there are the two biases.
        dropout: the share of the outputs, between layers, that is dropped in training.
        bidirectional: whether each layer has a second network for the other direction.
        proj_size: the size of `h` and of the outputs, if above 0.
        return_state: whether `apply` returns `(output, (h, c))` instead of the output.

    Returns:
        A layer.
        Its `apply` is that of `rnn`, with a pair `(h, c)` as state, and a
        `TypeError` for one that is no pair.

    Raises:
        ValueError: a size or `num_layers` below 1, a `proj_size` that is negative or
            not below `hidden_size`, `dropout` outside [0, 1], or above 0 with one
            layer.
        TypeError: a size that is no integer, or `dropout` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.lstm(1, 1, return_state=True)
        >>> params = fl.tree.zeros_like(layer.init(fl.random.key(0)))
        >>> initial = torch.zeros(1, 1), torch.tensor([[8.0]])
        >>> y, (h, c) = layer.apply(params, torch.ones(3, 1), initial)
        >>> y.shape, c  # three times half of the memory
        (torch.Size([3, 1]), tensor([[1.]]))

    Source: that of `lstm_cell`.
    """
    return stack(
        "lstm",
        Cell(LSTM, input_size, hidden_size, bias, proj_size),
        num_layers=num_layers,
        dropout=dropout,
        bidirectional=bidirectional,
        return_state=return_state,
    )


def gru(
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    bias: bool = True,
    dropout: float = 0.0,
    bidirectional: bool = False,
    return_state: bool = False,
) -> Layer:
    """`gru_cell` along the time axis: from `(..., T, input_size)` to the outputs.

    Everything but the cell, also `initial`, `lengths` and the params' form, is as in
    `rnn`.

    Args:
        input_size: size of the last axis of the input.
        hidden_size: size of the state.
        num_layers: how many networks, each reading the outputs of the one before.
        bias: whether there are the two biases.
        dropout: the share of the outputs, between layers, that is dropped in training.
        bidirectional: whether each layer has a second network for the other direction.
        return_state: whether `apply` returns `(output, state)` instead of the output.

    Returns:
        A layer.
        Its `apply` is that of `rnn`.

    Raises:
        ValueError: a size or `num_layers` below 1, `dropout` outside [0, 1], or above
            0 with one layer.
        TypeError: a size that is no integer, or `dropout` no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.gru(1, 1)
        >>> params = fl.tree.zeros_like(layer.init(fl.random.key(0)))
        >>> layer.apply(params, torch.ones(3, 1), torch.tensor([[8.0]]))[:, 0]
        tensor([4., 2., 1.])

    Source: that of `gru_cell`.
    """
    return stack(
        "gru",
        Cell(GRU, input_size, hidden_size, bias),
        num_layers=num_layers,
        dropout=dropout,
        bidirectional=bidirectional,
        return_state=return_state,
    )
