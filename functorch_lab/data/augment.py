# SPDX-License-Identifier: Apache-2.0
"""Random changes of one image, as pure functions of a key.

An image is floating point, of shape `(channels, height, width)`; the result has its
dtype and device. A batch has one key for each image, so that each is changed in its own
way: `fl.vmap(lambda key, x: augment.rotate(key, x, degrees=15.0))(keys, images)`. Only
training images are changed: there is no call, and so nothing to turn off, in a test.

Lengths are in pixels, rows are counted from the top. What comes in from outside of the
image is 0. Brightness and contrast clamp nothing; write `.clamp(0, 1)` where needed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from functorch_lab import random
from functorch_lab.data._augment_checks import check_amount, check_image, check_int

__all__ = ["brightness", "contrast", "crop", "horizontal_flip", "rotate", "shift"]


def crop(
    key: Tensor, image: Tensor, *, size: int | tuple[int, int], padding: int = 0
) -> Tensor:
    """A part of fixed size, cut out at a random place: torchvision's `RandomCrop`.

    Args:
        key: a key.
        image: shape `(channels, height, width)`.
        size: height and width of the part; one int is both.
        padding: rows and columns of zeros put around the image first, on each side.

    Returns:
        Shape `(channels, *size)`; all places are equally likely.

    Raises:
        TypeError: if `image` is not floating point, or size or padding no int.
        ValueError: if `image` has another rank, padding is negative, or size is below 1
            or exceeds the padded image.

    Example:
        >>> import torch
        >>> from functorch_lab import random
        >>> from functorch_lab.data import augment
        >>> image = torch.arange(12.0).reshape(1, 3, 4)
        >>> augment.crop(random.key(0), image, size=(2, 3))
        tensor([[[ 4.,  5.,  6.],
                 [ 8.,  9., 10.]]])
    """
    where = "data.augment.crop"
    height, width = check_image(where, image)
    check_int(where, "padding", padding, 0, None)
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        raise ValueError(
            f"{where}: size: expected an int or (height, width), got {size!r}. "
            "Give two ints; the channels stay."
        )
    rows, columns = pair
    check_int(where, "size", rows, 1, height + 2 * padding)
    check_int(where, "size", columns, 1, width + 2 * padding)
    first_row = torch.arange(2, device=image.device) == 0
    places = torch.where(
        first_row, height + 2 * padding - rows + 1, width + 2 * padding - columns + 1
    )
    top, left = random.randint(key, (2,), 0, places, torch.int32).unbind(0)
    return _window(image, top - padding, left - padding, rows, columns)


def rotate(key: Tensor, image: Tensor, *, degrees: float | Tensor) -> Tensor:
    """Turned about the centre by a random angle: torchvision's `RandomRotation`.

    Each pixel of the result is the bilinear mean of the four that surround the place it
    comes from. A positive angle is counter-clockwise.

    Args:
        key: a key.
        image: shape `(channels, height, width)`.
        degrees: the angle is uniform in [-degrees, degrees]; a number or a tensor of
            shape (), in 0 .. 180.

    Returns:
        The shape of `image`; the corners that turn in are 0.

    Raises:
        TypeError: if `image` is not floating point, or degrees no number.
        ValueError: if `image` has another rank, or degrees is out of range.

    Example:
        The pixel in the middle is the centre, and stays:

        >>> import torch
        >>> from functorch_lab import random
        >>> from functorch_lab.data import augment
        >>> image = torch.arange(9.0).reshape(1, 3, 3)
        >>> augment.rotate(random.key(0), image, degrees=15.0)[0, 1, 1]
        tensor(4.)
    """
    where = "data.augment.rotate"
    check_image(where, image)
    check_amount(where, "degrees", degrees, 180)
    return _rotated(image, _amount(key, image, degrees) * (math.pi / 180))


def shift(key: Tensor, image: Tensor, *, pixels: int) -> Tensor:
    """Moved by a random number of whole pixels, up or down and left or right.

    Args:
        key: a key.
        image: shape `(channels, height, width)`.
        pixels: both distances are uniform in -pixels .. pixels, and independent.

    Returns:
        The shape of `image`; what moves in is 0, what moves out is lost.

    Raises:
        TypeError: if `image` is not floating point, or pixels no int.
        ValueError: if `image` has another rank, or pixels is negative or moves all of
            the image out.

    Example:
        >>> import torch
        >>> from functorch_lab import random
        >>> from functorch_lab.data import augment
        >>> image = torch.arange(9.0).reshape(1, 3, 3)
        >>> augment.shift(random.key(0), image, pixels=1)
        tensor([[[1., 2., 0.],
                 [4., 5., 0.],
                 [7., 8., 0.]]])
    """
    where = "data.augment.shift"
    height, width = check_image(where, image)
    check_int(where, "pixels", pixels, 0, min(height, width) - 1)
    span = (-pixels, pixels + 1)
    down, right = random.randint(key, (2,), *span, torch.int32).unbind(0)
    return _window(image, -down, -right, height, width)


def brightness(key: Tensor, image: Tensor, *, delta: float | Tensor) -> Tensor:
    """One random number added to all pixels.

    Args:
        key: a key.
        image: shape `(channels, height, width)`.
        delta: the number is uniform in [-delta, delta]; a number or a tensor of shape
            (), 0 or more, in units of the image.

    Returns:
        The shape of `image`.

    Raises:
        TypeError: if `image` is not floating point, or delta no number.
        ValueError: if `image` has another rank, or delta is negative or not finite.

    Example:
        >>> import torch
        >>> from functorch_lab import random
        >>> from functorch_lab.data import augment
        >>> u = random.uniform(random.key(0))
        >>> u, 0.5 * (2 * u - 1)
        (tensor(0.9477), tensor(0.4477))
        >>> augment.brightness(random.key(0), torch.tensor([[[2.0, 3.0]]]), delta=0.5)
        tensor([[[2.4477, 3.4477]]])
    """
    where = "data.augment.brightness"
    check_image(where, image)
    check_amount(where, "delta", delta, math.inf)
    amount = _amount(key, image, delta)
    return (image.to(amount.dtype) + amount).to(image.dtype)


def contrast(key: Tensor, image: Tensor, *, factor: float | Tensor) -> Tensor:
    """The deviation from the mean of each channel, times one random number.

    Args:
        key: a key.
        image: shape `(channels, height, width)`.
        factor: the number is uniform in [1 - factor, 1 + factor]; a number or a tensor
            of shape (), in 0 .. 1.

    Returns:
        The shape of `image`, each channel with the mean that it had.

    Raises:
        TypeError: if `image` is not floating point, or factor no number.
        ValueError: if `image` has another rank, or factor is out of range.

    Example:
        With factor 0.5 this key gives the number 1.4477:

        >>> import torch
        >>> from functorch_lab import random
        >>> from functorch_lab.data import augment
        >>> augment.contrast(random.key(0), torch.tensor([[[4.0, 6.0]]]), factor=0.5)
        tensor([[[3.5523, 6.4477]]])
    """
    where = "data.augment.contrast"
    check_image(where, image)
    check_amount(where, "factor", factor, 1)
    amount = _amount(key, image, factor)
    wide = image.to(amount.dtype)
    mean = wide.mean((1, 2), keepdim=True)
    return (mean + (1 + amount) * (wide - mean)).to(image.dtype)


def horizontal_flip(key: Tensor, image: Tensor, *, p: float | Tensor = 0.5) -> Tensor:
    """Left and right exchanged, or not: torchvision's `RandomHorizontalFlip`.

    Args:
        key: a key.
        image: shape `(channels, height, width)`.
        p: the probability of the exchange; a number or a tensor of shape ().

    Returns:
        The shape of `image`.

    Raises:
        TypeError: if `image` is not floating point, or p no number.
        ValueError: if `image` has another rank, or p is out of 0 .. 1.

    Example:
        >>> import torch
        >>> from functorch_lab import random
        >>> from functorch_lab.data import augment
        >>> image = torch.tensor([[[2.0, 3.0, 5.0]]])
        >>> augment.horizontal_flip(random.key(0), image, p=1.0)
        tensor([[[5., 3., 2.]]])
    """
    where = "data.augment.horizontal_flip"
    check_image(where, image)
    check_amount(where, "p", p, 1)
    return torch.where(random.bernoulli(key, p), image.flip(-1), image)


def _amount(key: Tensor, image: Tensor, limit: float | Tensor) -> Tensor:
    """Uniform in [-limit, limit], of shape (), in the precision to compute in."""
    # Half precision has too few digits for coordinates, and for the mean of an image.
    dtype = torch.promote_types(image.dtype, torch.float32)
    amount = 2 * random.uniform(key, (), dtype) - 1
    if isinstance(limit, Tensor):
        limit = limit.to(dtype=dtype, device=image.device)
    return limit * amount


def _window(
    image: Tensor, top: Tensor, left: Tensor, rows: int, columns: int
) -> Tensor:
    """`rows` by `columns` pixels from (top, left) on; 0 where the image has none."""
    y = top + torch.arange(rows, device=image.device).unsqueeze(1)
    x = left + torch.arange(columns, device=image.device)
    return torch.where(_inside(image, y, x), _pixels(image, y, x), 0.0)


def _inside(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return (y >= 0) & (y < image.shape[1]) & (x >= 0) & (x < image.shape[2])


def _pixels(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """At integer places, of shape `(rows, columns)` together; the nearest outside."""
    channels, height, width = image.shape
    place = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    # Not image[:, y, x]: under vmap its result has the channels last in memory, and
    # the compiled loops over so few channels take six times as long.
    found = image.reshape(channels, -1).gather(
        1, place.reshape(1, -1).expand(channels, -1)
    )
    return found.reshape(channels, *place.shape)


def _rotated(image: Tensor, angle: Tensor) -> Tensor:
    """Turned counter-clockwise by an angle in radians, in the angle's precision."""
    height, width = image.shape[1:]
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    options: dict[str, Any] = {"dtype": angle.dtype, "device": image.device}
    dy = (torch.arange(height, **options) - middle_y).unsqueeze(1)
    dx = torch.arange(width, **options) - middle_x
    sin, cos = torch.sin(angle), torch.cos(angle)
    # Where each pixel comes from. Rows grow downwards: the turn looks reversed.
    y, x = middle_y + (cos * dy + sin * dx), middle_x + (cos * dx - sin * dy)
    return _bilinear(image.to(angle.dtype), y, x).to(image.dtype)


def _bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The image at real coordinates of shape `(rows, columns)`."""
    above, left = y.floor(), x.floor()
    result: Any = 0.0
    for row, row_share in ((above, above + 1 - y), (above + 1, y - above)):
        for column, column_share in ((left, left + 1 - x), (left + 1, x - left)):
            share = torch.where(
                _inside(image, row, column), row_share * column_share, 0.0
            )
            at = row.to(torch.int64), column.to(torch.int64)
            result = result + share * _pixels(image, *at)
    return result
