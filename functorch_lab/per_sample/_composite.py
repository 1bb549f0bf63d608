# SPDX-License-Identifier: Apache-2.0
"""Rules of functions that call others with the parameters they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._tape import Tape, rule_for
from functorch_lab.transforms._opened import opened


def seen(tape: Tape, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a function whose inside the tape sees.

    A mode is off while it handles a call, so a rule that is written in operations of
    torch has to turn it on again.
    """
    with tape:
        return function(*args, **kwargs)


def _check_padding(mask: Tensor, sources: int, samples: int) -> None:
    if mask.shape != (samples, sources):
        raise ValueError(
            "per_sample: F.multi_head_attention_forward: key_padding_mask: expected "
            f"shape {(samples, sources)}, got {tuple(mask.shape)}. Give one entry for "
            "each position of each sample."
        )


_attend = opened(
    F.multi_head_attention_forward,
    _check_key_padding_mask=_check_padding,  # torch's does not compile
)


@rule_for("multi_head_attention_forward", inside=True)
def multi_head_attention(tape: Tape, *args: Any, **kwargs: Any) -> Any:
    return seen(tape, _attend, *args, **kwargs)
