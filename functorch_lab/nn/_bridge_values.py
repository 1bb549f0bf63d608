# SPDX-License-Identifier: Apache-2.0
"""Questions about a tensor's value, which has many answers under vmap."""

from __future__ import annotations

import linecache
import sys
import traceback
from types import FrameType

from torch._guards import active_fake_mode

# The functions by which Python asks.
ASKS = {"__bool__", "__int__", "__float__", "__complex__", "__index__"}
ASKS |= {"item", "tolist", "numpy", "is_nonzero", "equal", "allclose"}


def refused_answer(name: str) -> bool:
    """The answer to a question about a batched tensor, where there is one.

    Raises:
        RuntimeError: there is none; the line of the module is named.
    """
    frame, line = _asking()
    if frame is not None and _asks_for_a_shortcut(frame):
        return False
    place = "an unknown line"
    if frame is not None:
        file = frame.f_code.co_filename
        place = f"{file}:{line}: `{linecache.getline(file, line).strip()}`"
    what = "a branch on one" if name == "__bool__" else f"Tensor.{name}()"
    remedy = "Write torch.where in place of if."
    if active_fake_mode() is None:  # fl.jit did not get here
        remedy = (
            "Wrap the whole function in fl.jit, if the module asks for no values while "
            "it is compiled; else write torch.where in place of if."
        )
    raise RuntimeError(
        "nn.from_module.apply: module: expected no data-dependent branch under vmap, "
        f"where each sample has a value of its own, got {what} in {place}. " + remedy
    )


def _asking() -> tuple[FrameType | None, int]:
    """The innermost frame that is neither torch's nor ours."""
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in ("torch", "functorch_lab"):
            return frame, line
    return None, 0


_MASKS = {"transformers.masking_utils", "transformers.modeling_attn_mask_utils"}


def _asks_for_a_shortcut(frame: FrameType) -> bool:
    """Whether `no` leads to the same result by a longer way.

    The functions that make the attention masks of transformers ask whether a mask
    masks anything, so as to leave it out. While they are traced they go without.
    """
    code = frame.f_code
    return frame.f_globals.get("__name__") in _MASKS and any(
        name.startswith("is_tracing") for name in (*code.co_names, *code.co_varnames)
    )
