# SPDX-License-Identifier: Apache-2.0
"""What a metric is, and what it asks of labels and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A metric: four pure functions.

    Attributes:
        init: `state = init(device=None)`, a tree of tensors for no data at all.
        update: `state = update(state, *data, mask=None)`: more data. `mask` is boolean,
            of the target's shape; what it leaves out changes nothing.
        merge: `state = merge(a, b)`: the state of all data of both, such as two devices
            or two halves of a data set. Associative.
        compute: `value = compute(state)`.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
    merge: Callable[[Any, Any], Any]
    compute: Callable[[Any], Tensor]


def add(a: State, b: State) -> State:
    """The merge of states that are sums."""
    return {name: a[name] + b[name] for name in a}


def labels(
    function: str, prediction: Tensor, target: Tensor, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Predicted and true labels, of one shape; of scores the label is the argmax.

    Raises:
        TypeError: the target is not a tensor of integers.
        ValueError: the shapes do not fit.
    """
    kind = target.dtype if isinstance(target, Tensor) else type(target).__name__
    if not isinstance(kind, torch.dtype) or kind.is_floating_point or kind.is_complex:
        raise TypeError(
            f"metrics.{function}: target: expected integer labels, got {kind}. "
            "Convert them with target.long()."
        )
    if prediction.is_floating_point():
        scores = prediction.shape
        wrong = len(scores) == 0 or scores[:-1] != target.shape
        if wrong or num_classes not in {None, scores[-1]}:
            classes = "classes" if num_classes is None else num_classes
            raise ValueError(
                f"metrics.{function}: prediction: expected scores of shape "
                f"{_text((*target.shape, classes))}, got {_text(scores)}. Give scores "
                "with the class axis last, or integer labels of the target's shape."
            )
        prediction = prediction.argmax(-1)
    if prediction.shape != target.shape:
        raise ValueError(
            f"metrics.{function}: prediction: expected labels of the target's shape, "
            f"{_text(target.shape)}, got {_text(prediction.shape)}. Reshape one of "
            "them: nothing is broadcast."
        )
    return prediction.long(), target.long()


def kept(function: str, mask: Tensor | None, like: Tensor) -> Tensor:
    """The mask; all true if none is given.

    Raises:
        TypeError: it is not a boolean tensor.
        ValueError: it has another shape than the target.
    """
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"metrics.{function}: mask: expected a boolean tensor, got {kind}. "
            "Convert it with mask.bool()."
        )
    if mask.shape != like.shape:
        raise ValueError(
            f"metrics.{function}: mask: expected the target's shape, "
            f"{_text(like.shape)}, got {_text(mask.shape)}. Give one entry per label."
        )
    return mask


def check_range(
    function: str, name: str, labels: Tensor, mask: Tensor | None, classes: int
) -> None:
    """Labels that can be read, and that the mask keeps, are in [0, classes).

    Raises:
        ValueError: one is not.
    """
    if labels.numel() == 0 or not all(map(_readable, (labels, mask))):
        return
    kept_labels = labels if mask is None else torch.where(mask, labels, 0)
    low, high = kept_labels.aminmax()
    if int(low) < 0 or int(high) >= classes:
        wrong = (kept_labels < 0) | (kept_labels >= classes)
        index = tuple(wrong.nonzero()[0].tolist())
        place = f" at index {index}" if index else ""
        raise ValueError(
            f"metrics.{function}: {name}: expected labels in 0 .. {classes - 1}, got "
            f"{int(labels[index])}{place}. "
            "Check the data with data.check_classification."
        )


def _readable(value: Tensor | None) -> bool:
    """Whether values can be looked at: not traced or mapped, and not on a device."""
    torch_c: Any = torch._C
    return value is None or (
        not torch.compiler.is_dynamo_compiling()
        and type(value) is Tensor  # no FakeTensor
        and value.device.type == "cpu"  # elsewhere the host would wait for the device
        and not torch_c._functorch.is_functorch_wrapped_tensor(value)
        and torch_c._len_torch_dispatch_stack() == 0  # make_fx
    )


def count(classes: int, index: Tensor, keep: Tensor) -> Tensor:
    """How often each class occurs; a kept index outside [0, classes) raises."""
    index = torch.where(keep, index, 0).flatten()
    # Counted in 32 bits, which every device can add in parallel.
    ones = keep.flatten().to(torch.int32)
    zeros = torch.zeros(classes, dtype=torch.int32, device=index.device)
    return zeros.scatter_add(0, index, ones).long()


def check_classes(function: str, num_classes: int) -> None:
    """There are at least two classes.

    Raises:
        ValueError: there are fewer, or their number is no integer.
    """
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"metrics.{function}: num_classes: expected an integer of at least 2, got "
            f"{num_classes!r}. Count all classes, for a binary problem both."
        )


def _text(shape: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
