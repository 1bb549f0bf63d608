# SPDX-License-Identifier: Apache-2.0
"""Rules of the convolutions and of the transposed ones, in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._frame import Frame, View, wide
from functorch_lab.per_sample._patches import Geometry
from functorch_lab.per_sample._tape import Build, Rule, Tape, rule_for
from functorch_lab.per_sample._uses import Direct

Sizes = int | Sequence[int]


def _each(sizes: Sizes, space: int) -> tuple[int, ...]:
    """One number for each axis of space."""
    found = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return found * space if len(found) == 1 else found


def _geometry(
    given: dict[str, Any], pixels: torch.Size, positions: torch.Size
) -> Geometry:
    """Where a convolution looks that has these patches in a signal of these pixels."""
    kernel = tuple(given["weight"].shape[2:])
    space = len(kernel)
    stride = _each(given.get("stride", 1), space)
    dilation = _each(given.get("dilation", 1), space)
    padding = given.get("padding", 0)
    spans = [step * (k - 1) for step, k in zip(dilation, kernel, strict=True)]
    if isinstance(padding, str):
        # An odd zero lies behind.
        before = tuple([span // 2 if padding == "same" else 0 for span in spans])
    else:
        before = _each(padding, space)
    sizes = zip(positions, stride, spans, pixels, before, strict=True)
    after = [
        (count - 1) * step + span + 1 - length - zeros
        for count, step, span, length, zeros in sizes
    ]
    return Geometry(
        kernel, stride, before, tuple(after), dilation, given.get("groups", 1)
    )


def _by_groups(view: View, groups: int) -> Frame | None:
    """The frame of a weight, the first axis split; None if the groups lie apart."""
    columns = tuple(range(1, len(view.axes)))
    frame = view.frame((), (0,), columns)
    if groups == 1:
        return frame
    axis = frame.rows[0]
    rows, rest = divmod(view.size[axis], groups)
    if rest or view.shape[axis] % rows or view.start[axis] % rows:
        return None

    def split(sizes: tuple[int, ...], first: int, second: int) -> tuple[int, ...]:
        return (*sizes[:axis], first, second, *sizes[axis + 1 :])

    def moved(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([a + 1 if a > axis else a for a in axes])

    return Frame(
        view.leaf,
        split(view.shape, view.shape[axis] // rows, rows),
        split(view.start, view.start[axis] // rows, 0),
        split(view.size, groups, rows),
        (axis,),
        (axis + 1, *moved(frame.rows[1:])),
        moved(frame.columns),
    )


def _weight_use(geometry: Geometry, frame: Frame, *, transposed: bool) -> Build:
    space = len(geometry.kernel)

    def images(tensor: Tensor) -> Tensor:
        """`(B, N, channels, *space)`: an unbatched sample is one image."""
        return tensor.unsqueeze(1) if tensor.ndim == 2 + space else tensor

    def build(delta: Tensor, x: Tensor) -> Any:
        signal, response = (delta, x) if transposed else (x, delta)
        pair = ConvPair(images(signal), images(response), geometry, frame)
        kept = signal[0].numel() + response[0].numel()
        if pair.route() == "gradients" and math.prod(frame.leaf) <= kept:
            # Formed for the norm in any case: here they serve all that comes later.
            return Direct(pair.materialize())
        return pair

    return build


def _bias_use(view: View, space: int) -> Build:
    frame = view.frame((), (0,), ())

    def build(delta: Tensor, *_: Tensor) -> Direct:
        channels = wide(delta).movedim(-space - 1, 1)
        return Direct(frame.place(channels.flatten(2).sum(2)[:, None, :, None]))

    return build


def _rule(name: str, names: str, *, transposed: bool) -> Rule:
    """The rule of a convolution of torch that has arguments of these names."""
    function: Callable[..., Tensor] = getattr(torch, name)
    order = names.split()

    def rule(tape: Tape, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(order, args, strict=False)), **kwargs}
        if len(args) > len(order) or not {"input", "weight"} <= given.keys():
            return None  # torch says what is wrong
        x, weight = given["input"], given["weight"]
        matrix, vector = tape.find(weight), tape.find(given.get("bias"))
        if matrix is None and vector is None:
            return None
        if 0 in x.shape or 0 in weight.shape:
            return None
        if matrix is not None:
            given["weight"] = matrix.parameter
        if vector is not None:
            given["bias"] = vector.parameter
        output = function(**given)
        builds: list[tuple[int, Build]] = []
        if matrix is not None:
            sides = (output, x) if transposed else (x, output)
            geometry = _geometry(
                given, *[side.shape[2 - weight.ndim :] for side in sides]
            )
            frame = _by_groups(matrix.view, geometry.groups)
            if frame is None:
                return None
            use = _weight_use(geometry, frame, transposed=transposed)
            builds.append((matrix.view.index, use))
        if vector is not None:
            builds.append((vector.view.index, _bias_use(vector.view, weight.ndim - 2)))
        return tape.probed(output, () if matrix is None else (x,), builds)

    return rule


for _space in (1, 2, 3):
    for _name, _names, _transposed in (
        (
            f"conv{_space}d",
            "input weight bias stride padding dilation groups",
            False,
        ),
        (
            f"conv_transpose{_space}d",
            "input weight bias stride padding output_padding groups dilation",
            True,
        ),
    ):
        rule_for(_name)(_rule(_name, _names, transposed=_transposed))
