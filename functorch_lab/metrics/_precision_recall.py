# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1: one score per class, and their averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from functorch_lab.metrics import _metric
from functorch_lab.metrics._metric import Metric, State

_Average = Literal["binary", "macro", "micro", "weighted"]


def precision(
    num_classes: int,
    *,
    average: _Average | None = "macro",
    zero_division: float = 0.0,
) -> Metric:
    """Of the samples predicted to be of a class, the share that is.

    `update(state, prediction, target, mask=None)`: `prediction` are scores of shape
    `(..., num_classes)`, of which the largest counts, or integer labels of shape
    `(...)`; `target` are integer labels of shape `(...)`. It raises `ValueError` for
    other shapes and `TypeError` for other kinds; for a label outside [0, num_classes)
    `ValueError` in eager mode on the CPU and `RuntimeError` ("index ... is out of
    bounds") elsewhere.

    Args:
        num_classes: how many classes there are, at least 2.
        average: "macro", the mean over all classes, also those that do not occur;
            "weighted", the mean weighted by the number of true samples; "micro", one
            score from the sums over classes; "binary", the score of class 1 of two;
            `None`, one score per class.
        zero_division: the score of a class where the denominator is 0; NaN leaves such
            classes out of the mean.

    Returns:
        The metric; its value is a scalar, of shape `(num_classes,)` for `average=None`.

    Raises:
        ValueError: too few classes, an unknown average, or "binary" with more than 2.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.precision(2, average=None)
        >>> prediction, target = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0])
        >>> metric.compute(metric.update(metric.init(), prediction, target))
        tensor([1.0000, 0.6667])
    """
    return _score("precision", _precision, num_classes, average, zero_division)


def recall(
    num_classes: int,
    *,
    average: _Average | None = "macro",
    zero_division: float = 0.0,
) -> Metric:
    """Of the samples of a class, the share that is predicted to be.

    Arguments, result and errors are those of `precision`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.recall(2, average=None)
        >>> prediction, target = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0])
        >>> metric.compute(metric.update(metric.init(), prediction, target))
        tensor([0.5000, 1.0000])
    """
    return _score("recall", _recall, num_classes, average, zero_division)


def f1(
    num_classes: int,
    *,
    average: _Average | None = "macro",
    zero_division: float = 0.0,
) -> Metric:
    """The harmonic mean of precision and recall, class by class.

    "macro" is the mean of the classes' scores. Arguments, result and errors are those
    of `precision`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.f1(2, average="binary")
        >>> prediction, target = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 0])
        >>> metric.compute(metric.update(metric.init(), prediction, target))
        tensor(0.8000)
    """
    return _score("f1", _f1, num_classes, average, zero_division)


# Numerator and denominator from true positives, predicted and actual samples.
_Fraction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _precision(hits: Tensor, predicted: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return hits, predicted


def _recall(hits: Tensor, _: Tensor, actual: Tensor) -> tuple[Tensor, Tensor]:
    return hits, actual


def _f1(hits: Tensor, predicted: Tensor, actual: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * hits, predicted + actual


def _score(
    name: str,
    fraction: _Fraction,
    num_classes: int,
    average: _Average | None,
    zero_division: float,
) -> Metric:
    """The metric that divides sums over samples.

    Raises:
        ValueError: too few classes, or an average that is unknown or does not fit.
    """
    _metric.check_classes(name, num_classes)
    if average is not None and average not in get_args(_Average):
        raise ValueError(
            f"metrics.{name}: average: expected one of {get_args(_Average)} or None, "
            f"got {average!r}. Choose one."
        )
    if average == "binary" and num_classes != 2:
        raise ValueError(
            f"metrics.{name}: average: expected 'macro', 'micro', 'weighted' or None "
            f"for {num_classes} classes, got 'binary'. 'binary' is the score of class "
            "1 of two."
        )

    def init(device: torch.device | str | None = None) -> State:
        zeros = torch.zeros(num_classes, dtype=torch.int64, device=device)
        return {"hits": zeros, "predicted": zeros.clone(), "actual": zeros.clone()}

    def update(
        state: State, prediction: Tensor, target: Tensor, *, mask: Tensor | None = None
    ) -> State:
        prediction, target = _metric.labels(name, prediction, target, num_classes)
        keep = _metric.kept(name, mask, target)
        _metric.check_range(name, "prediction", prediction, mask, num_classes)
        _metric.check_range(name, "target", target, mask, num_classes)
        more = {
            "hits": _metric.count(num_classes, target, keep & (prediction == target)),
            "predicted": _metric.count(num_classes, prediction, keep),
            "actual": _metric.count(num_classes, target, keep),
        }
        return _metric.add(state, more)

    def compute(state: State) -> Tensor:
        hits, predicted, actual = state["hits"], state["predicted"], state["actual"]
        if average == "micro":
            sums = (n.sum(-1) for n in (hits, predicted, actual))
            return _divide(*fraction(*sums), zero_division)
        scores = _divide(*fraction(hits, predicted, actual), zero_division)
        if average is None:
            return scores
        if average == "binary":
            return scores[..., 1]
        weights = actual if average == "weighted" else torch.ones_like(actual)
        if math.isnan(zero_division):
            weights = weights * ~scores.isnan()
            scores = scores.nan_to_num(0.0)
        return _divide((weights * scores).sum(-1), weights.sum(-1), zero_division)

    return Metric(init, update, _metric.add, compute)


def _divide(numerator: Tensor, denominator: Tensor, zero_division: float) -> Tensor:
    quotient = numerator / denominator.clamp(min=1)
    return torch.where(denominator == 0, zero_division, quotient)
