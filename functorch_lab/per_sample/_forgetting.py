# SPDX-License-Identifier: Apache-2.0
"""How often a sample that was classified right is classified wrong later."""

from __future__ import annotations

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample._accumulator import Accumulator
from functorch_lab.transforms._flat import kind_of


@tree.dataclass
class Forgetting:
    """What became of each of n samples in the course of a training.

    Attributes:
        events: `(n,)`, how often it went from right to wrong.
        presentations: `(n,)`, in how many updates it was.
        learnt: `(n,)`, whether it was right at least once. A sample that never was has
            no events, and yet is the hardest.
        score: `(n,)`, for ranking: the events; infinite if it was never learnt, NaN if
            it was never presented.
    """

    events: Tensor
    presentations: Tensor
    learnt: Tensor
    score: Tensor


@tree.dataclass
class ForgettingState:
    """For each sample: events, presentations, ever right, right the last time."""

    events: Tensor
    presentations: Tensor
    learnt: Tensor
    right: Tensor


def forgetting() -> Accumulator:
    """Counts forgetting events over a training: right at one time, wrong at the next.

    - `state = init(n, device=None)` for a data set of n samples.
    - `state = update(state, indices, correct, mask=None)` with the positions in the
      data set of a batch's samples, integers `(B,)` in [0, n), and whether each is
      classified right, bools `(B,)`, such as `difficulty`'s `correct`; in the paper by
      the model before the step that learns from the batch. A sample that stands in one
      batch several times counts once, as right if it is right everywhere.
    - `state = merge(a, b)` for two devices that see different samples.
    - `result = compute(state)`, a `Forgetting`.

    An index outside [0, n) raises torch's own `RuntimeError` ("index ... is out of
    bounds"), on CUDA a device-side assertion.

    Returns:
        The accumulator. `update` takes time in proportion to n.

    Raises:
        TypeError: indices that are no integers, or `correct` or a mask that are no
            bools.
        ValueError: they are not of one shape `(B,)`; n is below 1; or merged states are
            of different n.

    Example:
        >>> import torch, functorch_lab as fl
        >>> tool = fl.per_sample.forgetting()
        >>> state, everyone = tool.init(3), torch.arange(3)
        >>> for row in ([1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]):
        ...     state = tool.update(state, everyone, torch.tensor(row).bool())
        >>> tool.compute(state).score  # forgotten twice, never, never learnt
        tensor([2., 0., inf])

    Source: Toneva et al., An Empirical Study of Example Forgetting during Deep Neural
    Network Learning (2019), section 3 and algorithm 1, arXiv 1812.05159.
    """
    return Accumulator(_init, _update, _merge, _compute)


def _init(n: int, device: torch.device | str | None = None) -> ForgettingState:
    if not isinstance(n, int) or n < 1:
        raise ValueError(
            f"per_sample.forgetting.init: n: expected the number of samples, got {n!r}."
            " Write init(len(x))."
        )
    numbers = torch.zeros(n, dtype=torch.int64, device=device)
    flags = torch.zeros(n, dtype=torch.bool, device=device)
    return ForgettingState(numbers, numbers.clone(), flags, flags.clone())


def _update(
    state: ForgettingState, indices: Tensor, correct: Tensor, mask: Tensor | None = None
) -> ForgettingState:
    _check(indices, correct, mask)
    keep = torch.ones_like(correct) if mask is None else mask
    indices = torch.where(keep, indices, 0).long()
    # Counted in 32 bits, which every device can add in parallel.
    zeros = torch.zeros_like(state.events, dtype=torch.int32)
    seen = zeros.scatter_add(0, indices, keep.int()) > 0
    wrong = zeros.scatter_add(0, indices, (keep & ~correct).int()) > 0
    right = seen & ~wrong
    return ForgettingState(
        state.events + (state.right & wrong),
        state.presentations + seen,
        state.learnt | right,
        torch.where(seen, right, state.right),
    )


def _check(indices: object, correct: object, mask: object) -> None:
    found = {"indices": indices, "correct": correct}
    if mask is not None:
        found["mask"] = mask
    for name, value in found.items():
        whole = name == "indices"
        kinds = (torch.int64, torch.int32) if whole else (torch.bool,)
        if not isinstance(value, Tensor) or value.dtype not in kinds:
            wanted = "integers" if whole else "bools"
            remedy = "Write torch.arange(n)[batch]" if whole else "Convert it: .bool()"
            raise TypeError(
                f"per_sample.forgetting.update: {name}: expected a tensor of {wanted}, "
                f"one for each sample, got {kind_of(value)}. {remedy}."
            )
        if value.ndim != 1 or value.shape != getattr(indices, "shape", None):
            raise ValueError(
                f"per_sample.forgetting.update: {name}: expected shape (B,), that of "
                f"the indices, got {tuple(value.shape)}. Give one for each sample."
            )


def _merge(a: ForgettingState, b: ForgettingState) -> ForgettingState:
    tree.check_same_structure(
        a,
        b,
        what="per_sample.forgetting.merge",
        names=("a", "b"),
        remedy="Merge states that init made for the same n.",
    )
    return ForgettingState(
        a.events + b.events,
        a.presentations + b.presentations,
        a.learnt | b.learnt,
        a.right | b.right,
    )


def _compute(state: ForgettingState) -> Forgetting:
    score = state.events.to(torch.get_default_dtype())
    score = torch.where(state.learnt, score, float("inf"))
    score = torch.where(state.presentations > 0, score, float("nan"))
    return Forgetting(state.events, state.presentations, state.learnt, score)
