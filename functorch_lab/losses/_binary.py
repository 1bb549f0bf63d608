# SPDX-License-Identifier: Apache-2.0
"""Two classes, one logit: elementwise losses."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from functorch_lab.losses import _check


def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy between `target` and `sigmoid(logits)`, in nats, elementwise.

    Args:
        logits: floating-point tensor of any shape, log-odds of class 1.
        target: probabilities of class 1, floating-point, of the same shape. Values
            outside [0, 1] are not looked for, as that would need a device sync.

    Returns:
        A tensor of that shape. Precise for logits of any size.

    Raises:
        ValueError: the shapes differ: `(n, 1)` and `(n,)` are not broadcast.
        TypeError: an argument is not a floating-point tensor (0/1 integer labels:
            `target.float()`).

    Example:
        >>> import torch, functorch_lab as fl
        >>> logits, target = torch.tensor([0.0, -100.0]), torch.tensor([1.0, 1.0])
        >>> fl.losses.binary_cross_entropy_with_logits(logits, target)
        tensor([  0.6931, 100.0000])
    """
    name = "binary_cross_entropy_with_logits"
    _check.floating(name, logits=logits, target=target)
    _check.same_shape(name, logits=logits, target=target)
    # Both terms are computed, instead of `softplus(logits) - target * logits`, whose
    # difference loses the digits of a small loss. `logsigmoid` would start all threads
    # for any size. Above the threshold softplus(x) is x, even for a float64.
    if_0, if_1 = softplus(logits, threshold=40), softplus(-logits, threshold=40)
    return target * if_1 + (1 - target) * if_0
