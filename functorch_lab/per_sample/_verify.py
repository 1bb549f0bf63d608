# SPDX-License-Identifier: Apache-2.0
"""Per-sample gradients against one backward pass for each sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import (
    Options,
    Selected,
    Wrt,
    collected_by,
    sample_loss,
)
from functorch_lab.per_sample._collect import Batch, SampleLoss
from functorch_lab.per_sample._frame import wide
from functorch_lab.transforms._flat import name_of

# Relative to the norm of a sample's gradient.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
_HALF = 0.05


@dataclasses.dataclass(frozen=True)
class Check:
    """The largest errors over the samples, relative to the norm of the leaf's gradient.

    Attributes:
        grads: by path of the parameter, of the gradients.
        norms: by path of the parameter, of their norms.
        tolerances: by path of the parameter, what is allowed.
    """

    grads: dict[str, float]
    norms: dict[str, float]
    tolerances: dict[str, float]

    def __str__(self) -> str:
        lines = ["parameter  error of gradients  error of norms  tolerance"]
        lines += [
            f"{path or 'params'}  {error:.1e}  {self.norms[path]:.1e}  "
            f"{self.tolerances[path]:.0e}"
            for path, error in self.grads.items()
        ]
        return "\n".join(lines)


@_checks.curried
def check(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
    tolerance: float | None = None,
) -> Callable[..., Check]:
    """Compares factored gradients with one backward pass of autograd for each sample.

    For a test of your own model: a handful of samples, in float64 where it can.

    Args:
        loss_fn: `loss_fn(params, *sample)`, or `loss_fn(params, *sample, key=key)`;
            returns a 0-d tensor.
        wrt: which parameters, as in `norms`.
        has_aux: `loss_fn` returns `(loss, aux)`.
        keep_batch_axis: each sample keeps a leading axis of size 1.
        tolerance: the largest error, relative to the norm of a sample's gradient with
            respect to the leaf; by the leaf's dtype if None: 1e-10 for float64, 1e-5
            for float32, 0.05 for half precision. A leaf whose gradient is but rounding
            is measured by the rounding of the whole gradient.

    Returns:
        A function `check_fn(params, *batch, keys=None)` that returns a `Check`, with
        the errors of each leaf.

    Raises:
        AssertionError: an error is above the tolerance, or not finite; the leaf and
            the sample are named.
        RuntimeError: it is called inside `jit` or another transform.
        TypeError: as `norms`.
        ValueError: as `norms`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda w, x: torch.nn.functional.linear(x, w).square().sum()
        >>> check = per_sample.check(loss_fn)
        >>> result = check(torch.ones(3, 2), torch.tensor([[3.0, 4.0], [1.0, 2.0]]))
        >>> result.grads, result.tolerances
        ({'': 0.0}, {'': 1e-05})
    """
    options = Options(wrt, "auto", None, has_aux, keep_batch_axis)
    _checks.options("check", loss_fn, options)

    def check_fn(params: Any, *batch: Any, keys: Tensor | None = None) -> Check:
        _checks.outermost("check", "numbers")
        _checks.batch("check", batch, keys, None)
        selected = Selected("check", params, wrt)
        every = Batch(batch, keys, None)
        loss = sample_loss("check", loss_fn, options, selected)
        expected = [wide(g) for g in _loop(loss, selected.leaves, every)]
        found = collected_by("check", loss_fn, options, selected, every)
        whole = torch.stack([_flat(g).norm(dim=1) for g in expected]).norm(dim=0)
        result = Check({}, {}, {})
        for i, path in enumerate(selected.names):
            allowed = tolerance or TOLERANCES.get(selected.leaves[i].dtype, _HALF)
            wanted = _flat(expected[i]).norm(dim=1)
            floor = 8 * torch.finfo(wanted.dtype).eps / allowed * whole
            scale = torch.maximum(wanted, floor.to(wanted.dtype))
            difference = _flat(found.factors[i].materialize() - expected[i])
            norms = found.factors[i].squared_norm().sqrt() - wanted
            grads_error = _relative(difference.norm(dim=1), scale)
            norms_error = _relative(norms.abs(), scale)
            result.grads[path] = grads_error.max().item()
            result.norms[path] = norms_error.max().item()
            result.tolerances[path] = allowed
            _assert_below(loss_fn, path, "gradient", grads_error, allowed)
            _assert_below(loss_fn, path, "norm", norms_error, allowed)
        return result

    return check_fn


def _loop(loss: SampleLoss, leaves: list[Tensor], batch: Batch) -> list[Tensor]:
    """Gradients `(B, *leaf)` of all leaves, by torch.autograd alone."""
    found: list[tuple[Tensor, ...]] = []
    with torch.enable_grad():
        for i in range(batch.size()):
            variables = [leaf.detach().requires_grad_() for leaf in leaves]
            sample, *key = tree.map(lambda leaf, i=i: leaf[i], batch.mapped())
            value, _ = loss(variables, sample, key[0] if key else None)
            if not value.requires_grad:
                found.append(tuple([torch.zeros_like(leaf) for leaf in leaves]))
                continue
            found.append(
                torch.autograd.grad(
                    value, variables, allow_unused=True, materialize_grads=True
                )
            )
    return [torch.stack(column) for column in zip(*found, strict=True)]


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)


def _relative(difference: Tensor, scale: Tensor) -> Tensor:
    return torch.where(difference == 0, 0.0, difference / scale)


def _assert_below(
    loss_fn: Callable[..., Any], path: str, what: str, errors: Tensor, allowed: float
) -> None:
    worst = int(errors.argmax())
    if not errors[worst].item() <= allowed:  # nor if it is not a number
        raise AssertionError(
            f"per_sample.check: {name_of(loss_fn)}: params{path}: expected the {what} "
            f"of each sample within {allowed:.0e} of one backward pass each, got a "
            f"relative error of {errors[worst].item():.1e} at sample {worst}. Check "
            "that the loss is a pure function with finite gradients; if it is, pass "
            "method='vmap' and report it."
        )
