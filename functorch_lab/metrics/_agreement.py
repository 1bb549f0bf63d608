# SPDX-License-Identifier: Apache-2.0
"""How often prediction and target agree, in all and class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from functorch_lab.metrics import _metric
from functorch_lab.metrics._metric import Metric, State


def accuracy() -> Metric:
    """The share of samples whose predicted label is the true one, in [0, 1].

    `update(state, prediction, target, mask=None)`: `prediction` are scores (logits or
    probabilities) of shape `(..., classes)`, of which the largest counts, or integer
    labels of shape `(...)`; `target` are integer labels of shape `(...)`. It raises
    `ValueError` for other shapes and `TypeError` for other kinds. A label that is no
    class of the scores raises `ValueError` in eager mode on the CPU, and counts as
    wrong elsewhere. Without data the value is NaN.

    Returns:
        The metric; its value is a scalar.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.accuracy()
        >>> prediction, target = torch.tensor([2, 0, 1, 1]), torch.tensor([2, 0, 1, 0])
        >>> metric.compute(metric.update(metric.init(), prediction, target))
        tensor(0.7500)
    """

    def init(device: torch.device | str | None = None) -> State:
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return {"correct": zero, "count": zero.clone()}

    def update(
        state: State, prediction: Tensor, target: Tensor, *, mask: Tensor | None = None
    ) -> State:
        scores = prediction
        prediction, target = _metric.labels("accuracy", scores, target)
        keep = _metric.kept("accuracy", mask, target)
        if scores.is_floating_point():
            classes = scores.shape[-1]
            _metric.check_range("accuracy", "target", target, mask, classes)
        correct = (prediction == target) & keep
        return _metric.add(state, {"correct": correct.sum(), "count": keep.sum()})

    def compute(state: State) -> Tensor:
        return state["correct"] / state["count"]

    return Metric(init, update, _metric.add, compute)


def confusion_matrix(num_classes: int) -> Metric:
    """Samples by true class (row) and predicted class (column).

    `update` takes what `accuracy`'s takes, with scores of `num_classes` classes; a
    label outside [0, num_classes) raises `ValueError` in eager mode on the CPU and
    `RuntimeError` ("index ... is out of bounds") elsewhere.

    Args:
        num_classes: how many classes there are, at least 2.

    Returns:
        The metric; its value are integers of shape `(num_classes, num_classes)`.

    Raises:
        ValueError: `num_classes` is no integer of at least 2.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.confusion_matrix(2)
        >>> prediction, target = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0])
        >>> metric.compute(metric.update(metric.init(), prediction, target))
        tensor([[1, 1],
                [0, 2]])
    """
    name = "confusion_matrix"
    _metric.check_classes(name, num_classes)

    def init(device: torch.device | str | None = None) -> State:
        shape = num_classes, num_classes
        return {"counts": torch.zeros(shape, dtype=torch.int64, device=device)}

    def update(
        state: State, prediction: Tensor, target: Tensor, *, mask: Tensor | None = None
    ) -> State:
        prediction, target = _metric.labels(name, prediction, target, num_classes)
        keep = _metric.kept(name, mask, target)
        _metric.check_range(name, "prediction", prediction, mask, num_classes)
        _metric.check_range(name, "target", target, mask, num_classes)
        # Looked up, so that each label is checked by itself: 10 + 3 * row is also the
        # index of another cell.
        classes = torch.arange(num_classes, device=target.device)
        row = classes.gather(0, torch.where(keep, target, 0).flatten())
        column = classes.gather(0, torch.where(keep, prediction, 0).flatten())
        cells = _metric.count(
            num_classes**2, num_classes * row + column, keep.flatten()
        )
        return _metric.add(state, {"counts": cells.reshape(num_classes, num_classes)})

    def compute(state: State) -> Tensor:
        return state["counts"]

    return Metric(init, update, _metric.add, compute)
