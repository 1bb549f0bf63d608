# SPDX-License-Identifier: Apache-2.0
"""Text from a language model, one token after the other."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.nn import _checks
from functorch_lab.nn._transformer_cache import KVCache
from functorch_lab.nn._transformer_checks import check_mask, check_tokens
from functorch_lab.nn._transformer_model import LanguageModel
from functorch_lab.nn._transformer_sampling import Draw, chosen
from functorch_lab.transforms import jit as jit_

_OF = "generate"


def generate(  # noqa: PLR0913
    model: LanguageModel,
    params: Any,
    tokens: Tensor,
    length: int,
    *,
    key: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | None = None,
    mask: Tensor | None = None,
    jit: bool = False,
) -> Tensor:
    """The `length` tokens that follow the prompts `tokens`, drawn from the model.

    The prompts are run once, and then each new token by itself: keys and values of the
    others are kept. The result is a pure function of its arguments, and works under
    `vmap`. A sequence depends on its own key alone, not on the others of its batch.

    For many tokens set `jit=True`: the step for one token is compiled at the first
    call, which takes seconds, and then serves all calls with prompts of the same batch
    shape, however long prompts and texts are and whatever `key`, `temperature` and
    `top_p`. (`fl.jit` around `generate` would unroll all steps in one graph.)

    Args:
        model: of `nn.transformer`.
        params: of the model.
        tokens: the prompts, integers `(..., T)`, at least one token each.
        length: how many tokens follow; `T + length` is at most `model.max_length`.
        key: one key, or one for each sequence, `(..., 2)`; not needed for
            `temperature` 0.
        temperature: divides the logits; 0 takes the most probable token each time.
        top_k: draw from that many of the most probable tokens only.
        top_p: draw from the most probable tokens only, as few as have together at least
            this probability, in (0, 1]; after `top_k`.
        eos: the token that ends a text: it fills the places after its first one. All
            steps are computed even so, as no values decide how long it takes.
        mask: bool `(..., T)`, True at the real tokens of prompts of different lengths,
            filled up before or behind with any token; at least one in each.
        jit: whether the step for one token is compiled.

    Returns:
        `(..., length)`, of the dtype of `tokens`, without the prompts.

    Raises:
        ValueError: too many tokens, an empty prompt, no key where one is needed, or an
            argument outside its range or of another shape.
        TypeError: `model` is no language model, or an argument is of another kind.

    Example:
        >>> import torch, functorch_lab as fl
        >>> model = fl.nn.transformer(7, 8, 1, 2, max_length=5)
        >>> params = model.init(fl.random.key(0))
        >>> prompts = torch.tensor([[2, 3], [5, 6]])
        >>> key = fl.random.key(1)
        >>> fl.nn.generate(model, params, prompts, 3, key=key, top_k=2).shape
        torch.Size([2, 3])
        >>> greedy = fl.nn.generate(model, params, prompts, 1, temperature=0.0)
        >>> greedy[:, 0] == model.apply(params, prompts)[:, -1].argmax(-1)
        tensor([True, True])

    Source: top-k: Fan, Lewis and Dauphin, Hierarchical Neural Story Generation (2018),
    section 5.1, arXiv 1805.04833; top-p: Holtzman et al., The Curious Case of Neural
    Text Degeneration (2019), equations 2 and 3, arXiv 1904.09751.
    """
    if not isinstance(model, LanguageModel):
        raise TypeError(
            f"nn.generate: model: expected a LanguageModel, got "
            f"{type(model).__name__}. Make it with nn.transformer."
        )
    _check_prompt(model, tokens, length, mask)
    _check_sampling(model, temperature, top_k, top_p)
    _check_eos(model, eos)
    batch = tokens.shape[:-1]
    keys = _keys(key, temperature, batch)
    cache = model.init_cache(params, batch)
    params = tree.map(torch.Tensor.detach, params)  # integers have no derivative
    logits, cache = model.extend(params, cache, tokens, mask=mask, last=True)
    step = compiled_step(model) if jit else functools.partial(_step, model)
    text = []
    for number in range(length - 1):
        draw = Draw(keys, number, temperature, top_p)
        token, logits, cache = step(params, cache, logits, draw, top_k)
        text.append(token)
    text.append(chosen(logits, Draw(keys, length - 1, temperature, top_p), top_k))
    return _ended(torch.stack(text, -1), eos).to(tokens.dtype)


@functools.lru_cache(maxsize=16)
def compiled_step(model: LanguageModel) -> Any:
    """The step for one token, whose cache is written in place."""

    def generate_step(
        params: Any, cache: KVCache, logits: Tensor, draw: Draw, top_k: int | None
    ) -> tuple[Tensor, Tensor, KVCache]:
        return _step(model, params, cache, logits, draw, top_k)

    return jit_(generate_step, donate_argnames="cache", static_argnames="top_k")


def _step(
    model: LanguageModel,
    params: Any,
    cache: KVCache,
    logits: Tensor,
    draw: Draw,
    top_k: int | None,
) -> tuple[Tensor, Tensor, KVCache]:
    """The next token of each sequence, and the logits and cache after it."""
    token = chosen(logits, draw, top_k)
    logits, cache = model.extend(params, cache, token.unsqueeze(-1), last=True)
    return token, logits, cache


def _ended(text: Tensor, eos: int | None) -> Tensor:
    """The text with nothing but `eos` after the first one."""
    if eos is None:
        return text
    ends = (text == eos).long()
    return torch.where(ends.cumsum(-1) > 0, eos, text)


def _check_prompt(
    model: LanguageModel, tokens: Tensor, length: int, mask: Tensor | None
) -> None:
    """Prompt and text fit into the model.

    Raises:
        ValueError: they do not.
    """
    check_tokens(_OF, tokens, model.max_length)
    _checks.size(_OF, "length", length)
    if tokens.shape[-1] + length > model.max_length:
        raise ValueError(
            f"nn.generate: length: expected at most {model.max_length} tokens with the "
            f"prompt's {tokens.shape[-1]}, got {length}. Make the model with a larger "
            "max_length, or keep the end of the prompt only."
        )
    check_mask(_OF, mask, tokens)


def _check_sampling(
    model: LanguageModel, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """The options are in their ranges.

    Raises:
        ValueError: one is not.
        TypeError: one is no number.
    """
    for name, value in {"temperature": temperature, "top_p": top_p}.items():
        if value is None and name == "top_p":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(
                f"nn.generate: {name}: expected a number, got {type(value).__name__}. "
                "Pass a Python number; a new value compiles nothing anew."
            )
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"nn.generate: temperature: expected a number of 0 or above, got "
            f"{temperature}. Take 0 for the most probable token, 1 for the model's "
            "probabilities."
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(
            f"nn.generate: top_p: expected a probability in (0, 1], got {top_p}. "
            "Leave it out to draw from all tokens."
        )
    if top_k is not None and _checks.size(_OF, "top_k", top_k) > model.vocab_size:
        raise ValueError(
            f"nn.generate: top_k: expected at most vocab_size={model.vocab_size}, got "
            f"{top_k}. Leave it out to draw from all tokens."
        )


def _check_eos(model: LanguageModel, eos: int | None) -> None:
    """A token of the model, if there is one.

    Raises:
        ValueError: it is outside the vocabulary.
    """
    if eos is not None and _checks.size(_OF, "eos", eos, 0) >= model.vocab_size:
        raise ValueError(
            f"nn.generate: eos: expected a token below vocab_size={model.vocab_size}, "
            f"got {eos}. Leave it out if no token ends a text."
        )


def _keys(
    key: Tensor | None, temperature: float, batch: tuple[int, ...]
) -> Tensor | None:
    """One key for each sequence, or none where nothing is drawn.

    Raises:
        ValueError: there is none, or another number of them.
        TypeError: it is no key.
    """
    if temperature == 0:
        return None
    if key is None:
        raise ValueError(
            "nn.generate: key: expected a key, got None. Pass key=fl.random.key(...), "
            "or temperature=0.0 for the most probable tokens, which draws nothing."
        )
    if not isinstance(key, Tensor) or key.dtype != torch.int32:
        kind = key.dtype if isinstance(key, Tensor) else type(key).__name__
        raise TypeError(
            f"nn.generate: key: expected a key, an int32 tensor, got {kind}. Make one "
            "with fl.random.key(seed)."
        )
    if key.shape == (*batch, 2):
        return key
    if key.shape != (2,):
        raise ValueError(
            f"nn.generate: key: expected one key, of shape (2,), or one for each "
            f"sequence, {(*batch, 2)}, got {tuple(key.shape)}. Make them with "
            "fl.random.split."
        )
    return random.split(key, math.prod(batch)).reshape(*batch, 2)
