# SPDX-License-Identifier: Apache-2.0
"""The norm of each sample's gradient, of which no gradient need be formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run


def norms(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The Euclidean norm of the gradient of each sample's loss, `(B,)`."""
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("norms", loss_fn, options)

    def norms_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        square, _, aux = run(
            "norms", loss_fn, options, params, batch, keys, mask, _total
        )
        return (square.sqrt(), aux) if has_aux else square.sqrt()

    return norms_fn


def _total(part: Part, selected: Selected) -> tuple[Any, Any]:
    return sum([factor.squared_norm() for factor in part.factors]), ()
