# SPDX-License-Identifier: Apache-2.0
"""Means and variances of numbers, accumulated without loss of digits.

Means and centred sums are merged, not sums of squares, whose difference cancels: Chan,
Golub and LeVeque, Algorithms for Computing the Sample Variance (1983), equations 1.5,
doi:10.1080/00031305.1983.10483115.
"""

from __future__ import annotations

import torch
from torch import Tensor

from functorch_lab.metrics import _metric
from functorch_lab.metrics._metric import Metric, State


def mean(dtype: torch.dtype | None = None) -> Metric:
    """The mean of numbers, such as the losses of samples.

    `update(state, values, mask=None)`: each element of `values`, of any shape, counts
    once; it raises `TypeError` unless it is a tensor of real numbers. Without data the
    value is NaN.

    Args:
        dtype: in which the mean is kept, by default torch's default dtype.

    Returns:
        The metric; its value is a scalar of that dtype.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.mean()
        >>> state = metric.update(metric.init(), torch.tensor([1.0, 2.0]))
        >>> metric.compute(metric.update(state, torch.tensor(6.0)))
        tensor(3.)
    """

    def init(device: torch.device | str | None = None) -> State:
        kind = torch.get_default_dtype() if dtype is None else dtype
        return {
            "mean": torch.zeros((), dtype=kind, device=device),
            "count": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(state: State, values: Tensor, *, mask: Tensor | None = None) -> State:
        if not isinstance(values, Tensor) or values.is_complex():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(
                f"metrics.mean: values: expected a tensor of real numbers, got {kind}. "
                "Convert it with torch.as_tensor."
            )
        keep = _metric.kept("mean", mask, values)
        return merge(state, _moments(values.to(state["mean"].dtype), keep))

    def merge(a: State, b: State) -> State:
        return {"mean": _merged_mean(a, b), "count": a["count"] + b["count"]}

    def compute(state: State) -> Tensor:
        return torch.where(state["count"] > 0, state["mean"], float("nan"))

    return Metric(init, update, merge, compute)


def r2(dtype: torch.dtype | None = None) -> Metric:
    """The coefficient of determination: 1 - (squared errors) / (squared deviations).

    1 is perfect, 0 as good as the target's mean, below 0 worse. `update(state,
    prediction, target, mask=None)` takes two floating-point tensors of one shape, each
    element an observation (several outputs: `vmap` over them); it raises `ValueError`
    for different shapes and `TypeError` for other kinds. Where the target is constant
    the value is 1 if the prediction is right everywhere and 0 otherwise; for fewer than
    two observations it is NaN.

    Args:
        dtype: in which the sums are kept, by default torch's default dtype.

    Returns:
        The metric; its value is a scalar of that dtype.

    Example:
        >>> import torch, functorch_lab as fl
        >>> metric = fl.metrics.r2()
        >>> prediction, target = torch.tensor([1.0, 3, 4]), torch.tensor([1.0, 2, 6])
        >>> metric.compute(metric.update(metric.init(), prediction, target))  # 1 - 5/14
        tensor(0.6429)
    """

    def init(device: torch.device | str | None = None) -> State:
        kind = torch.get_default_dtype() if dtype is None else dtype
        zero = torch.zeros((), dtype=kind, device=device)
        return {
            "mean": zero,
            "squares": zero.clone(),
            "errors": zero.clone(),
            "count": torch.zeros((), dtype=torch.int64, device=device),
        }

    def update(
        state: State, prediction: Tensor, target: Tensor, *, mask: Tensor | None = None
    ) -> State:
        _check_pair(prediction, target)
        keep = _metric.kept("r2", mask, target)
        kind = state["mean"].dtype
        prediction, target = prediction.to(kind), target.to(kind)
        more = _moments(target, keep)
        deviations = torch.where(keep, target - more["mean"], 0.0)
        errors = torch.where(keep, target - prediction, 0.0)
        more["squares"] = deviations.square().sum()
        more["errors"] = errors.square().sum()
        return merge(state, more)

    def merge(a: State, b: State) -> State:
        shift = (b["mean"] - a["mean"]).square()
        between = shift * a["count"].to(shift.dtype) * _share(a, b)
        return {
            "mean": _merged_mean(a, b),
            "squares": a["squares"] + b["squares"] + between,
            "errors": a["errors"] + b["errors"],
            "count": a["count"] + b["count"],
        }

    def compute(state: State) -> Tensor:
        errors, squares = state["errors"], state["squares"]
        constant = torch.where(errors == 0, 1.0, 0.0).to(errors.dtype)
        value = torch.where(squares == 0, constant, 1 - errors / squares)
        return torch.where(state["count"] > 1, value, float("nan"))

    return Metric(init, update, merge, compute)


def _check_pair(prediction: Tensor, target: Tensor) -> None:
    """Two floating-point tensors of one shape.

    Raises:
        TypeError: one is not a floating-point tensor.
        ValueError: the shapes differ.
    """
    for name, value in [("prediction", prediction), ("target", target)]:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"metrics.r2: {name}: expected a floating-point tensor, got {kind}. "
                f"Convert it, for example with {name}.float()."
            )
    if prediction.shape != target.shape:
        raise ValueError(
            "metrics.r2: prediction: expected the target's shape, "
            f"{tuple(target.shape)}, got {tuple(prediction.shape)}. Reshape one of "
            "them: nothing is broadcast."
        )


def _moments(values: Tensor, keep: Tensor) -> State:
    """Mean and count of the kept values; mean 0 if there are none."""
    count = keep.sum()
    total = torch.where(keep, values, 0.0).sum()
    return {"mean": total / count.clamp(min=1), "count": count}


def _merged_mean(a: State, b: State) -> Tensor:
    return a["mean"] + (b["mean"] - a["mean"]) * _share(a, b)


def _share(a: State, b: State) -> Tensor:
    """The share of the observations of both that are those of `b`."""
    total = (a["count"] + b["count"]).clamp(min=1)
    # Converted first: integers divide to the default dtype, whatever the state's is.
    return b["count"].to(b["mean"].dtype) / total.to(b["mean"].dtype)
