# SPDX-License-Identifier: Apache-2.0
"""Metrics over a whole data set, from one compiled function of one batch shape."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from functorch_lab import data, metrics, tree
from functorch_lab.transforms import jit


def make_evaluate(
    apply: Callable[[Any, Any], Any],
    metrics: Mapping[str, Any],
    *,
    batch_size: int = 256,
) -> Callable[..., dict[str, Any]]:
    """Make the function that evaluates a model with metrics.

    Every sample counts once: the last batch is filled up to the shape of the others
    and the additions are masked.

    Args:
        apply: `apply(params, x)` gives the outputs for a batch of inputs. Any tree
            will do for params, such as (params, model_state).
        metrics: By name; each is updated as
            `update(state, outputs, y, mask=mask)` with the mask of shape (batch,). A
            function in place of a metric, such as `losses.cross_entropy`, stands for
            the mean over the samples of what it gives: `f(outputs, y)` of shape
            (batch,).
        batch_size: Samples per batch; the data's length if that is smaller.

    Returns:
        The function `evaluate(params, x, y)`, which returns the metrics' values by
        name. x and y are trees of tensors of shape (n, ...).

    Raises:
        TypeError: If `metrics` is not a mapping of metrics or functions, or
            `batch_size` not an int.
        ValueError: If there are no metrics or `batch_size` < 1; in a call, if there
            are no samples, x and y differ in length, or a function does not give one
            value per sample.

    Example:
        >>> import torch
        >>> from functorch_lab import metrics, train
        >>> evaluate = train.make_evaluate(
        ...     lambda params, x: x * params, {"accuracy": metrics.accuracy()}
        ... )
        >>> x = torch.tensor([[2.0, 3.0], [5.0, 3.0], [3.0, 2.0]])
        >>> values = evaluate(torch.tensor(1.0), x, torch.tensor([1, 1, 0]))
        >>> round(values["accuracy"].item(), 4)
        0.6667
    """
    where = "train.make_evaluate"
    remedy = 'Give e.g. {"accuracy": metrics.accuracy()}.'
    if not isinstance(metrics, Mapping):
        got = type(metrics).__name__
        raise TypeError(
            f"{where}: metrics: expected metrics by name, got {got}. {remedy}"
        )
    if not metrics:
        raise ValueError(f"{where}: metrics: expected at least one, got none. {remedy}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(
            f"{where}: batch_size: expected an int, got {batch_size!r}. Give the "
            "number of samples per call."
        )
    if batch_size < 1:
        raise ValueError(
            f"{where}: batch_size: expected at least 1, got {batch_size}. Give the "
            "number of samples per call."
        )
    metrics = {name: _metric(where, name, m) for name, m in metrics.items()}

    @jit
    def update(states: Any, params: Any, batch: Any, mask: Any) -> Any:
        x, y = batch
        outputs = apply(params, x)
        return {
            name: metric.update(states[name], outputs, y, mask=mask)
            for name, metric in metrics.items()
        }

    def evaluate(params: Any, x: Any, y: Any) -> dict[str, Any]:
        states = {name: metric.init() for name, metric in metrics.items()}
        for batch, mask in data.masked_batches((x, y), batch_size):
            states = update(tree.to(states, mask.device), params, batch, mask)
        return {name: m.compute(states[name]) for name, m in metrics.items()}

    return evaluate


def _metric(where: str, name: str, metric: Any) -> Any:
    if hasattr(metric, "update"):
        return metric
    where = f"{where}: metrics[{name!r}]"
    makes_one = any(metric is other for other in vars(metrics).values())
    if makes_one or not callable(metric):
        raise TypeError(
            f"{where}: expected a metric or a function of (outputs, y), got "
            f"{metric!r:.40}. Call what makes the metric: metrics.accuracy()."
        )
    average = metrics.mean()

    def update(state: Any, outputs: Any, y: Any, *, mask: Any) -> Any:
        values = metric(outputs, y)
        shape = tuple(getattr(values, "shape", ()))
        if shape != mask.shape:
            raise ValueError(
                f"{where}: expected one value per sample, shape {tuple(mask.shape)}, "
                f"got {shape}. Leave the mean to make_evaluate."
            )
        return average.update(state, values, mask=mask)

    return replace(average, update=update)
