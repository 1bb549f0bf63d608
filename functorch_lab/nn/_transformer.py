# SPDX-License-Identifier: Apache-2.0
"""The transformer that continues sequences of tokens."""

from __future__ import annotations

import functools
from typing import Literal

from functorch_lab.nn import _checks, _rotary, init
from functorch_lab.nn._activations import gelu, silu
from functorch_lab.nn._embedding import embedding
from functorch_lab.nn._linear import linear
from functorch_lab.nn._positions import learned_positions, sinusoidal_positions
from functorch_lab.nn._transformer_block import Activation, Block, Norm, scaled_std
from functorch_lab.nn._transformer_decoder import Decoder
from functorch_lab.nn._transformer_model import LanguageModel

_OF = "transformer"
_STD = 0.02


def transformer(  # noqa: PLR0913  (the kinds that are in use)
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    *,
    max_length: int,
    num_kv_heads: int | None = None,
    hidden: int | None = None,
    activation: Activation | None = None,
    norm: Norm = "layer_norm",
    norm_eps: float = 1e-5,
    positions: Literal["learned", "rotary", "sinusoidal"] = "learned",
    rotary_base: float = 10000.0,
    gated: bool = False,
    bias: bool = True,
    dropout: float = 0.0,
    tie_weights: bool = True,
    remat: bool = False,
) -> LanguageModel:
    """A GPT: from tokens, integers `(..., T)`, to logits `(..., T, vocab_size)`.

    The logits at a position are of the token that follows: position `t` sees the tokens
    up to `t`. By default this is GPT-2, its initial distribution included; with
    `norm="rms_norm", positions="rotary", gated=True, bias=False`, `num_kv_heads` and
    `tie_weights` it is Llama. `nn.generate` continues a text.

    Args:
        vocab_size: number of different tokens, 0 to `vocab_size - 1`.
        embed_dim: features of a position, divisible by `num_heads`.
        num_layers: how many layers.
        num_heads: heads of the queries, each of `embed_dim // num_heads` features.
        max_length: the longest sequence.
        num_kv_heads: heads of keys and values, a divisor of `num_heads`; by default as
            many.
        hidden: width of the map of each position; by default `4 * embed_dim`.
        activation: in that map; by default GELU in its tanh form, or `nn.silu` if it is
            gated.
        norm: "layer_norm" or "rms_norm", before each half of a layer and at the end.
        norm_eps: of the norms.
        positions: "learned" or "sinusoidal", added to the embedding, or "rotary".
        rotary_base: `base` of `nn.rotary`.
        gated: whether the map is `down(activation(gate(x)) * up(x))` instead of
            `down(activation(up(x)))`.
        bias: whether the linear maps and layer norms have a bias.
        dropout: share dropped of the embedding, of the attention weights and of what
            each half of a layer adds; above 0, training needs a key.
        tie_weights: whether the logits are products with the embedding, one parameter
            for both ends, or with a "head" of their own.
        remat: whether the backward pass computes each layer again instead of keeping
            what it computed, see `functorch_lab.checkpoint`: time for memory.

    Returns:
        A layer that also continues sequences, see `LanguageModel`.
        Its `apply` takes a `mask=` beside, bool `(..., T)`, True at the real tokens:
        padding is not looked at and not counted, so that real tokens have the logits of
        the sequence without padding, on whichever side that is; the logits at padding
        mean nothing. Its params are "tokens", "positions" if they are learned, "blocks"
        (a tuple of params as `transformer_block` has them), "norm", and "head" without
        `tie_weights`. Weights are normal with standard deviation 0.02, divided by
        `sqrt(2 * num_layers)` where they write into the sum of all layers ("out" and
        "down"); biases are zero. Its `apply` raises `ValueError` for params of another
        model, for tokens of no axis, none or more than `max_length`, for a mask of
        another shape, and when it trains with dropout without a key; `TypeError` for
        tokens that are no integers and a mask that is not bool. Tokens outside the
        vocabulary raise `IndexError` on CPU and are undefined elsewhere and under
        `jit`.

    Raises:
        ValueError: a size below 1, heads that do not divide, rotary positions of an odd
            number of features, an unknown norm or kind of positions, or `dropout`
            outside [0, 1].
        TypeError: a size that is no integer, or an `activation` that is no function.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.transformer(7, 8, 2, 2, max_length=5)
        >>> params = model.init(fl.random.key(0))
        >>> tokens = torch.tensor([[2, 3, 5], [6, 1, 4]])
        >>> model.apply(params, tokens).shape
        torch.Size([2, 3, 7])
        >>> # 7*8 + 5*8, in each layer 12*8*8 weights and 13*8 others, and a norm
        >>> fl.tree.size(params) == 96 + 2 * (768 + 104) + 16
        True

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019),
    section 2.3; Touvron et al., LLaMA (2023), section 2.2, arXiv 2302.13971.
    """
    _checks.size(_OF, "num_layers", num_layers)
    block = Block(
        _OF,
        embed_dim,
        num_heads,
        num_kv_heads,
        hidden,
        activation or (silu if gated else functools.partial(gelu, approximate="tanh")),
        norm,
        norm_eps,
        gated,
        bias,
        dropout,
        _STD,
        scaled_std(_STD, num_layers),
    )
    small = init.normal(std=_STD)
    layers = {
        "tokens": embedding(vocab_size, embed_dim, weight_init=small),
        "norm": block.norm_layer(),
    }
    _checks.size(_OF, "max_length", max_length)
    base = None
    if positions == "learned":
        layers["positions"] = learned_positions(
            max_length, embed_dim, weight_init=small
        )
    elif positions == "rotary":
        base = _base_of_angles(block, rotary_base)
    elif positions != "sinusoidal":
        raise ValueError(
            "nn.transformer: positions: expected 'learned', 'rotary' or 'sinusoidal', "
            f"got {positions!r}. Choose one of them."
        )
    if not tie_weights:
        layers["head"] = linear(embed_dim, vocab_size, bias=False, weight_init=small)
    add = sinusoidal_positions(embed_dim) if positions == "sinusoidal" else None
    decoder = Decoder(block, num_layers, max_length, layers, add, base, remat)
    return LanguageModel(
        decoder.init,
        decoder.apply,
        decoder.init_cache,
        decoder.extend,
        vocab_size,
        max_length,
    )


def _base_of_angles(block: Block, base: float) -> float:
    """The base, for heads that can be rotated.

    Raises:
        ValueError: a head has an odd number of features.
    """
    _rotary.check_base(_OF, "rotary_base", base)
    if block.head_dim % 2:
        raise ValueError(
            "nn.transformer: positions: expected an even number of features in each "
            f"head for 'rotary', got {block.head_dim}. Choose another num_heads."
        )
    return base
