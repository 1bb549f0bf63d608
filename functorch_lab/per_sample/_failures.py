# SPDX-License-Identifier: Apache-2.0
"""What it means when a loss cannot be computed sample by sample."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from functorch_lab.per_sample._tape import Changed, Overwritten
from functorch_lab.transforms._abstract import is_library
from functorch_lab.transforms._flat import name_of

if TYPE_CHECKING:
    from functorch_lab.per_sample._call import Options

# What is looked at; the rest passes as it is.
KINDS = (RuntimeError, TypeError, ValueError, IndexError, Changed, Overwritten)

# What torch or a part of this library says, what is meant, and what to do.
_MEANINGS = (
    (
        "needs no tensor's value|item.. is not supported",
        "expected no branch on a tensor's value and no .item(), for each sample has "
        "its own. Use torch.where in place of if, or pass method='loop', which "
        "computes one sample after another.",
    ),
    (
        "without hidden randomness|randomness",
        "expected random numbers from a key, got some from torch's global generator. "
        "Take key= in the loss, draw with functorch_lab.random, and pass "
        "keys=fl.random.split(key, batch_size).",
    ),
    (
        "Expected more than 1 value per channel|[Bb]atch ?norm",
        "expected a loss of one sample, got batch statistics, which mix samples. "
        "Convert the model by nn.from_module(model, batch_norm=...), or put it in eval "
        "mode. per_sample.check_independent tells what mixes.",
    ),
    (
        "used in an in-place operation",
        "expected a loss that leaves its parameters as they are, got one that writes "
        "to them. Compute a new tensor, as w = w + 1 does.",
    ),
    (
        "inplace arithmetic.*not possible",
        "expected no writing of what each sample has for itself to a tensor that all "
        "share. Make that tensor from the sample's own, as x.new_zeros(n) does, or "
        "join parts with torch.cat, torch.stack or torch.where.",
    ),
    (
        "does not require grad",
        "expected derivatives within the loss to be taken by fl.grad, which can be "
        "mapped, got torch.autograd. Use fl.grad, or pass method='loop'.",
    ),
)
_SHAPES = "[Ss]hape|[Ss]ize|[Dd]imension|Expected [0-9]|[0-9]D|batched input|subscript"


@contextlib.contextmanager
def told(where: str, loss_fn: Callable[..., Any], given: Options) -> Iterator[None]:
    """Errors of the loss that are raised within, told in its terms."""
    try:
        yield
    except KINDS as error:
        if torch.compiler.is_dynamo_compiling():
            raise  # the abstract run of fl.jit has told it
        better = explained(where, loss_fn, given, error)
        if better is None:
            raise
        raise better from error


def explained(
    where: str, loss_fn: Callable[..., Any], given: Options, error: Exception
) -> Exception | None:
    """The error in terms of the loss and its line; None if nothing can be added."""
    text = str(error)
    name = f"per_sample.{where}: {name_of(loss_fn)}"
    if isinstance(error, Changed):
        return RuntimeError(
            f"{name}: expected the same operations on the parameters at each "
            "evaluation, got others at the second than at the first. Make the loss a "
            "pure function of its arguments, or pass method='vmap'."
        )
    if isinstance(error, Overwritten):
        return RuntimeError(
            f"{name}: expected a loss that keeps what it multiplies with or looks up "
            f"in params{text}, got one that writes to it afterwards. Compute a new "
            "tensor, as x = x + 1 does, or write to x.clone()."
        )
    place = _place(error)
    if not place:  # not in the loss, but at its call
        return _about_arguments(name, text)
    meaning = _meaning(text, error, given)
    if not meaning or text.startswith(("per_sample.", "nn.", "losses.", "random.")):
        return None
    kind = next(kind for kind in KINDS if isinstance(error, kind))
    return kind(f"{name}: {place}: {meaning}")


def _meaning(text: str, error: Exception, given: Options) -> str:
    if text.startswith("per_sample: "):  # the tape does not know of which function
        return text.removeprefix("per_sample: ")
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, text):
            return meaning
    if isinstance(error, TypeError | torch.OutOfMemoryError) or given.keep_batch_axis:
        return ""
    if not re.search(_SHAPES, text):
        return ""
    return (
        f"{text.splitlines()[0].rstrip('.')}. The loss gets one sample, without the "
        "axis of samples. Write it for one, or pass keep_batch_axis=True if it is "
        "written for batches."
    )


def _about_arguments(name: str, text: str) -> TypeError | None:
    if "unexpected keyword argument 'key'" in text:
        return TypeError(
            f"{name}: expected a loss that takes key=, as keys= are given, got one "
            "that does not. Write loss_fn(params, x, y, *, key), or leave keys= out."
        )
    if "missing 1 required" in text and "'key'" in text:
        return TypeError(
            f"{name}: expected keys=, one for each sample, as the loss takes key, got "
            "none. Pass keys=fl.random.split(key, batch_size)."
        )
    if "positional argument" in text:
        return TypeError(
            f"{name}: expected what the loss takes after params, got another number of "
            f"arguments: {text}. Pass each as a batch, or close over it."
        )
    return None


def _place(error: BaseException) -> str:
    """File, line and code of the user's innermost frame at the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_library(frame.filename)]
    if not own:
        return ""
    code = f" `{own[-1].line}`" if own[-1].line else ""
    return f"{own[-1].filename}:{own[-1].lineno}:{code}"
