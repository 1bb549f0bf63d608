# SPDX-License-Identifier: Apache-2.0
"""Images of digits from PNG and CSV files: read, checked, in the data's own scale."""

import csv
import io
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from functorch_lab.cli._output import Usage, need, one_line

_SIDE = 8
_PIXELS = _SIDE * _SIDE
INK = 16  # of a pixel of scikit-learn's digits that is all ink
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RESIZE = f"Resize it, e.g. with Pillow: image.resize(({_SIDE}, {_SIDE}))."


def read_images(files: tuple[Path, ...], *, invert: bool) -> tuple[list[str], Tensor]:
    """The images of all files: where each stands, and its ink.

    Args:
        files: PNG files of 8 x 8 pixels, or CSV files with an image per row.
        invert: Whether PNG files show light ink on dark ground.

    Returns:
        A name per image, with the line where a file has several, and the images,
        shape (n, 8, 8), with 0 for the ground and 16 for ink.

    Raises:
        Usage: If a file can't be read, or holds something else.
    """
    names: list[str] = []
    images: list[Tensor] = []
    for file in files:
        content = _content(file)
        if file.suffix.lower() == ".csv":
            rows = _csv(file, content)
            names += [f"{file}:{line}" for line, _ in rows]
            images += [row for _, row in rows]
        else:
            light = _png(file, content)
            names.append(str(file))
            images.append(INK * (light if invert else 1 - light))
    return names, torch.stack(images)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Usage(
            f"cli.predict: images: expected a file that can be read, got {file} "
            f"({error.strerror}). Give PNG or CSV files."
        ) from error


def _png(file: Path, content: bytes) -> Tensor:
    """How light each pixel of a PNG image is, 0 .. 1, shape (8, 8)."""
    expected = f"cli.predict: images: {file}: expected"
    if not content.startswith(_SIGNATURE) or len(content) < 24:
        raise Usage(
            f"{expected} a PNG image, or a CSV file by its name, got something else. "
            "Save it as PNG."
        )
    # Before it is decoded: a header may promise more pixels than there is memory.
    width, height = struct.unpack(">II", content[16:24])
    if (width, height) != (_SIDE, _SIDE):
        raise Usage(
            f"{expected} {_SIDE} x {_SIDE} pixels, got {width} x {height}. {_RESIZE}"
        )
    values = torch.from_numpy(_decode(file, content)).double()
    if values.ndim == 2:
        return values
    if values.shape[-1] in (2, 4):  # with transparency, seen on white paper
        values, alpha = values[..., :-1], values[..., -1:]
        values = values * alpha + (1 - alpha)
    weights = values.new_tensor([0.299, 0.587, 0.114])[: values.shape[-1]]
    return values @ (weights / weights.sum())


def _decode(file: Path, content: bytes) -> Any:
    need("matplotlib", "reads images")
    from matplotlib.image import imread

    try:
        return imread(io.BytesIO(content), format="png")
    # Whatever a broken file makes of the decoder: it has no class for it.
    except Exception as error:
        raise Usage(
            f"cli.predict: images: {file}: expected a whole PNG image, got a damaged "
            f"one ({one_line(str(error)):.80}). Save it again."
        ) from error


def _csv(file: Path, content: bytes) -> list[tuple[int, Tensor]]:
    """Line and ink of each image of a CSV file."""
    expected = f"cli.predict: images: {file}: expected"
    try:
        lines = content.decode("utf-8-sig").splitlines()
        rows = [(i, row) for i, row in enumerate(csv.reader(lines), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Usage(
            f"{expected} comma-separated text in UTF-8, got something else ({error}). "
            "Export the table as CSV."
        ) from error
    if rows and all(_number(field) is None for field in rows[0][1]):
        del rows[0]  # names of the columns
    if not rows:
        raise Usage(
            f"{expected} an image per row, got none. Give rows such as 0,16,7.5."
        )
    return [(line, _ink(f"{expected} in line {line}", row)) for line, row in rows]


def _ink(expected: str, row: list[str]) -> Tensor:
    values = [_number(field) for field in row]
    if len(values) != _PIXELS:
        raise Usage(
            f"{expected} {_PIXELS} numbers (an image of {_SIDE} x {_SIDE}), got "
            f"{len(values)}. Put the pixels of one image on each line."
        )
    wrong = [
        field
        for field, value in zip(row, values, strict=True)
        if value is None or not 0 <= value <= INK
    ]
    if wrong:
        raise Usage(
            f"{expected} numbers from 0 (ground) to {INK} (ink), got "
            f"{wrong[0]!r:.40}. Scale the pixels."
        )
    return torch.tensor(values, dtype=torch.float64).reshape(_SIDE, _SIDE)


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None
