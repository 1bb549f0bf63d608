# SPDX-License-Identifier: Apache-2.0
"""Images side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from functorch_lab.plots import _figure, _numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WHERE = "plots.image_grid"
_MOST = 400  # images of one figure
_TILE, _GAP, _LINE = 1.3, 0.08, 0.15  # inches: the widest image, between, of text
_BAD = "#d55e00"


def image_grid(
    images: Any,
    *,
    titles: Iterable[object] | None = None,
    columns: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Images in rows, from left to right, each below its title.

    Grey images share one scale, from the smallest to the largest value of all. Colours
    of integers are parts of 255; others are taken as they are if all of them are in
    [0, 1], and else scaled from the smallest to the largest of all. Pixels that are NaN
    or infinite are orange.

    Args:
        images: At most 400 images, of shape (n, height, width), (n, 1, height, width)
            or, with red, green and blue, (n, 3, height, width).
        titles: A title for each image.
        columns: How many images stand in a row; by default as many as make the grid
            square, but at least 5 and at most 10.
        cmap: Matplotlib's name of the colours of grey images: "gray_r" shows large
            values dark.

    Returns:
        The figure; `figure.axes` are the images, in their order.

    Raises:
        TypeError: If `images` has entries that are no numbers, or another argument is
            of the wrong kind.
        ValueError: If `images` has another shape, there are none or too many, the
            titles are of another number, `columns` is less than 1, or matplotlib has no
            such `cmap`.
        ModuleNotFoundError: If matplotlib is missing.

    Example:
        >>> import torch
        >>> from functorch_lab import plots
        >>> figure = plots.image_grid(torch.arange(12.0).reshape(2, 2, 3))
        >>> figure.axes[1].images[0].get_array().tolist()
        [[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]]
    """
    pixels = _pixels(images)
    n, height, width = pixels.shape[:3]
    given = [""] * n if titles is None else titles
    heads = _numbers.names(_WHERE, "titles", given, n, "image")
    if columns is None:
        columns = min(n, 10, max(5, math.ceil(math.sqrt(n))))
    _numbers.check_count(_WHERE, "columns", columns)
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    with _figure.styled(_WHERE) as new_figure:
        colors = _colormap(cmap)
        wide = min(_TILE, _figure.WIDTH / columns - _GAP)
        high = wide * min(max(height / width, 0.2), 5.0)
        heads = [_figure.wrapped(head, max(4, int(wide * 15))) for head in heads]
        top = _LINE * max(h.count("\n") + 1 for h in heads) if any(heads) else 0.0
        step_x, step_y = wide + _GAP, high + top + _GAP
        size = columns * step_x + _GAP, rows * step_y + _GAP
        figure = new_figure(*size)
        low, up = _range(pixels)
        for i, (image, head) in enumerate(zip(pixels, heads, strict=True)):
            row, column = divmod(i, columns)
            left, bottom = _GAP + column * step_x, size[1] - (row + 1) * step_y
            box = left / size[0], bottom / size[1], wide / size[0], high / size[1]
            axes = figure.add_axes(box)
            axes.set_axis_off()
            axes.imshow(image.numpy(), cmap=colors, vmin=low, vmax=up)
            axes.set_title(head, fontsize=8, pad=2, parse_math=False)
    return figure


def _pixels(images: Any) -> Tensor:
    """Shape (n, height, width), grey, or (n, height, width, 3) with colours in 0..1."""
    found = _numbers.numbers(_WHERE, "images", images)
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 3 and not (found.ndim == 4 and found.shape[1] == 3):
        raise ValueError(
            f"{_WHERE}: images: expected shape (n, height, width), (n, 1, height, "
            f"width) or (n, 3, height, width), got {tuple(found.shape)}. "
            "Write images[None] for a single one."
        )
    _numbers.not_empty(_WHERE, "images", found)
    if len(found) > _MOST:
        raise ValueError(
            f"{_WHERE}: images: expected at most {_MOST}, got {len(found)}. "
            f"Choose some, such as images[:{_MOST}]."
        )
    found = _numbers.gapped(found)
    if found.ndim == 3:
        return found
    return _colored(found.movedim(1, -1), images)


def _colored(pixels: Tensor, images: Any) -> Tensor:
    is_float = not isinstance(images, Tensor) or images.is_floating_point()
    if not is_float:
        pixels = pixels / 255
    low, high = _range(pixels)
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low)
    red, green, blue = (int(_BAD[i : i + 2], 16) / 255 for i in (1, 3, 5))
    bad = pixels.new_tensor([red, green, blue]).expand_as(pixels)
    return pixels.where(pixels.isfinite().all(-1, keepdim=True), bad)


def _range(pixels: Tensor) -> tuple[float, float]:
    finite = pixels[pixels.isfinite()]
    if not finite.numel():
        return 0.0, 1.0
    low, high = (float(value) for value in finite.aminmax())
    return (low, high) if low < high else (low, low + 1)


def _colormap(name: Any) -> Any:
    from matplotlib import colormaps

    if not isinstance(name, str) or name not in colormaps:
        raise ValueError(
            f"{_WHERE}: cmap: expected the name of a colormap of matplotlib, got "
            f"{_numbers.kind(name)}. Write e.g. 'gray', 'gray_r' or 'viridis'."
        )
    return colormaps[name].with_extremes(bad=_BAD)
