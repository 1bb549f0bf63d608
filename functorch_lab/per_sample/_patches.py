# SPDX-License-Identifier: Apache-2.0
"""Where a convolution looks, and what is computed from the patches that it sees.

All functions take signals `(M, channels, *space)` and responses `(M, channels,
*positions)`: the input of a convolution and the gradient at its output, or for a
transposed convolution the other way round.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """Where a convolution looks, for each axis of space.

    Attributes:
        kernel: pixels of a patch.
        stride: from one patch to the next.
        before: zeros ahead of the first pixel.
        after: zeros behind the last pixel that a patch reaches, less than none if some
            pixels are reached by no patch.
        dilation: from one pixel of a patch to the next.
        groups: of channels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def pads(self) -> list[int]:
        """What is around the pixels, as `F.pad` takes it."""
        sides = list(zip(self.before, self.after, strict=True))
        return [pixels for side in reversed(sides) for pixels in side]

    def padded(self, signal: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """A signal, and by how much the convolution is to pad it on both sides."""
        sides = zip(self.before, self.after, self.stride, strict=True)
        if all(0 <= before - after < stride for before, after, stride in sides):
            return signal, self.before
        return F.pad(signal, self.pads()), tuple([0 for _ in self.before])


def unfolded(signal: Tensor, geometry: Geometry) -> Tensor:
    """All patches, `(M, channels, *positions, *kernel)`."""
    patches = F.pad(signal, geometry.pads())
    sizes = zip(geometry.kernel, geometry.dilation, geometry.stride, strict=True)
    for axis, (pixels, step, stride) in enumerate(sizes, start=2):
        patches = patches.unfold(axis, step * (pixels - 1) + 1, stride)
        patches = patches[..., ::step]
    return patches


def outputs(signal: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The convolution of a signal with a weight."""
    signal, padding = geometry.padded(signal)
    zeros = [0 for _ in padding]
    return torch.convolution(
        signal,
        weight,
        None,
        geometry.stride,
        padding,
        geometry.dilation,
        False,  # not transposed
        zeros,
        geometry.groups,
    )


def weight_gradient(signal: Tensor, response: Tensor, geometry: Geometry) -> Tensor:
    """The gradient at the weight of a convolution, summed over all M."""
    signal, padding = geometry.padded(signal)
    shape = (response.shape[1], signal.shape[1] // geometry.groups, *geometry.kernel)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        response,
        signal,
        signal.new_empty(shape),  # only its shape is read
        None,
        geometry.stride,
        padding,
        geometry.dilation,
        False,  # not transposed
        [0 for _ in padding],
        geometry.groups,
        (False, True, False),
    )
    return gradient
