# SPDX-License-Identifier: Apache-2.0
"""How long the gradient of a sample may be, in each group of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from functorch_lab.per_sample._groups import Groups
from functorch_lab.transforms._flat import kind_of

WHERE = "per_sample.clipped_sum"

Bound = float | Tensor


def check_max_norm(
    max_norm: Bound | Mapping[str, Bound], groups: Groups | None
) -> None:
    """One bound, or one for each group by name.

    Raises:
        TypeError: one is no number.
        ValueError: one is not positive and finite; there are others than groups.
    """
    if not isinstance(max_norm, Mapping):
        _check_bound("max_norm", max_norm)
        return
    if groups is None or set(max_norm) != set(groups):
        expected = "one number" if groups is None else ", ".join(sorted(groups))
        raise ValueError(
            f"{WHERE}: max_norm: expected {expected}, got a dict of "
            f"{', '.join(sorted(max_norm)) or 'nothing'}. Give each of groups= its "
            "bound, or all one number."
        )
    for group, bound in max_norm.items():
        _check_bound(f"max_norm[{group!r}]", bound)


def _check_bound(name: str, bound: object) -> None:
    if isinstance(bound, Tensor) and bound.ndim == 0 and bound.is_floating_point():
        return
    if not isinstance(bound, int | float) or isinstance(bound, bool):
        raise TypeError(
            f"{WHERE}: {name}: expected a positive number or a 0-d tensor, got "
            f"{kind_of(bound)}. Write max_norm=1.0."
        )
    if not 0 < bound < math.inf:
        raise ValueError(
            f"{WHERE}: {name}: expected a positive, finite number, got {bound}. "
            "Write max_norm=1.0."
        )
