# SPDX-License-Identifier: Apache-2.0
"""Classification: losses that reduce the class axis, the last one."""

from __future__ import annotations

import torch
from torch import Tensor

from functorch_lab.losses import _check


def cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float | Tensor = 0.0
) -> Tensor:
    """Cross-entropy between `target` and `softmax(logits)`, in nats, per sample.

    A label outside [0, classes) never trains silently: in eager mode on the CPU it
    raises `ValueError`; compiled, or where `vmap` maps it, the gather that reads its
    logit raises `RuntimeError` ("index ... is out of bounds"); on CUDA it is a
    device-side assertion. There is no `ignore_index`: multiply the result by a mask.

    Args:
        logits: floating-point, shape `(..., classes)`, not normalised.
        target: integer labels of shape `(...)`, or probabilities of shape
            `(..., classes)`, floating-point (soft targets).
        label_smoothing: the share, in [0, 1], of the target that is spread evenly
            over all classes.

    Returns:
        A tensor of shape `(...)`; a scalar for one sample.

    Raises:
        ValueError: a shape does not fit, `label_smoothing` is outside [0, 1], or a
            label is no class.
        TypeError: logits that are not floating-point, or a boolean target.

    Example:
        >>> import torch, functorch_lab as fl
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 100.0]])  # log 2 = 0.6931
        >>> fl.losses.cross_entropy(logits, torch.tensor([1, 0]))
        tensor([  0.6931, 100.0000])

    Source of the smoothing: Szegedy et al., Rethinking the Inception Architecture
    (2015), section 7, arXiv 1512.00567.
    """
    _check.class_axis("cross_entropy", "logits", logits)
    _check.interval("cross_entropy", "label_smoothing", label_smoothing, 0.0, 1.0)
    log_probs = torch.log_softmax(logits, -1)
    if isinstance(target, Tensor) and target.is_floating_point():
        _check_soft("cross_entropy", "logits", logits, target)
        loss = -(target * log_probs).sum(-1)
    else:
        _check.labels("cross_entropy", "logits", logits, target)
        loss = -_at_label(log_probs, target)
    if not isinstance(label_smoothing, Tensor) and label_smoothing == 0:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * log_probs.mean(-1)


def nll(log_probs: Tensor, target: Tensor) -> Tensor:
    """The negative log-probability of the label, in nats, per sample.

    `cross_entropy(logits, target)` is `nll(log_softmax(logits), target)`.

    Args:
        log_probs: log-probabilities, floating-point, shape `(..., classes)`.
        target: integer labels of shape `(...)`; one outside [0, classes) raises as in
            `cross_entropy`.

    Returns:
        A tensor of shape `(...)`.

    Raises:
        ValueError: a shape does not fit, or a label is no class.
        TypeError: log-probabilities that are not floating-point, or labels that are.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.nll(torch.tensor([0.25, 0.75]).log(), torch.tensor(0))
        tensor(1.3863)
    """
    _check.class_axis("nll", "log_probs", log_probs)
    _check.labels("nll", "log_probs", log_probs, target)
    return -_at_label(log_probs, target)


def kl_div(log_probs: Tensor, target: Tensor, *, log_target: bool = False) -> Tensor:
    """Kullback-Leibler divergence KL(target || prediction), in nats, per sample.

    torch's order of arguments: the prediction first, and in log space, then the target,
    as probabilities unless `log_target`. Unlike torch's default the class axis is
    summed, not averaged.

    Args:
        log_probs: log-probabilities of the prediction, shape `(..., classes)`.
        target: probabilities of the same shape (log-probabilities with `log_target`);
            a class of probability 0 adds 0.
        log_target: whether `target` is in log space.

    Returns:
        A tensor of shape `(...)`.

    Raises:
        ValueError: the shapes differ, or there is no class axis.
        TypeError: an argument is not a floating-point tensor.

    Example:
        >>> import torch, functorch_lab as fl
        >>> prediction, target = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
        >>> fl.losses.kl_div(prediction.log(), target)  # log 2
        tensor(0.6931)

    Source: Kullback and Leibler, On Information and Sufficiency (1951), equation 2.6,
    doi:10.1214/aoms/1177729694.
    """
    _check.class_axis("kl_div", "log_probs", log_probs)
    _check.floating("kl_div", target=target)
    _check.same_shape("kl_div", log_probs=log_probs, target=target)
    if log_target:
        return (target.exp() * (target - log_probs)).sum(-1)
    return (torch.xlogy(target, target) - target * log_probs).sum(-1)


def hinge(scores: Tensor, target: Tensor, *, margin: float | Tensor = 1.0) -> Tensor:
    """The multi-class hinge loss: the worst violation of the margin, per sample.

    `max(0, margin + max over j != target of scores[j] - scores[target])`. For a binary
    score `s` with labels -1 and 1 the usual `max(0, 1 - label * s)` is
    `torch.relu(1 - label * s)`.

    Args:
        scores: floating-point, shape `(..., classes)`.
        target: integer labels of shape `(...)`; one outside [0, classes) raises as in
            `cross_entropy`.
        margin: by how much the label's score must exceed every other; above 0.

    Returns:
        A tensor of shape `(...)`.

    Raises:
        ValueError: a shape does not fit, `margin` is not above 0, or a label is no
            class.
        TypeError: scores that are not floating-point, or labels that are.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.hinge(torch.tensor([2.0, 5.0, 4.5]), torch.tensor(1))
        tensor(0.5000)

    Source: Crammer and Singer, On the Algorithmic Implementation of Multiclass
    Kernel-based Vector Machines (2001), equation 4, JMLR 2:265-292.
    """
    _check.class_axis("hinge", "scores", scores)
    _check.positive("hinge", "margin", margin)
    _check.labels("hinge", "scores", scores, target)
    classes = torch.arange(scores.shape[-1], device=scores.device)
    violations = margin + scores - _at_label(scores, target).unsqueeze(-1)
    return torch.where(classes == target.unsqueeze(-1), 0.0, violations).amax(-1)


def focal(logits: Tensor, target: Tensor, *, gamma: float | Tensor = 2.0) -> Tensor:
    """Cross-entropy that weighs each sample by `(1 - p) ** gamma`, per sample.

    `p` is the probability of the label, so that samples that are already right count
    for little; `gamma=0` is `cross_entropy`.

    Args:
        logits: floating-point, shape `(..., classes)`, not normalised.
        target: integer labels of shape `(...)`; one outside [0, classes) raises as in
            `cross_entropy`.
        gamma: the focusing exponent, 0 or above.

    Returns:
        A tensor of shape `(...)`, in nats.

    Raises:
        ValueError: a shape does not fit, `gamma` is below 0, or a label is no class.
        TypeError: logits that are not floating-point, or labels that are.

    Example:
        >>> import torch, functorch_lab as fl
        >>> fl.losses.focal(torch.zeros(2), torch.tensor(0))  # (1/2)^2 * log 2
        tensor(0.1733)

    Source: Lin et al., Focal Loss for Dense Object Detection (2017), equation 4,
    arXiv 1708.02002, with softmax in place of the sigmoid.
    """
    _check.class_axis("focal", "logits", logits)
    _check.interval("focal", "gamma", gamma, 0.0, float("inf"))
    _check.labels("focal", "logits", logits, target)
    log_p = _at_label(torch.log_softmax(logits, -1), target)
    # Kept above 0, where a power below 1 has an infinite derivative.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -(miss**gamma) * log_p


def _at_label(rows: Tensor, target: Tensor) -> Tensor:
    """The entry of each row at its label; unlike indexing, negative labels raise."""
    return rows.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)


def _check_soft(function: str, name: str, scores: Tensor, target: Tensor) -> None:
    if target.shape != scores.shape:
        hint = (
            "Convert integer labels with target.long()."
            if target.shape == scores.shape[:-1]
            else "The class axis is the last one."
        )
        raise ValueError(
            f"losses.{function}: target: expected probabilities of the shape of "
            f"{name}, {tuple(scores.shape)}, got {tuple(target.shape)} of "
            f"{target.dtype}. {hint}"
        )
