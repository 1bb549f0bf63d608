# SPDX-License-Identifier: Apache-2.0
"""Rules of the operations that multiply by a matrix of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample._contraction import Labels, Product, product
from functorch_lab.per_sample._follow import Tracked
from functorch_lab.per_sample._frame import Frame, View
from functorch_lab.per_sample._tape import Build, Rule, Tape, rule_for
from functorch_lab.per_sample._uses import DensePair, Direct


def dense(frame: Frame) -> Build:
    """The use of `y = x W^T`: rows from the gradient at `y`, columns from `x`."""

    def build(delta: Tensor, x: Tensor) -> DensePair:
        samples = delta.shape[0]
        left = delta.reshape(samples, 1, -1, delta.shape[-1])
        right = x.reshape(samples, 1, -1, x.shape[-1])
        return DensePair(left, right, frame)

    return build


def summed(delta: Tensor, *_: Tensor) -> Direct:
    """The use of a bias that is added along the last axis."""
    return Direct(delta.reshape(delta.shape[0], -1, delta.shape[-1]).sum(1))


def added(view: View, shape: tuple[int, ...], scale: Any = 1) -> Build:
    """The use of a term of this shape that is broadcast to the output."""
    frame = view.frame((), (), tuple(range(len(shape))))

    def build(delta: Tensor, *_: Tensor) -> Direct:
        samples, ahead = delta.shape[0], delta.ndim - len(shape)
        total = delta.reshape(samples, -1, *delta.shape[ahead:]).sum(1)
        narrow = [a + 1 for a, n in enumerate(shape) if n == 1]
        if narrow:
            total = total.sum(narrow)
        if scale != 1:
            total = total * scale
        return Direct(frame.place(total.reshape(samples, 1, 1, -1)))

    return build


def bias_uses(
    tape: Tape, bias: Any, scale: Any = 1
) -> tuple[Any, list[tuple[int, Build]]]:
    """What to compute with in place of a bias, and its use if it is a parameter."""
    found = tape.find(bias)
    if found is None:
        return bias, []
    build = added(found.view, tuple(found.parameter.shape), scale)
    return found.parameter, [(found.view.index, build)]


def as_autocast(*tensors: Any) -> list[Any]:
    """What autocast gives a product; under vmap it overlooks those with a sum."""
    kinds = [x.device.type for x in tensors if isinstance(x, Tensor)]
    if not torch.is_autocast_enabled(kinds[0]):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kinds[0])
    return [
        x.to(dtype)
        if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
        else x
        for x in tensors
    ]


@rule_for("linear")
def linear(
    tape: Tape,
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Any = None,
) -> Any:
    matrix = tape.find(weight)
    if 0 in input.shape or 0 in weight.shape:
        return None
    term, builds = bias_uses(tape, bias)
    if tape.find(input) is not None or weight.ndim != 2:
        last = input.ndim - 1
        columns: Labels = ["row", last] if weight.ndim == 2 else [last]
        labels = Product(
            list(range(input.ndim)), columns, [*range(last), *columns[:-1]]
        )

        def compute(x: Tensor, w: Tensor) -> Tensor:
            return F.linear(*as_autocast(x, w, term))

        return product(tape, input, weight, labels, compute, builds=builds)
    kept: tuple[Tensor, ...] = ()
    if matrix is not None:
        weight, kept = matrix.parameter, (input,)
        builds.insert(0, (matrix.view.index, _matrix_use(matrix, transposed=False)))
    if not builds:
        return None
    output = F.linear(*as_autocast(input, weight, term))
    return tape.probed(output, kept, builds)


def _matrix_use(matrix: Tracked, *, transposed: bool) -> Build:
    rows, columns = ((1,), (0,)) if transposed else ((0,), (1,))
    return dense(matrix.view.frame((), rows, columns))


def _matmul_rule(compute: Callable[..., Tensor]) -> Rule:
    """The rule of a function that multiplies matrices."""

    def rule(
        tape: Tape,
        input: Any,  # noqa: A002 - torch's name
        *others: Any,
        **named: Any,
    ) -> Any:
        given = [*others, *named.values()]
        if len(given) != 1 or not all(name in _SECOND for name in named):
            return None
        return multiplied(tape, compute, input, given[0])

    return rule


_SECOND = ("other", "tensor2", "mat2", "vec")


def multiplied(
    tape: Tape, compute: Callable[..., Tensor], left: Any, right: Any
) -> Tensor | None:
    """The output of `compute(left, right)`, a product as `torch.matmul` has it."""
    tensors = isinstance(left, Tensor) and isinstance(right, Tensor)
    if not tensors or not left.ndim or not right.ndim:
        return None
    matrix = tape.find(right)
    if matrix is None or right.ndim != 2 or tape.find(left) is not None:
        labels = _matmul_labels(left.ndim, right.ndim)
        return product(tape, left, right, labels, compute)
    if 0 in left.shape or 0 in right.shape:
        return None
    build = _matrix_use(matrix, transposed=True)
    output = compute(left, matrix.parameter)
    return tape.probed(output, (left,), [(matrix.view.index, build)])


def _matmul_labels(left: int, right: int) -> Product:
    """For a product of tensors of so many axes, those ahead counted from behind."""
    first: Labels = [*range(2 - left, 0), "row", "inner"]
    second: Labels = [*range(2 - right, 0), "inner", "column"]
    if left == 1:
        first = ["inner"]
    if right == 1:
        second = ["inner"]
    ahead = [*range(2 - max(left, right), 0)]
    output: Labels = [*ahead, *(["row"] if left > 1 else [])]
    return Product(first, second, [*output, *(["column"] if right > 1 else [])])


def _sum_rule(
    compute: Callable[..., Tensor], names: tuple[str, str], labels: Product
) -> Rule:
    """The rule of `beta * input + alpha * (left @ right)`."""

    def rule(
        tape: Tape,
        input: Any,  # noqa: A002 - torch's name
        *factors: Any,
        beta: Any = 1,
        alpha: Any = 1,
        **named: Any,
    ) -> Any:
        given = [*factors, *[named[name] for name in names if name in named]]
        if len(given) != 2 or len(factors) + len(named) != 2:
            return None
        left, right = given
        term, builds = bias_uses(tape, input, beta)

        def computed(left: Tensor, right: Tensor) -> Tensor:
            tensors = (term, left, right)
            if compute is not torch.addmv:  # which autocast leaves alone
                tensors = as_autocast(*tensors)
            return compute(*tensors, beta=beta, alpha=alpha)

        return product(tape, left, right, labels, computed, alpha, builds)

    return rule


for _name, _compute in {
    "matmul": torch.matmul,
    "__matmul__": torch.matmul,
    "linalg_matmul": torch.matmul,
    "mm": torch.mm,
    "mv": torch.mv,
    "bmm": torch.bmm,
}.items():
    rule_for(_name)(_matmul_rule(_compute))


@rule_for("__rmatmul__")
def reflected(tape: Tape, right: Any, left: Any) -> Any:
    return multiplied(tape, torch.matmul, left, right)


_batched = _matmul_labels(3, 3)
rule_for("addmm")(_sum_rule(torch.addmm, ("mat1", "mat2"), _matmul_labels(2, 2)))
rule_for("addmv")(_sum_rule(torch.addmv, ("mat", "vec"), _matmul_labels(2, 1)))
rule_for("baddbmm")(_sum_rule(torch.baddbmm, ("batch1", "batch2"), _batched))
_batch_summed = _batched._replace(output=_batched.output[1:])
rule_for("addbmm")(_sum_rule(torch.addbmm, ("batch1", "batch2"), _batch_summed))
