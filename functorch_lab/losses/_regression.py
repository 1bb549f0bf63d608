# SPDX-License-Identifier: Apache-2.0
"""Regression: elementwise losses of equal shapes, and two means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from functorch_lab.losses import _check


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The squared difference, element by element, without a factor 1/2.

    Args:
        prediction: floating-point tensor of any shape.
        target: floating-point tensor of the same shape.

    Returns:
        A tensor of that shape.

    Raises:
        ValueError: the shapes differ: `(n, 1)` and `(n,)` are not broadcast.
        TypeError: an argument is not a floating-point tensor.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.squared_error(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 2.0]))
        tensor([4., 9.])
    """
    return _difference("squared_error", prediction, target).square()


def absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The absolute difference, element by element; its gradient at 0 is 0.

    Arguments, result and errors are those of `squared_error`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.absolute_error(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 2.0]))
        tensor([2., 3.])
    """
    return _difference("absolute_error", prediction, target).abs()


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of `squared_error` over all axes, a scalar.

    Arguments and errors are those of `squared_error`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.mse(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 2.0]))
        tensor(6.5000)
    """
    return _difference("mse", prediction, target).square().mean()


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of `absolute_error` over all axes, a scalar.

    Arguments and errors are those of `squared_error`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.mae(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 2.0]))
        tensor(2.5000)
    """
    return _difference("mae", prediction, target).abs().mean()


def huber(prediction: Tensor, target: Tensor, *, delta: float | Tensor = 1.0) -> Tensor:
    """Quadratic up to `delta`, linear beyond it, element by element.

    `e^2 / 2` where `|e| <= delta`, else `delta * (|e| - delta / 2)`: with the factor
    1/2, as in the paper, in torch and in optax. Arguments, result and errors are those
    of `squared_error`.

    Args:
        prediction: floating-point tensor of any shape.
        target: floating-point tensor of the same shape.
        delta: where the linear part begins, above 0, in units of the target.

    Raises:
        ValueError: the shapes differ, or `delta` is not above 0.
        TypeError: an argument is not a floating-point tensor.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.huber(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        tensor([0.5000, 2.5000])

    Source: Huber, Robust Estimation of a Location Parameter (1964), section 1,
    doi:10.1214/aoms/1177703732.
    """
    _check.positive("huber", "delta", delta)
    error = _difference("huber", prediction, target)
    size = error.abs()
    # The square is taken of the error, not of its absolute value, so that the second
    # derivative at 0 is 1.
    return torch.where(
        size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta)
    )


def log_cosh(prediction: Tensor, target: Tensor) -> Tensor:
    """`log(cosh(e))`: close to `e^2 / 2` near 0, to `|e| - log 2` far from it.

    Twice differentiable everywhere, and without overflow for large errors. Arguments,
    result and errors are those of `squared_error`.

    Example:
        >>> import torch, functorch_lab as fl
        >>> error = torch.tensor([0.0, 100.0])  # 100 - log 2 = 99.3069
        >>> fl.losses.log_cosh(error, torch.zeros(2))
        tensor([ 0.0000, 99.3069])
    """
    error = _difference("log_cosh", prediction, target)
    return torch.logaddexp(error, -error) - math.log(2.0)


def quantile(prediction: Tensor, target: Tensor, *, q: float | Tensor) -> Tensor:
    """The pinball loss, least in expectation where `prediction` is the q-quantile.

    With `e = target - prediction`: `q * e` where the prediction is too low,
    `(q - 1) * e` where it is too high. Several quantiles at once: `vmap` over `q`.

    Args:
        prediction: floating-point tensor of any shape.
        target: floating-point tensor of the same shape.
        q: the quantile, in [0, 1]; 0.5 gives half the absolute error.

    Returns:
        A tensor of that shape.

    Raises:
        ValueError: the shapes differ, or `q` is outside [0, 1].
        TypeError: an argument is not a floating-point tensor.

    Example:
        >>> import torch, functorch_lab as fl
        >>> prediction, target = torch.tensor([1.0, 5.0]), torch.tensor([3.0, 3.0])
        >>> fl.losses.quantile(prediction, target, q=0.75)
        tensor([1.5000, 0.5000])

    Source: Koenker and Bassett, Regression Quantiles (1978), equation 3.1,
    doi:10.2307/1913643.
    """
    _check.interval("quantile", "q", q, 0.0, 1.0)
    error = -_difference("quantile", prediction, target)
    return torch.where(error >= 0, q * error, (q - 1) * error)


def _difference(function: str, prediction: Tensor, target: Tensor) -> Tensor:
    _check.floating(function, prediction=prediction, target=target)
    _check.same_shape(function, prediction=prediction, target=target)
    return prediction - target
