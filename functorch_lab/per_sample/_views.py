# SPDX-License-Identifier: Apache-2.0
"""Which part of a leaf a view of it holds, in which order.

No operation's arguments are interpreted: it is done to a tensor without memory, whose
strides then tell what it does. So every form of a call is understood.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab.per_sample._frame import Axes, View


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# What gives a view of any tensor that lies in memory in the order of its axes.
VIEWS = names("""
    T mT H mH t transpose permute swapaxes swapdims movedim moveaxis adjoint
    view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze
    expand expand_as broadcast_to narrow select __getitem__ unbind split
    split_with_sizes unsafe_split chunk unsafe_chunk tensor_split hsplit vsplit dsplit
    diagonal unfold
""")
# The same numbers in another precision, or in another order in memory.
CASTS = names("""
    to type type_as float double half bfloat16 contiguous clone cpu cuda positive
""")
# What else may share memory with its argument.
ALIASES = names("detach data as_strided real view_as_real alias")

# Sizes, strides and offset in the tensor that was viewed, in elements.
Layout = tuple[tuple[int, ...], tuple[int, ...], int]


def views(
    view: View, sizes: tuple[int, ...], name: str, args: Any, kwargs: Any
) -> list[View | None]:
    """For each result of an operation the view that it is; None if it is no box.

    Args:
        view: the operation's first argument.
        sizes: this argument's shape.
        name: the operation.
        args: its other arguments.
        kwargs: its keyword arguments.
    """
    if name in ("view_as", "reshape_as", "expand_as"):
        other = args[0] if args else kwargs["other"]
        name, args, kwargs = name[:-3], (tuple(other.shape),), {}
    if name == "__getitem__" and not is_basic(args[0]):
        return []
    if any(isinstance(arg, Tensor | torch.dtype) for arg in (*args, *kwargs.values())):
        return []
    found = _refined(tuple(view), sizes, name, args, kwargs)
    return [None if fields is None else View(*fields) for fields in found]


def is_basic(index: Any) -> bool:
    """Whether this index makes a view: it has no tensor, list or truth value."""
    for entry in index if isinstance(index, tuple) else (index,):
        if isinstance(entry, bool) or not (
            entry is None or entry is Ellipsis or isinstance(entry, int | slice)
        ):
            return False
    return True


def _constant(function: Callable[..., Any]) -> Any:
    """`torch.compiler.assume_constant_result`, which would import Dynamo here."""
    function._dynamo_marked_constant = True  # pyright: ignore
    return function


# Plain tuples go in and come out: of the named ones Dynamo has no constants.
@_constant
def _refined(
    view: tuple[Any, ...], sizes: tuple[int, ...], name: str, args: Any, kwargs: Any
) -> tuple[tuple[Any, ...] | None, ...]:
    with torch._C.DisableTorchFunction():
        found = getattr(torch.empty(sizes, device="meta"), name)
        if not isinstance(found, Tensor):
            found = found(*args, **kwargs)
    several = found if isinstance(found, tuple | list) else [found]
    views = [refined(View(*view), _layout(each)) for each in several]
    return tuple([None if each is None else tuple(each) for each in views])


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


def refined(view: View, layout: Layout) -> View | None:
    """A view of a view, from how it would lie in memory were the first contiguous."""
    sizes, strides, offset = layout
    box = _Box(view)
    if 0 in sizes or not all(
        box.cut(stride) for size, stride in zip(sizes, strides, strict=True) if size > 1
    ):
        return None
    axes = box.chosen(sizes, strides, offset)
    return None if axes is None else box.view(axes)


class _Box:
    """A view whose axes are still to be split and cut."""

    def __init__(self, view: View) -> None:
        self.from_ = view
        self.shape, self.start = list(view.shape), list(view.start)
        self.size = list(view.size)
        # The axes of `shape` in the order in which the tensor runs through them.
        self.order = [axis for axes in view.axes for axis in axes]

    def strides(self) -> list[int]:
        found, stride = [], 1
        for axis in reversed(self.order):
            found.insert(0, stride)
            stride *= self.size[axis]
        return found

    def cut(self, stride: int) -> bool:
        """Splits an axis so that one of them has this stride; whether that can be."""
        for place, inner in enumerate(self.strides()):
            axis = self.order[place]
            if not inner <= stride < inner * self.size[axis]:
                continue
            step, rest = divmod(stride, inner)
            if rest:
                return False
            if step == 1:
                return True
            bounds = (self.shape, self.start, self.size)
            if any(numbers[axis] % step for numbers in bounds):
                return False
            for numbers in bounds:
                numbers[axis] //= step
            self.shape.insert(axis + 1, step)
            self.start.insert(axis + 1, 0)
            self.size.insert(axis + 1, step)
            self.order = [a + 1 if a > axis else a for a in self.order]
            self.order.insert(place + 1, axis + 1)
            return True
        return False

    def chosen(
        self, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> list[Axes] | None:
        """Cuts the axes as a view does; the axes of `shape` for each of its own."""
        inner = self.strides()
        left = dict(enumerate(self.order))  # the places that are not yet used
        found: list[Axes] = []
        for size, stride in zip(sizes, strides, strict=True):
            axes: list[int] = []
            count, place = size, len(self.order)
            while count > 1:
                place -= 1
                if place < 0:
                    return None
                if inner[place] < stride or self.size[self.order[place]] == 1:
                    continue
                axis = left.pop(place, None)
                if axis is None:
                    return None
                full = self.size[axis]
                digit = offset // inner[place] % full
                some = min(count, full)
                if digit + some > full or count % some:
                    return None
                self.start[axis] += digit
                self.size[axis] = some
                axes.insert(0, axis)
                count //= some
            found.append(tuple(axes))
        for place, axis in left.items():
            self.start[axis] += offset // inner[place] % self.size[axis]
            self.size[axis] = 1
        return found

    def view(self, axes: list[Axes]) -> View:
        """The view that has these axes, without splits that it does not need."""
        leaf = self.from_.leaf
        borders = {math.prod(leaf[i:]) for i in range(len(leaf))}
        for i in reversed(range(len(self.shape) - 1)):
            inner = self.shape[i + 1]
            together = any((i, i + 1) in itertools.pairwise(each) for each in axes)
            if math.prod(self.shape[i + 1 :]) in borders or not (
                self.size[i] == 1 or (together and self.size[i + 1] == inner)
            ):
                continue
            self.start[i] = self.start[i] * inner + self.start.pop(i + 1)
            self.shape[i] *= self.shape.pop(i + 1)
            self.size[i] *= self.size.pop(i + 1)
            axes = [_joined(each, i) for each in axes]
        return View(
            self.from_.index,
            leaf,
            tuple(self.shape),
            tuple(self.start),
            tuple(self.size),
            tuple(axes),
        )


def _joined(axes: Axes, axis: int) -> Axes:
    """The axes as they are numbered when one is joined with the next."""
    lower = [a if a <= axis else a - 1 for a in axes]
    return tuple(dict.fromkeys(lower))
