# SPDX-License-Identifier: Apache-2.0
"""What the augmentations check: an image, lengths in pixels, real amounts."""

import math
from numbers import Real
from typing import Any

from torch import Tensor


def check_image(where: str, image: Any) -> tuple[int, int]:
    """Height and width."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"{where}: image: expected a floating point tensor, got {got}. "
            "Convert integer images, e.g. with image.float() / 255."
        )
    if image.ndim != 3 or not all(image.shape):
        remedy = "Add the axis of the channels, e.g. with image.unsqueeze(0)"
        if image.ndim == 3:
            remedy = "No axis may be empty"
        elif image.ndim > 3:
            remedy = "Map over a batch: fl.vmap(lambda key, x: ...)(keys, images)"
        raise ValueError(
            f"{where}: image: expected shape (channels, height, width), got "
            f"{tuple(image.shape)}. {remedy}."
        )
    return image.shape[1], image.shape[2]


def check_int(where: str, name: str, value: Any, least: int, most: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{where}: {name}: expected an int, got {value!r:.40}. "
            "Give a number of pixels."
        )
    if value < least or (most is not None and value > most):
        span = f"{least} or more" if most is None else f"{least} .. {most}"
        raise ValueError(
            f"{where}: {name}: expected {span}, got {value}. "
            "Choose a number of pixels that the image has."
        )


def check_amount(where: str, name: str, value: Any, most: float) -> None:
    if isinstance(value, Tensor):
        if value.shape != () or not value.is_floating_point():
            raise ValueError(
                f"{where}: {name}: expected a floating tensor of shape (), got "
                f"{value.dtype} of shape {tuple(value.shape)}. Map over amounts."
            )
        return  # its value may be traced, and reading it waits for the device
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{where}: {name}: expected a number, got {type(value).__name__}. "
            "Give a float or a tensor of shape ()."
        )
    if not (0 <= float(value) <= most and math.isfinite(value)):
        span = "0 or more" if most == math.inf else f"0 .. {most}"
        raise ValueError(
            f"{where}: {name}: expected {span}, got {value}. "
            "Choose a finite number in that range."
        )
