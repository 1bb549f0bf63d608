# SPDX-License-Identifier: Apache-2.0
"""Which way each use of a parameter goes, and what the others would cost."""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Options, Selected, Wrt, found_by
from functorch_lab.per_sample._collect import Batch, Found
from functorch_lab.per_sample._costs import Costs, costs, shortened
from functorch_lab.per_sample._factor import merged
from functorch_lab.per_sample._uses import Direct, Unused, Use
from functorch_lab.per_sample._watch import REMEDY, Place, Watch, places_of


@dataclasses.dataclass(frozen=True)
class Row:
    """What is kept of one parameter as one pair, or as gradients.

    Uses that are kept alike, as those of a cell at each step, are one pair.

    Attributes:
        path: of the parameter.
        shape: of the parameter.
        places: operation, line and times of each use.
        route: "factored, Gram", "factored, materialised", "direct", "fallback: why",
            or "unused: gradient zero".
        costs: of what is kept, of norms and of sums.
    """

    path: str
    shape: tuple[int, ...]
    places: tuple[tuple[str, str, int], ...]
    route: str
    costs: Costs


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A table, which `print` and notebooks show.

    Attributes:
        rows: by parameter, in the order of the tree.
    """

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        if any(row.route.startswith("fallback") for row in self.rows):
            text.append(f"Fallbacks are exact, and take memory. {REMEDY}")
        return "\n".join(text)

    def _repr_html_(self) -> str:
        head, *rest = [[html.escape(cell) for cell in line] for line in self._cells()]
        body = "".join(f"<tr><td>{'</td><td>'.join(line)}</td></tr>" for line in rest)
        return f"<table><tr><th>{'</th><th>'.join(head)}</th></tr>{body}</table>"

    def _cells(self) -> list[list[str]]:
        head = ["parameter", "shape", "operation", "line", "route", "kept"]
        lines = [[*head, "Gram", "materialised", "weighted sum"]]
        for row in self.rows:
            used = [
                [operation + (f" x{times}" if times > 1 else ""), _shortened(line)]
                for operation, line, times in row.places
            ]
            first, *more = used or [["", ""]]
            ways = (row.costs.gram, row.costs.materialized, row.costs.weighted_sum)
            numbers = ["-" if way is None else str(way) for way in ways]
            kept = f"{shortened(row.costs.kept)}B"
            name = [row.path or "params", str(row.shape)]
            lines.append([*name, *first, row.route, kept, *numbers])
            lines += [["", "", *place, *[""] * 5] for place in more]
        return lines


@_checks.curried
def explain(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Explanation]:
    """Says of each parameter which operations use it, and how its gradients are kept.

    The loss is run as `norms` runs it, so what is told is what happens. A parameter is
    on the factored route where each of its uses is an operation with a rule. It is
    "direct" where its gradients are no larger than the activations they come from, as
    those of biases and scales. It is a "fallback" where its gradients are formed, one
    for each sample, which is as exact and takes more memory.

    Args:
        loss_fn: `loss_fn(params, *sample)`, or `loss_fn(params, *sample, key=key)`;
            returns a 0-d tensor.
        wrt: which parameters, as in `norms`.
        has_aux: `loss_fn` returns `(loss, aux)`.
        keep_batch_axis: each sample keeps a leading axis of size 1.

    Returns:
        A function `explain_fn(params, *batch, keys=None)` that returns an
        `Explanation`: `print` it, or read its `rows`. Each row tells operation and line
        of the user's code, the route, and bytes and flops of the alternatives for the
        whole batch. Inner products between several rows of one parameter come on top.

    Raises:
        RuntimeError: it is called inside `jit` or another transform.
        TypeError: as `norms`.
        ValueError: as `norms`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> params = {"w": torch.ones(3, 2), "b": torch.ones(3), "c": torch.ones(5)}
        >>> def loss_fn(params, x):
        ...     y = torch.nn.functional.linear(x, params["w"], params["b"])
        ...     return y.square().sum()
        >>> table = per_sample.explain(loss_fn)(params, torch.ones(7, 2))
        >>> [row.route for row in table.rows]  # of b, c and w
        ['direct', 'unused: gradient zero', 'factored, Gram']
        >>> table.rows[2].costs.kept  # 7 samples of 3 + 2 numbers of 4 bytes
        140
    """
    options = Options(wrt, "auto", None, has_aux, keep_batch_axis)
    _checks.options("explain", loss_fn, options)

    def explain_fn(params: Any, *batch: Any, keys: Tensor | None = None) -> Explanation:
        _checks.outermost("explain", "lines")
        _checks.batch("explain", batch, keys, None)
        selected = Selected("explain", params, wrt)
        every = Batch(batch, keys, None)
        found = found_by("explain", loss_fn, options, selected, every, Watch)
        return Explanation(tuple(_rows(found, selected)))

    return explain_fn


def _rows(found: Found, selected: Selected) -> list[Row]:
    return [
        _row(found, selected, leaf, use)
        for leaf, uses in enumerate(found.uses)
        for use in merged([use for _, use in uses]).uses
    ]


def _row(found: Found, selected: Selected, leaf: int, use: Use) -> Row:
    numbers = [number for number, part in found.uses[leaf] if _alike(part, use)]
    places = [] if isinstance(use, Unused) else places_of(found, leaf, numbers)
    found_costs = costs(use)
    route = found_costs.route
    problems = [place.problem for place in places if place.problem]
    if isinstance(use, Direct) and problems:
        route = f"fallback: {', '.join(dict.fromkeys(problems))}"
    shape = tuple(selected.leaves[leaf].shape)
    return Row(selected.names[leaf], shape, _counted(places), route, found_costs)


def _alike(part: Use, use: Use) -> bool:
    """Whether they are kept as one."""
    if type(part) is not type(use):
        return False
    # Frames and geometries are what is static in a use.
    return tree.structure(part) == tree.structure(use)


def _counted(places: list[Place]) -> tuple[tuple[str, str, int], ...]:
    pairs = [(place.operation, place.line) for place in places]
    return tuple([(*pair, pairs.count(pair)) for pair in dict.fromkeys(pairs)])


def _shortened(line: str) -> str:
    if "site-packages" in line:
        return line.rpartition("site-packages" + os.sep)[2]
    return line.removeprefix(os.getcwd() + os.sep)
