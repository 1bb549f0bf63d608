# SPDX-License-Identifier: Apache-2.0
"""Attention with several heads, of a sequence to itself or to another."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab import random
from functorch_lab.nn import _attention_checks, _checks, _rotary, init
from functorch_lab.nn._attention import attention
from functorch_lab.nn._linear import torch_params
from functorch_lab.types import Layer


def multi_head_attention(  # noqa: PLR0913 - torch's options
    embed_dim: int,
    num_heads: int,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    kdim: int | None = None,
    vdim: int | None = None,
    bias: bool = True,
    dropout: float = 0.0,
    is_causal: bool = False,
    rotary: bool | float = False,
) -> Layer:
    """Every vector becomes a mean of others, weighted by how well their keys match it.

    `softmax(q @ k.mT / sqrt(head_dim)) @ v` in each head, where q, k and v are linear
    maps of the input; another linear map joins the heads. At the outermost level it is
    torch's fused kernel; inside a transform, and where dropout acts, it is written out.

    Args:
        embed_dim: size of the last axis of input and output.
        num_heads: number of heads.
        num_kv_heads: number of heads of keys and values, each shared by
            `num_heads / num_kv_heads` consecutive heads of queries; as many as
            `num_heads` if not given, 1 is multi-query attention.
        head_dim: size of a head, `embed_dim / num_heads` if not given.
        kdim: size of the last axis of `context`, `embed_dim` if not given.
        vdim: size of the last axis of `values`, `embed_dim` if not given.
        bias: whether the four linear maps have a bias.
        dropout: share of the attention weights that is dropped in training, in [0, 1].
        is_causal: whether a query looks at no later position than its own.
        rotary: whether queries and keys are turned by their positions, as
            `nn.rotary` does; a number is its `base`.

    Returns:
        A layer.
        Its params are "q_proj", "k_proj", "v_proj" and "out_proj", each a dict of
        "weight" `(out, in)` and "bias"; the heads follow one another along the `out` of
        the first three. They are apart, and not packed into one tensor, so that each
        has a name, whatever the sizes. Their distributions are those of
        torch.nn.MultiheadAttention: Xavier's, with the fans of the packed weight where
        all three have one input; biases are zero.

        Its `apply(params, x, context=None, values=None, mask=None, positions=None, *,
        key=None, train=False)` takes x `(..., L, embed_dim)`, and for cross-attention
        a context `(..., S, kdim)`, from which keys and values come, or values
        `(..., S, vdim)` of their own; leading axes broadcast. The result is
        `(..., L, embed_dim)`. A mask is `(L, S)`, `(..., L, S)` with the leading axes
        of x, or `(..., num_heads, L, S)`, and each axis may be 1. A boolean one is True
        where a query may look, the opposite of torch.nn.MultiheadAttention's and the
        same as F.scaled_dot_product_attention's; so a padding mask `(..., S)`, True for
        what is no padding, is given as `mask[..., None, :]`. A floating one is added
        before the softmax. A query that may look at nothing gets the bias of
        "out_proj". Positions, with `rotary`, are as `nn.rotary` takes them.

        It raises `ValueError` for params or tensors of other shapes, for training with
        dropout and without a key, for `values` without `context`, for positions without
        `rotary`, for a context with `rotary`, and for one of another length with
        `is_causal`; and `TypeError` for tensors that are not floating-point or differ
        from the params in dtype or device, or a mask that is neither boolean nor
        floating-point.

    Raises:
        ValueError: a size below 1, sizes that do not divide, an odd `head_dim` with
            `rotary`, `dropout` outside [0, 1], or a base that is not above 0.
        TypeError: a size that is no integer, or a `dropout` or base that is no number.

    Example:
        >>> import torch, functorch_lab as fl
        >>> layer = fl.nn.multi_head_attention(2, 1, bias=False, is_causal=True)
        >>> params = layer.init(fl.random.key(0))
        >>> params = fl.tree.map(lambda w: torch.eye(2), params)  # q = k = v = x
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
        >>> layer.apply(params, x).round(decimals=3)
        tensor([[3., 0.],
                [0., 5.]])

    Source: Vaswani et al., Attention Is All You Need (2017), section 3.2,
    arXiv 1706.03762; shared heads: Ainslie et al., GQA (2023), section 2.2,
    arXiv 2305.13245.
    """
    of = _attention_checks.sizes(
        embed_dim, num_heads, num_kv_heads, head_dim, kdim, vdim
    )
    dropout = _checks.probability("multi_head_attention", "dropout", dropout)
    base = _attention_checks.rotary_base(rotary, of.head)
    shapes = of.shapes(bias)

    def init_(key: Tensor) -> dict[str, dict[str, Tensor]]:
        weights = {name: _input_init(of) for name in shapes} | {"out_proj": None}
        keys = random.split(key, len(shapes)).unbind()
        return {
            name: torch_params(k, shapes[name], weights[name], init.zeros())
            for name, k in zip(shapes, keys, strict=True)
        }

    def apply(
        params: Any,
        x: Tensor,
        context: Tensor | None = None,
        values: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Tensor:
        *inward, outward = _attention_checks.params(params, shapes)
        sources = _attention_checks.sources(x, context, values, of, outward[0])
        positions = _attention_checks.positions(positions, base, x, context)
        lead = _attention_checks.leading(*sources, is_causal)
        scores = *lead, of.heads, x.shape[-2], sources[1].shape[-2]
        mask = _attention_checks.mask(mask, scores, x)
        share = _attention_checks.dropout(dropout if train else 0.0, key)
        q, k, v = (
            F.linear(source, *projection).unflatten(-1, (-1, of.head)).transpose(-3, -2)
            for source, projection in zip(sources, inward, strict=True)
        )
        if base is not None and positions is not None:
            of_heads = torch.atleast_1d(positions)[..., None, :]
            cos_sin = _rotary.rotation(of_heads, base, q)
            q, k = _rotary.turned(q, cos_sin), _rotary.turned(k, cos_sin)
        y = attention(
            q,
            k,
            v,
            mask=mask,
            is_causal=is_causal,
            dropout=share,
            dropout_key=key,
        )
        return F.linear(y.transpose(-3, -2).flatten(-2), *outward)

    return Layer(init_, apply)


def _input_init(of: _attention_checks.Sizes) -> init.Initializer:
    """Xavier's distribution, with the fans that torch has for the packed weight."""
    if not of.embed == of.k == of.v:
        return init.xavier_uniform()
    packed = (of.heads + 2 * of.kv_heads) * of.head
    bound = math.sqrt(6.0 / (of.embed + packed))
    return init.uniform(-bound, bound)
