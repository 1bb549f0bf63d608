# SPDX-License-Identifier: Apache-2.0
"""The gradients of a convolution's weight, kept as its input and the output's gradient.

Unfolding the input into patches makes it as many times larger as a patch has pixels.
Sums over samples and inner products with a tensor are convolutions, which need none of
it; squared norms take whichever way needs the fewest products.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _blocks, _patches, _pixels
from functorch_lab.per_sample._frame import Frame, wide
from functorch_lab.per_sample._patches import Geometry
from functorch_lab.per_sample._pixels import Cells, cells, multiplications
from functorch_lab.per_sample._uses import DensePair, chosen, per_axis

Route = Literal["pixels", "patches", "gradients"]

# A CPU works on as many numbers at once as the cache of a core holds, if that makes few
# parts, each of which is to be compiled.
_CACHED = 2**19
_MOST_PARTS = 4
# Each pixel of a patch is a slice, and a node of a compiled graph.
_MOST_SLICES = 64
# Positions from which a convolution of oneDNN with a group for each sample beats a
# product with unfolded patches: 43 ms against 89 for 28 x 28 pixels, 128 channels.
_MANY = 256
_ONEDNN = torch.backends.mkldnn.is_available()


class Cost(NamedTuple):
    """Of one way to the squared norm of one sample.

    Attributes:
        products: how many multiplications.
        numbers: how many intermediate results are kept at once.
    """

    products: int
    numbers: int


@tree.dataclass
class ConvPair:
    """The uses of a parameter as the weight of a convolution.

    The gradient of sample `i` at channels `(row, column)` and pixel `k` of a patch is
    `sum_t response[i, row, t] signal[i, column, stride * t + dilation * k - before]`,
    with zeros outside of the signal. The signal is the input and the response the
    gradient at the output; for a transposed convolution the other way round.

    Attributes:
        signal: `(B, N, groups * columns, *space)`; a sample has N images.
        response: `(B, N, groups * rows, *positions)`.
        geometry: where the convolution looks.
        frame: where the matrices `(groups, rows, columns * pixels of a patch)` lie in
            the parameter.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda w, x: torch.nn.functional.conv1d(x, w).sum()
        >>> w, x = torch.ones(3, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> (use,) = per_sample.factors(loss_fn)(w, x).uses
        >>> use.signal.shape, use.response.shape
        (torch.Size([1, 1, 2, 2]), torch.Size([1, 1, 3, 1]))
        >>> use.squared_norm()
        tensor([90.])

    Source: gradients as a convolution with a group for each sample, Rochette, Manoel,
    Tramel, "Efficient Per-Example Gradient Computations in Convolutional Neural
    Networks", 2019, arXiv:1912.06015; products between patches, or gradients if those
    are cheaper, Bu, Mao, Xu, "Scalable and Efficient Training of Large Convolutional
    Neural Networks with Differential Privacy", 2022, arXiv:2205.10683.
    """

    signal: Tensor
    response: Tensor
    geometry: Geometry = tree.static()
    frame: Frame = tree.static()

    def channels(self) -> tuple[int, int]:
        """Rows and columns of a group."""
        groups = self.geometry.groups
        return self.response.shape[2] // groups, self.signal.shape[2] // groups

    def by_group(self) -> tuple[Tensor, Tensor]:
        """Signal and response, `(B, groups, channels, N, *space)`."""

        def split(tensor: Tensor) -> Tensor:
            count, images, channels, *space = tensor.shape
            groups = self.geometry.groups
            tensor = tensor.reshape(count, images, groups, channels // groups, *space)
            return tensor.movedim(1, 3)

        return split(wide(self.signal)), split(wide(self.response))

    def cells(self) -> list[Cells]:
        """How space is cut for products between pixels."""
        return cells(self.geometry, self.signal.shape[3:], self.response.shape[3:])

    def dense(self) -> DensePair:
        """The same as a multiplication: patches, and the response to each."""
        count, images = self.response.shape[:2]
        groups, (rows, columns) = self.geometry.groups, self.channels()
        patches = _patches.unfolded(self.signal.flatten(0, 1), self.geometry)
        patches = patches.reshape(count, images, groups, columns, *patches.shape[2:])
        space = len(self.geometry.kernel)
        # From (B, N, groups, columns, *positions, *kernel).
        positions, kernel = range(4, 4 + space), range(4 + space, 4 + 2 * space)
        right = patches.permute(0, 2, 1, *positions, 3, *kernel)
        left = self.response.reshape(count, images, groups, rows, -1)
        return DensePair(
            left.permute(0, 2, 1, 4, 3).reshape(count, groups, -1, rows),
            right.reshape(count, groups, images * left.shape[4], -1),
            self.frame,
        )

    def unfolds(self) -> bool:
        """Whether patches are formed for the gradients of all samples."""
        return not (
            _ONEDNN
            and self.response.device.type == "cpu"
            and wide(self.response).dtype == torch.float32
            and math.prod(self.response.shape[3:]) >= _MANY
        )

    def matrices(self) -> Tensor:
        """`(B, groups, rows, columns * pixels of a patch)`."""
        if self.unfolds():
            return self.dense().matrices()
        count, groups = self.signal.shape[0], self.geometry.groups
        gradients = _patches.weight_gradient(
            wide(self.signal).transpose(0, 1).flatten(1, 2),
            wide(self.response).transpose(0, 1).flatten(1, 2),
            self.geometry._replace(groups=count * groups),
        )
        return gradients.reshape(count, groups, self.channels()[0], -1)

    def materialize(self) -> Tensor:
        each = self.costs()["gradients"].numbers
        return self.frame.place(self._in_parts(ConvPair.matrices, each))

    def costs(self) -> dict[Route, Cost]:
        """Of the ways to a squared norm."""
        images, groups = self.response.shape[1], self.geometry.groups
        (rows, columns), kernel = self.channels(), math.prod(self.geometry.kernel)
        positions = images * math.prod(self.response.shape[3:])
        patches, pairs = positions * columns * kernel, positions**2
        matrix = rows * columns * kernel
        found: dict[Route, Cost] = {
            "patches": Cost(
                groups * pairs * (columns * kernel + rows),
                groups * (patches + 2 * pairs),
            ),
            "gradients": Cost(
                groups * patches * rows,
                groups * (matrix + (patches if self.unfolds() else 0)),
            ),
        }
        if kernel <= _MOST_SLICES:
            pixels = images**2 * multiplications(self.cells())
            found["pixels"] = Cost(
                groups * (pixels * columns + pairs * (kernel + rows))
                + 2 * groups * positions * kernel * rows,
                2 * groups * (pixels + pairs),
            )
        return found

    def route(self) -> Route:
        """The way of the fewest products."""
        costs = self.costs()
        return min(costs, key=lambda route: costs[route].products)

    def squared_norm(self) -> Tensor:
        route = self.route()
        return self._in_parts(_WAYS[route], self.costs()[route].numbers)

    def _in_parts(self, function: Callable[[ConvPair], Tensor], each: int) -> Tensor:
        if self.signal.device.type == "cpu":
            some = math.ceil(_blocks.count(self) / _MOST_PARTS)
            each = max(each, _blocks.NUMBERS // max(_CACHED // each, some))
        return _blocks.over_samples(function, each, self)

    def inner(self, tensor: Tensor) -> Tensor:
        shape = (self.response.shape[2], self.channels()[1], *self.geometry.kernel)
        weight = self.frame.take(wide(tensor)).reshape(shape)
        signal = wide(self.signal).flatten(0, 1)
        outputs = _patches.outputs(signal, weight, self.geometry)
        products = outputs.reshape(self.response.shape) * wide(self.response)
        return products.flatten(1).sum(1)

    def weighted_sum(self, weights: Tensor | None) -> Tensor:
        signal, response = wide(self.signal), wide(self.response)
        if weights is not None:
            weights = weights.to(signal.dtype)
            if response.numel() < signal.numel():
                response = response * per_axis(weights, response)
            else:
                signal = signal * per_axis(weights, signal)
        total = _patches.weight_gradient(
            signal.flatten(0, 1), response.flatten(0, 1), self.geometry
        )
        shape = (self.geometry.groups, self.channels()[0], -1)
        return self.frame.place(total.reshape(shape))

    def masked(self, mask: Tensor) -> ConvPair:
        signal, response = chosen(mask, self.signal), chosen(mask, self.response)
        return ConvPair(signal, response, self.geometry, self.frame)


def _from_pixels(pair: ConvPair) -> Tensor:
    """From the products between pixels, with the mean of each channel kept apart.

    A signal of nearly the same everywhere, with responses that add up to nearly nothing
    (as before a normalisation), would leave only rounding.
    """
    signal, response = pair.by_group()
    mean = (
        signal.flatten(3)
        .mean(3)
        .reshape(*signal.shape[:3], *[1 for _ in signal.shape[3:]])
    )
    signal = signal - mean
    flat = response.flatten(3)
    varying = _pixels.patch_products(signal, pair.cells()) * (flat.mT @ flat)
    # The gradient is that of the varying part plus one of rank 1 in the channels.
    ones, along = torch.ones_like(signal[:, :, :1]), (signal * mean).sum(2, True)
    parts = torch.cat([ones, along], 2).movedim(3, 1).flatten(2, 3)
    of_ones, of_along = dataclasses.replace(pair, signal=parts).matrices().chunk(2, 3)
    length = mean.square().flatten(2).sum(2)
    constant = (2 * of_ones * of_along).sum((2, 3)) + length * of_ones.square().sum(
        (2, 3)
    )
    return varying.sum((1, 2, 3)) + constant.sum(1)


_WAYS: dict[Route, Callable[[ConvPair], Tensor]] = {
    "gradients": lambda pair: pair.matrices().square().sum((1, 2, 3)),
    "patches": lambda pair: pair.dense().squared_norm(),
    "pixels": _from_pixels,
}
