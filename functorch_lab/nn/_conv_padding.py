# SPDX-License-Identifier: Apache-2.0
"""What a convolution finds outside of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from functorch_lab.nn import _space

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}
# The order of F.pad, from the last axis to the first.
_SIDES = ("left", "right", "top", "bottom", "front", "back")


class Padding:
    """Padding of one geometry.

    Attributes:
        inside: what the convolution pads by itself, for each axis.
        totals: of both sides together, for each axis.
    """

    def __init__(
        self,
        function: str,
        padding: int | Sequence[int] | str,
        stride: Sequence[int],
        reach: Sequence[int],
        mode: str,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(
                f"nn.{function}: padding_mode: expected one of {sorted(_MODES)}, got "
                f"{mode!r}. Choose one."
            )
        sides = _sides(function, padding, stride, reach)
        self.function, self.mode = function, mode
        self.totals = tuple(map(sum, sides))
        self._flat = [pixels for side in reversed(sides) for pixels in side]
        # What a convolution cannot pad by itself: other modes, and an odd total.
        self._outside = mode != "zeros" or any(a != b for a, b in sides)
        self.inside = tuple(0 if self._outside else a for a, _ in sides)

    def check(self, x: Tensor) -> None:
        """`x` is large enough to be padded with itself.

        Raises:
            ValueError: it is not.
        """
        # Reflection leaves the border out, a circle may go round once at most.
        missing = {"reflect": 1, "circular": 0}.get(self.mode)
        if missing is None:
            return
        space = x.shape[-len(self.inside) :]
        limits = [n - missing for n in reversed(space) for _ in range(2)]
        if any(p > limit for p, limit in zip(self._flat, limits, strict=True)):
            raise ValueError(
                f"nn.{self.function}: x: expected an input larger than the {self.mode} "
                f"padding, ({', '.join(_SIDES[: len(self._flat)])}) = "
                f"{tuple(self._flat)}, got {tuple(x.shape)}. Use less padding, or "
                "padding_mode='replicate'."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """The batch, padded with what `inside` does not cover."""
        return F.pad(x, self._flat, mode=_MODES[self.mode]) if self._outside else x


def _sides(
    function: str,
    padding: int | Sequence[int] | str,
    stride: Sequence[int],
    reach: Sequence[int],
) -> list[tuple[int, int]]:
    """Elements before and after, for each axis.

    Raises:
        ValueError: an unknown word, a negative number, or "same" with a stride.
    """
    if padding == "valid":
        return [(0, 0)] * len(reach)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(
                f"nn.{function}: padding: expected integers with stride "
                f"{tuple(stride)}, got 'same'. Give the number of elements."
            )
        return [((r - 1) // 2, r - 1 - (r - 1) // 2) for r in reach]
    if isinstance(padding, str):
        raise ValueError(
            f"nn.{function}: padding: expected an integer, one for each axis, 'same' "
            f"or 'valid', got {padding!r}. Choose one."
        )
    both = _space.numbers(function, "padding", padding, len(reach), minimum=0)
    return [(p, p) for p in both]
