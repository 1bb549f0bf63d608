# SPDX-License-Identifier: Apache-2.0
"""Scores that say which samples a model finds hard: for pruning, for wrong labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functorch_lab import tree
from functorch_lab.per_sample import _checks
from functorch_lab.per_sample._call import Method, Options, Part, Selected, Wrt, run
from functorch_lab.per_sample._frame import wide
from functorch_lab.per_sample._uses import chosen
from functorch_lab.transforms._flat import kind_of, name_of


@tree.dataclass
class Difficulty:
    """Scores of the samples of a batch, each `(B,)`; zero where a mask is False.

    Attributes:
        loss: the loss.
        grand: GraNd, the norm of the gradient of the loss, over all differentiated
            parameters. High is hard.
        el2n: EL2N, `|softmax(logits) - onehot(label)|`, in [0, sqrt(2)]. High is hard.
        margin: the logit of the label less the largest other. Low is hard.
        correct: whether the label has the largest logit, alone.
    """

    loss: Tensor
    grand: Tensor
    el2n: Tensor
    margin: Tensor
    correct: Tensor


def difficulty(
    loss_fn: Callable[..., Any],
    logits_fn: Callable[..., Any] | None = None,
    *,
    wrt: Wrt = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    has_aux: bool = False,
    keep_batch_axis: bool = False,
) -> Callable[..., Any]:
    """Loss, GraNd, EL2N and margin of each sample.

    `f(params, *batch, keys=None, mask=None)` gives a `Difficulty`. The last element of
    the batch is the label of each sample, integers `(B,)`. Where logits and labels come
    from:

    - `logits_fn(params, *inputs)` gives the logits `(classes,)` of one sample; it gets
      what `loss_fn` gets without the label, and no key: `difficulty(loss_fn,
      model.apply)(params, x, y)`. It is one more forward pass, not one more backward.
    - Without it, `loss_fn` returns `(loss, logits)`, with `has_aux=True`. If it returns
      `(loss, (logits, label))`, the batch need not end with the label, and may be a
      dict.
    - With neither, `el2n`, `margin` and `correct` are `()`.

    One model's scores are noisy. The definitions of GraNd and EL2N are expectations
    over independently initialised and shortly trained models (about ten, a few epochs):
    average the results over them, or over early checkpoints. GraNd of an untrained
    model does not find the important samples (Kirsch, 2303.14753). The model must treat
    samples apart: evaluate batch normalisation with its running statistics.

    Args:
        loss_fn: `loss_fn(params, *sample)`, the loss of one sample, a scalar.
        logits_fn: `logits_fn(params, *inputs)`, not normalised.
        wrt: which leaves are differentiated: a path pattern as `tree.select` takes it,
            or `wrt(path, leaf)`; by default all of floating point.
        method: "auto" and "factored" form no gradient where they need not; "vmap" forms
            all at once, "loop" one after another.
        chunk_size: how many samples are computed at once; all, if None.
        has_aux: `loss_fn` returns `(loss, logits)` or `(loss, (logits, label))`. With a
            `logits_fn` it may return anything beside the loss, and the result is
            `(Difficulty, aux)`.
        keep_batch_axis: each sample keeps a leading axis of size 1, and so has what
            these functions return.

    Returns:
        The function.

    Raises:
        TypeError: an argument is no function; labels that are no integers, such as soft
            labels or one-hot rows; or as in `per_sample.norms`.
        ValueError: not one label or not one row of at least two logits for each sample;
            or as in `per_sample.norms`. A label outside [0, classes) raises torch's own
            `RuntimeError` ("index ... is out of bounds"), on CUDA a device-side
            assertion.

    Example:
        >>> import torch, functorch_lab as fl
        >>> def logits_fn(params, x):
        ...     return params["w"] * x
        >>> def loss_fn(params, x, y):
        ...     return fl.losses.cross_entropy(logits_fn(params, x), y)
        >>> params = {"w": torch.ones(2)}
        >>> x, y = torch.tensor([[0.0, 1.0986]]), torch.tensor([0])  # log 3
        >>> scores = fl.per_sample.difficulty(loss_fn, logits_fn)(params, x, y)
        >>> scores.el2n, scores.margin  # |(1/4, 3/4) - (1, 0)| = sqrt(2) * 3/4
        (tensor([1.0607]), tensor([-1.0986]))
        >>> scores.grand  # 3/4 * log 3
        tensor([0.8239])

    Source: Paul, Ganguli and Dziugaite, Deep Learning on a Data Diet: Finding Important
    Examples Early in Training (2021), definitions 2.1 and 2.2, arXiv 2107.07075.
    """
    options = Options(wrt, method, chunk_size, has_aux, keep_batch_axis)
    _checks.options("difficulty", loss_fn, options)
    if logits_fn is not None and not callable(logits_fn):
        raise TypeError(
            "per_sample.difficulty: logits_fn: expected a function, got "
            f"{kind_of(logits_fn)}. Write difficulty(loss_fn, model.apply)."
        )

    def difficulty_fn(
        params: Any, *batch: Any, keys: Tensor | None = None, mask: Tensor | None = None
    ) -> Any:
        call, given = loss_fn, options
        label: Any = batch[-1] if batch else None
        if logits_fn is not None:
            size = _checks.batch("difficulty", batch, keys, mask)
            _check_label(label if len(batch) > 1 else None, size, options)
            call = _with_logits(loss_fn, logits_fn, params, options)
            given = options._replace(has_aux=True)
        arguments = (params, batch, keys, mask)
        pair, _, aux = run("difficulty", call, given, *arguments, _losses)
        loss, grand = pair
        if logits_fn is not None:
            aux, logits = aux
        elif isinstance(aux, tuple | list) and len(aux) == 2:
            logits, label = aux
        elif has_aux:
            logits = aux
        else:
            none: Any = ()
            return Difficulty(loss, grand, none, none, none)
        _check_label(label, loss.shape[0], options)
        label = label.reshape(-1).long()
        el2n, margin, correct = _scores(_rows(logits, options), label, mask)
        result = Difficulty(loss, grand, el2n, margin, correct)
        return (result, aux) if has_aux and logits_fn is not None else result

    return difficulty_fn


def _with_logits(
    loss_fn: Callable[..., Any],
    logits_fn: Callable[..., Any],
    params: Any,
    options: Options,
) -> Callable[..., Any]:
    """The loss with the logits as a part of its aux."""

    def call(stand_ins: Any, *sample: Any, **key: Any) -> Any:
        result = loss_fn(stand_ins, *sample, **key)
        loss, aux = result, ()
        if options.has_aux:
            loss, aux = _checks.loss("difficulty", loss_fn, result, options)
        # With the params themselves: the logits' derivatives are not wanted.
        return loss, (aux, logits_fn(params, *sample[:-1]))

    call.__name__ = name_of(loss_fn)
    return call


def _losses(part: Part, selected: Selected) -> tuple[Any, Any]:
    squares = [factor.squared_norm() for factor in part.factors]
    return (part.values, torch.as_tensor(sum(squares)).sqrt()), ()


def _check_label(label: Any, count: int, options: Options) -> None:
    if not isinstance(label, Tensor) or label.dtype not in _INTEGERS:
        got = kind_of(label) if isinstance(label, Tensor) else type(label).__name__
        raise TypeError(
            "per_sample.difficulty: label: expected integers, one for each sample, as "
            f"the last element of the batch, got {got}. These scores are of one class: "
            "pass y.argmax(-1) for soft or one-hot labels; let loss_fn return "
            "(loss, (logits, label)), with has_aux=True, for batches of another form."
        )
    if label.shape != (count,) and not (
        options.keep_batch_axis and label.shape == (count, 1)
    ):
        raise ValueError(
            f"per_sample.difficulty: label: expected shape ({count},), one label for "
            f"each sample, got {tuple(label.shape)}. A sample with several labels, as "
            "a sequence has, has no single margin; pass y.argmax(-1) for one-hot ones."
        )


def _rows(logits: Any, options: Options) -> Tensor:
    """The logits, `(B, classes)`, in float32 or better."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = kind_of(logits) if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(
            "per_sample.difficulty: logits: expected a floating-point tensor (classes,)"
            f" for each sample, got {got}. Return (loss, logits), or "
            "(loss, (logits, label)), with has_aux=True, or pass a logits_fn."
        )
    if options.keep_batch_axis and logits.ndim == 3 and logits.shape[1] == 1:
        logits = logits.squeeze(1)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            "per_sample.difficulty: logits: expected shape (classes,) with at least two"
            f" classes for each sample, got {tuple(logits.shape[1:])}. Give one row of "
            "logits for the sample as a whole."
        )
    return wide(logits)


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _scores(
    logits: Tensor, label: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """EL2N, margin, and whether the label is first."""
    if mask is not None:
        label = torch.where(mask, label, 0)  # padding may have labels of no class
    own = logits.gather(1, label.unsqueeze(1)).squeeze(1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    is_label = classes == label.unsqueeze(1)
    others = torch.where(is_label, float("-inf"), logits).amax(1)
    error = torch.softmax(logits, 1) - is_label.to(logits.dtype)
    scores = error.square().sum(1).sqrt(), own - others, own > others
    if mask is None:
        return scores
    el2n, margin, correct = [chosen(mask, score) for score in scores]
    return el2n, margin, correct
