# SPDX-License-Identifier: Apache-2.0
"""Inner products and cosines between the gradients of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from functorch_lab.per_sample import _checks, _cross
from functorch_lab.per_sample._call import (
    Contract,
    Method,
    Options,
    Part,
    Selected,
    Wrt,
    run,
)
from functorch_lab.per_sample._collect import Batch
from functorch_lab.per_sample._factor import total_squared_norm
from functorch_lab.transforms._flat import kind_of


@_checks.curried
def gram(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The inner products between the gradients of all samples: their Gram matrix.

    It is exactly symmetric, and its diagonal holds the squared norms. The gradients are
    not formed: for each parameter, whichever is cheaper of products between positions
    and of gradients in blocks of rows, in a buffer of bounded size.

    These are gradients of the loss. The neural tangent kernel is another matrix, of the
    gradients of the model's outputs.

    Args:
        loss_fn: as for `grads`.
        wrt: as for `grads`.
        method: as for `grads`.
        chunk_size: how many samples are computed at once, of either batch; all, if
            None. A block of the matrix is then computed at a time, and the gradients of
            a chunk anew for each of its blocks.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        The function `products_fn(params, *batch, keys=None, mask=None, other=None,
        other_keys=None, other_mask=None)`, called as that of `grads`. `other` is a
        second batch as a tuple, `other=(x, y)`. The function returns `(B, B)`, or
        `(B, number of others)`, in float32 or better; with `has_aux`, `(gram, aux)`,
        where aux is that of `batch`. Masked samples have rows and columns of zeros.

    Raises:
        TypeError: as `grads`; `other` is no tuple.
        ValueError: as `grads`; `other` has not as many elements as `batch`; keys are
            given for one of the batches alone; `other_keys` or `other_mask` are given
            without `other`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda w, x: (w * x).sum()
        >>> w, x = torch.ones(2), torch.tensor([[3.0, 4.0], [0.0, 5.0]])
        >>> per_sample.gram(loss_fn)(w, x)
        tensor([[25., 20.],
                [20., 25.]])
        >>> per_sample.gram(loss_fn)(w, x, other=(torch.tensor([[1.0, 0.0]]),))
        tensor([[3.],
                [0.]])

    Source: for layers with one position, Goodfellow, "Efficient Per-Example Gradient
    Computations", 2015, section 5, arXiv:1510.01799; products between positions as in
    Li, Tramer, Liang, Hashimoto, "Large Language Models Can Be Strong
    Differentially Private Learners", 2022, section 4, arXiv:2110.05679, with the
    positions of two samples.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    return _made("gram", loss_fn, options, lambda found: found.matrix)


@_checks.curried
def cosine_similarity(
    loss_fn: Callable[..., Any],
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """The cosines of the angles between the gradients of all samples.

    As `gram`, over the product of the norms: from -1 to 1, exactly 1 on the diagonal of
    one batch. A gradient of zero has no direction: its cosines are 0, that with itself
    too.

    Args:
        loss_fn: as for `grads`.
        wrt: as for `grads`.
        method: as for `grads`.
        chunk_size: as for `gram`.
        has_aux: as for `grads`.
        keep_batch_axis: as for `grads`.

    Returns:
        A function that is called as that of `gram` and returns as much.

    Raises:
        TypeError: as `gram`.
        ValueError: as `gram`.

    Example:
        >>> import torch
        >>> from functorch_lab import per_sample
        >>> loss_fn = lambda w, x: (w * x).sum()
        >>> w, x = torch.ones(2), torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, 0.0]])
        >>> per_sample.cosine_similarity(loss_fn)(w, x)
        tensor([[1.0000, 0.8000, 0.0000],
                [0.8000, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])

    Source: Fort, Nowak, Jastrzebski, Narayanan, "Stiffness: A New Perspective on
    Generalization in Neural Networks", 2019, arXiv:1901.09491, where it is the cosine
    stiffness.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    return _made("cosine_similarity", loss_fn, options, _cosines)


class Products(NamedTuple):
    """Inner products between the samples of one batch, or of two.

    Attributes:
        matrix: `(B1, B2)`.
        squares: the squared norms of both, where there are two.
        aux: of the first batch.
    """

    matrix: Tensor
    squares: tuple[Tensor, Tensor] | None
    aux: Any


def _made(
    where: str,
    loss_fn: Callable[..., Any],
    options: Options,
    finish: Callable[[Products], Tensor],
) -> Callable[..., Any]:
    _checks.options(where, loss_fn, options)

    def products_fn(
        params: Any,
        *batch: Any,
        keys: Tensor | None = None,
        mask: Tensor | None = None,
        other: tuple[Any, ...] | None = None,
        other_keys: Tensor | None = None,
        other_mask: Tensor | None = None,
    ) -> Any:
        first, second = Batch(batch, keys, mask), Batch(other, other_keys, other_mask)
        _check_other(where, first, second)
        call = _Call(where, loss_fn, options, params)
        found = call.within(first) if other is None else call.between(first, second)
        result = finish(found)
        return (result, found.aux) if options.has_aux else result

    return products_fn


class _Call(NamedTuple):
    """A loss and its parameters, to be run on batches."""

    where: str
    loss_fn: Callable[..., Any]
    options: Options
    params: Any

    def within(self, batch: Batch) -> Products:
        """Chunk by chunk, each with itself and with the samples behind it."""
        done = 0

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            nonlocal done
            begin, done = done, done + part.values.shape[0]
            block = _cross.within(part.factors)
            if done < batch.size():
                behind, _ = self._against(part, batch.rows(done, batch.size()))
                block = torch.cat([block, behind], 1)
            return F.pad(block, (begin, 0)), ()

        matrix, aux = self._run(self.where, batch, contract)
        return Products(_mirrored(matrix), None, aux)

    def between(self, batch: Batch, other: Batch) -> Products:
        other_squares = torch.zeros(())

        def contract(part: Part, selected: Selected) -> tuple[Any, Any]:
            nonlocal other_squares
            block, other_squares = self._against(part, other)
            return (block, total_squared_norm(part.factors)), ()

        (matrix, squares), aux = self._run(self.where, batch, contract)
        return Products(matrix, (squares, other_squares), aux)

    def _against(self, part: Part, batch: Batch) -> tuple[Tensor, Tensor]:
        """Products of a part's samples with a batch's, and the latter's squares."""

        def contract(other: Part, selected: Selected) -> tuple[Any, Any]:
            block = _cross.between(other.factors, part.factors)
            return (block, total_squared_norm(other.factors)), ()

        (block, squares), _ = self._run(f"{self.where}: other", batch, contract)
        return block.mT, squares

    def _run(self, where: str, batch: Batch, contract: Contract) -> tuple[Any, Any]:
        loss_fn, options, params = self.loss_fn, self.options, self.params
        found, _, aux = run(where, loss_fn, options, params, *batch, contract)
        return found, aux


def _mirrored(upper: Tensor) -> Tensor:
    """Symmetric, from what is on and above the diagonal, which is not below zero."""
    place = torch.arange(upper.shape[0], device=upper.device)
    row, column = place.unsqueeze(1), place
    matrix = torch.where(row <= column, upper, upper.mT)
    # Products of several uses of one leaf may add up to less than zero by rounding.
    return torch.where(row == column, matrix.clamp(min=0), matrix)


def _cosines(found: Products) -> Tensor:
    matrix = found.matrix
    if found.squares is not None:
        rows, columns = found.squares
        return _ratios(matrix, rows, columns)
    squares = matrix.diagonal()
    cosines = _ratios(matrix, squares, squares)
    own = torch.eye(squares.shape[0], dtype=torch.bool, device=matrix.device)
    return torch.where(own & (squares > 0) & squares.isfinite(), 1.0, cosines)


def _ratios(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Divided by both norms, zero where one is zero."""

    def divisor(squares: Tensor) -> Tensor:
        return torch.where(squares == 0, 1.0, squares).sqrt()

    return (matrix / (divisor(rows).unsqueeze(1) * divisor(columns))).clamp(-1, 1)


def _check_other(where: str, batch: Batch, other: Batch) -> None:
    name = f"per_sample.{where}"
    if other.leaves is None:
        for argument, given in (("keys", other.keys), ("mask", other.mask)):
            if given is not None:
                raise ValueError(
                    f"{name}: other_{argument}: expected None without other, got "
                    f"{kind_of(given)}. Pass other=(x, y) too."
                )
        return
    if not isinstance(other.leaves, tuple):
        raise TypeError(
            f"{name}: other: expected a tuple of what follows params, got "
            f"{kind_of(other.leaves)}. Write other=(x, y)."
        )
    if len(other.leaves) != len(batch.leaves):
        raise ValueError(
            f"{name}: other: expected {len(batch.leaves)} elements as in the batch, "
            f"got {len(other.leaves)}. Pass a second batch of the same loss."
        )
    if (batch.keys is None) != (other.keys is None):
        has, lacks = "keys", "other_keys"
        if batch.keys is None:
            has, lacks = lacks, has
        raise ValueError(
            f"{name}: {lacks}: expected keys, as there are {has}, got None. Pass one "
            "for each sample of either batch, or to neither."
        )
