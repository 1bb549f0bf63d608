# SPDX-License-Identifier: Apache-2.0
"""Whether the outputs for one sample depend on the others of its batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.transforms._flat import kind_of, name_of

# A change of so many roundings of the largest number of an output is no rounding.
_ROUNDINGS = 100


@dataclasses.dataclass(frozen=True)
class Independence:
    """What moves with what.

    Attributes:
        independent: whether no sample moves another's outputs.
        pairs: `(changed, moved)`: samples that move, with the one that was changed.
        paths: the outputs that move, by path.
    """

    pairs: tuple[tuple[int, int], ...]
    paths: tuple[str, ...]

    @property
    def independent(self) -> bool:
        return not self.pairs

    def __str__(self) -> str:
        if self.independent:
            return "The samples are independent: none moves the outputs of another."
        changed, moved = self.pairs[0]
        return (
            f"The samples mix: {len(self.pairs)} pairs, at output "
            f"{', '.join(path or 'itself' for path in self.paths)}. A change of sample "
            f"{changed} moves sample {moved}. The loss of such a batch has no gradient "
            "for each sample: put batch norm in eval mode or convert it with "
            "nn.from_module(model, batch_norm=...), and take out of the loss what "
            "compares samples."
        )


@_checks.curried
def check_independent(batch_fn: Callable[..., Any]) -> Callable[..., Independence]:
    """Finds out whether a function of a batch mixes its samples.

    Gradients per sample exist only where it does not. Batch norm in training, losses
    that contrast samples and the balancing of a mixture of experts do. Samples are
    changed and it is seen which others move: a half of the batch at a time, and one
    after another where some do. Integers are replaced by another sample's, numbers of
    floating point by others of their size. A function may mix in ways that this does
    not show, as where it compares labels that are all the same.

    Args:
        batch_fn: `batch_fn(params, *batch)` returns a tree whose leaves have a leading
            axis of samples: outputs or losses, not their mean.

    Returns:
        A function `check_fn(params, *batch)` that returns an `Independence`, with
        `.independent`, `.pairs` and `.paths`; as text it says what to do.

    Raises:
        RuntimeError: the same batch gives other outputs the second time; it is called
            inside `jit` or another transform.
        TypeError: `batch_fn` is no function, the batch or an output no tensor.
        ValueError: leaves of the batch differ in length, there are fewer than two
            samples, or an output has no axis of samples.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> x = torch.tensor([[3.0], [5.0], [8.0]])
        >>> per_sample.check_independent(lambda w, x: w * x)(2.0, x).independent
        True
        >>> result = per_sample.check_independent(lambda w, x: w * x.cumsum(0))(2.0, x)
        >>> result.pairs
        ((0, 1), (0, 2), (1, 2))
    """
    where = "per_sample.check_independent"
    if not callable(batch_fn):
        raise TypeError(
            f"{where}: batch_fn: expected a function, got {kind_of(batch_fn)}. "
            f"Write {where}(batch_fn)(params, x, y)."
        )

    def check_fn(params: Any, *batch: Any) -> Independence:
        _checks.outermost("check_independent", "numbers")
        size = _checks.batch("check_independent", batch, None, None)
        if size == 1:
            raise ValueError(
                f"{where}: batch: expected at least two samples, got 1. Pass a batch "
                "of a few."
            )

        def outputs(chosen: list[int]) -> list[Tensor]:
            changed = tree.map(lambda leaf: _changed(leaf, chosen), batch)
            with torch.no_grad():
                result = batch_fn(params, *changed)
            _check_outputs(where, batch_fn, result, size)
            names[:] = tree.paths(result)
            return tree.leaves(result)

        names: list[str] = []
        before = outputs([])
        if any(bool(m.any()) for m in _moves(before, outputs([]))):
            raise RuntimeError(
                f"{where}: {name_of(batch_fn)}: expected the same outputs for the same "
                "batch, got others the second time. Draw random numbers from a fixed "
                "key, and update no state."
            )
        pairs: set[tuple[int, int]] = set()
        moved: set[str] = set()
        if any(
            bool(move[_others(half, size)].any())
            for half in _halves(size)
            for move in _moves(before, outputs(half))
        ):
            for i in range(size):
                for name, move in zip(names, _moves(before, outputs([i])), strict=True):
                    found = [j for j in _others([i], size) if bool(move[j])]
                    pairs.update((i, j) for j in found)
                    moved.update([name] if found else [])
        return Independence(tuple(sorted(pairs)), tuple(sorted(moved)))

    return check_fn


def _halves(size: int) -> list[list[int]]:
    """Halves such that of any two samples one is in one of them without the other."""
    bits = (size - 1).bit_length()
    return [
        [i for i in range(size) if i >> bit & 1 == value]
        for bit in range(bits)
        for value in (0, 1)
    ]


def _others(chosen: list[int], size: int) -> list[int]:
    return [i for i in range(size) if i not in chosen]


def _changed(leaf: Tensor, chosen: list[int]) -> Tensor:
    """The samples of `chosen` replaced by those that follow, and moved if they can."""
    if not chosen:
        return leaf
    other = leaf.roll(-1, 0)
    if leaf.is_floating_point():  # its numbers at other places, scaled and shifted
        other = other.reshape(len(other), -1).roll(1, 1).reshape(other.shape)
        other = 1.25 * other + 0.125
    changed = leaf.clone()
    changed[chosen] = other[chosen]
    return changed


def _moves(before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    """Of each output, which samples moved, `(B,)`."""
    return [_moved(a, b) for a, b in zip(before, after, strict=True)]


def _moved(before: Tensor, after: Tensor) -> Tensor:
    same = before == after
    if before.is_floating_point():
        finite = before.abs().nan_to_num(posinf=0.0)
        close = _ROUNDINGS * torch.finfo(before.dtype).eps * finite.max()
        same = same | (before.isnan() & after.isnan())
        same = same | ((before - after).abs() <= close)
    return ~same.reshape(same.shape[0], -1).all(1)


def _check_outputs(
    where: str, batch_fn: Callable[..., Any], result: Any, size: int
) -> None:
    for path, leaf in zip(tree.paths(result), tree.leaves(result), strict=True):
        name = f"{where}: {name_of(batch_fn)}: output{path}"
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"{name}: expected a tensor with a leading axis of samples, got "
                f"{kind_of(leaf)}. Return tensors only."
            )
        if leaf.ndim == 0 or leaf.shape[0] != size:
            raise ValueError(
                f"{name}: expected a leading axis of {size} samples, got "
                f"{kind_of(leaf)}. Return one output for each sample, not their mean."
            )
