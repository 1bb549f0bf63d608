# SPDX-License-Identifier: Apache-2.0
"""Metrics over a whole data set, from one compiled function of one batch shape."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from functorch_lab import data, tree
from functorch_lab.metrics import mean
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
        TypeError: If `batch_size` is not an int.
        ValueError: If there are no metrics or `batch_size` < 1; in a call, if there
            are no samples or x and y differ in length.

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
    if not metrics:
        raise ValueError(
            f"{where}: metrics: expected at least one, got none. Give e.g. "
            '{"accuracy": metrics.accuracy()}.'
        )
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
    metrics = {name: _metric(metric) for name, metric in metrics.items()}

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


def _metric(metric: Any) -> Any:
    if hasattr(metric, "update"):
        return metric
    average = mean()

    def update(state: Any, outputs: Any, y: Any, *, mask: Any) -> Any:
        return average.update(state, metric(outputs, y), mask=mask)

    return replace(average, update=update)
