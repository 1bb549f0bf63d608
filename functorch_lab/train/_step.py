# SPDX-License-Identifier: Apache-2.0
"""A loss and an optimizer become one compiled step."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from functorch_lab import optim, random, tree
from functorch_lab.train._fuse import effective
from functorch_lab.train._state import TrainState, check_optimizer, check_state
from functorch_lab.transforms import jit, value_and_grad
from functorch_lab.types import GradientTransformation

_WHERE = "train.make_step"

Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def make_step(
    loss_fn: Callable[..., Any],
    optimizer: GradientTransformation,
    *,
    accumulate: int = 1,
    compute_dtype: torch.dtype | None = None,
    has_aux: bool = False,
    stateful: bool = False,
    donate: bool = True,
) -> Step:
    """Make the pure, compiled function that takes one optimizer step.

    The loss is a batch loss, `loss_fn(params, *batch)`, which gives a scalar
    (`mean_over_batch` makes one from a sample loss). If it takes `key` by keyword, as
    an argument of that name or in `**kwargs`, it gets a key of its own in every step:
    `fold_in(state.key, state.step)`, folded with the part's number when accumulating.

    Args:
        loss_fn: The loss. With `stateful`, it is called as
            `loss_fn(params, model_state, *batch)` and returns `(loss, model_state)`.
            With `has_aux`, it returns `(loss, aux)`, and with both
            `(loss, (model_state, aux))`.
        optimizer: The one that `init` got.
        accumulate: Cut each batch into that many equal parts and average their
            gradients, which takes less memory. For a loss that is a mean over the
            batch the step is the same. Leaves of aux must be scalars then: floating
            point ones are averaged, others added up. Model state goes from part to
            part.
        compute_dtype: Evaluate the loss with the floating point leaves of params and
            batch in this dtype; parameters, gradients and updates keep theirs.
        has_aux: Whether the loss returns more than itself, for the logs.
        stateful: Whether the model has a state.
        donate: Reuse the memory of the old state, which can't be used afterwards.

    Returns:
        `step(state, *batch) -> (state, logs)`. The logs are 0-d tensors: "loss", at
        the parameters before the update, "grad_norm", the Euclidean norm of the
        gradient over all leaves, and "aux" if there is one.

    Raises:
        TypeError: If `compute_dtype` is not a floating point dtype, or the optimizer
            not a GradientTransformation; in a call, if `state` is not a TrainState.
        ValueError: If `accumulate` < 1; in a call, if it does not divide the batch, or
            if the loss is not a scalar.

    Example:
        >>> import torch
        >>> from functorch_lab import optim, random, train
        >>> def loss_fn(params, x, y):
        ...     return ((params["w"] * x - y) ** 2).mean()
        >>> optimizer = optim.sgd(lr=0.25)
        >>> step = train.make_step(loss_fn, optimizer)
        >>> state = train.init(
        ...     {"w": torch.tensor(1.0)}, optimizer, key=random.key(0)
        ... )
        >>> state, logs = step(state, torch.tensor([2.0]), torch.tensor([6.0]))
        >>> logs["loss"].item(), logs["grad_norm"].item(), state.params["w"].item()
        (16.0, 16.0, 5.0)
    """
    _check_config(optimizer, accumulate, compute_dtype)
    takes_key = _takes_key(loss_fn)

    def call(params: Any, model_state: Any, key: Tensor, batch: Any) -> Any:
        if compute_dtype is not None:
            params, batch = tree.cast((params, batch), compute_dtype)
        states = (model_state,) if stateful else ()
        keywords = {"key": key} if takes_key else {}
        result = loss_fn(params, *states, *batch, **keywords)
        loss, new_state, aux = _unpack(result, model_state, stateful, has_aux)
        if compute_dtype is not None:
            new_state = tree.map(
                lambda new, old: new.to(old.dtype), new_state, model_state
            )
            loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
        return loss, (new_state, aux)

    def step(state: TrainState, *batch: Any) -> tuple[TrainState, dict[str, Any]]:
        check_state(_WHERE, state)
        # Only what is used is traced: a generator's rounds take seconds to compile.
        key = random.fold_in(state.key, state.step) if takes_key else state.key
        gradient = value_and_grad(call, has_aux=True)
        model_state, parts = state.model_state, []
        for i, part in enumerate(_cut(batch, accumulate)):
            folds = takes_key and accumulate > 1
            part_key = random.fold_in(key, i) if folds else key
            (loss, (model_state, aux)), grads = gradient(
                state.params, model_state, part_key, part
            )
            parts.append((loss, grads, aux))
        loss, grads, aux = parts[0] if accumulate == 1 else _average(parts)
        updates, opt_state = effective(optimizer, state.params).update(
            grads, state.opt_state, state.params
        )
        logs = {"loss": loss, "grad_norm": tree.norm(grads)}
        if has_aux:
            logs["aux"] = aux
        state = TrainState(
            step=state.step + 1,
            params=optim.apply_updates(state.params, updates),
            opt_state=opt_state,
            model_state=model_state,
            key=state.key,
        )
        return state, logs

    return jit(step, donate_argnums=(0,) if donate else ())


def _takes_key(loss_fn: Callable[..., Any]) -> bool:
    parameters = inspect.signature(loss_fn).parameters
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return ("key" in parameters and parameters["key"].kind in by_name) or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


def _unpack(
    result: Any, model_state: Any, stateful: bool, has_aux: bool
) -> tuple[Tensor, Any, Any]:
    # What the loss returned, as (loss, model state, aux).
    expected = ["loss"]
    if stateful or has_aux:
        inner = ["model_state"] * stateful + ["aux"] * has_aux
        expected.append(inner[0] if len(inner) == 1 else f"({', '.join(inner)})")
    form = ", ".join(expected)
    pair = isinstance(result, tuple) and len(result) == 2
    nested = pair and isinstance(result[1], tuple) and len(result[1]) == 2
    if len(expected) == 1 and isinstance(result, Tensor):
        loss, aux = result, ()
    elif pair and stateful and has_aux and nested:
        loss, (model_state, aux) = result
    elif pair and stateful and not has_aux:
        loss, model_state = result
        aux = ()
    elif pair and has_aux and not stateful:
        loss, aux = result
    else:
        got = "Tensor" if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(
            f"{_WHERE}: loss_fn: expected {form} to be returned, got {got}. Set "
            "has_aux and stateful as the loss returns."
        )
    loss = cast(Any, loss)
    if not isinstance(loss, Tensor) or loss.ndim:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"{_WHERE}: loss_fn: expected a scalar loss, shape (), got {got}. Return "
            "the mean over the batch, or wrap a sample loss in mean_over_batch."
        )
    return loss, model_state, aux


def _cut(batch: Any, parts: int) -> list[Any]:
    if parts == 1:
        return [batch]
    for path, leaf in zip(tree.paths(batch), tree.leaves(batch), strict=True):
        if leaf.ndim == 0 or leaf.shape[0] % parts:
            raise ValueError(
                f"{_WHERE}: batch at {path}: expected a leading axis divisible by "
                f"accumulate = {parts}, got shape {tuple(leaf.shape)}. Change the "
                "batch size."
            )

    def piece(leaf: Tensor, i: int) -> Tensor:
        size = leaf.shape[0] // parts
        return leaf[i * size : (i + 1) * size]

    return [tree.map(lambda leaf, i=i: piece(leaf, i), batch) for i in range(parts)]


def _average(parts: list[Any]) -> Any:
    # (loss, grads, aux) of the whole batch from those of its parts.
    for path, leaf in zip(
        tree.paths(parts[0][2]), tree.leaves(parts[0][2]), strict=True
    ):
        if leaf.ndim:
            raise ValueError(
                f"{_WHERE}: aux{path}: expected a scalar when accumulating, got "
                f"shape {tuple(leaf.shape)}. Reduce it over the batch in the loss."
            )

    def reduce(*leaves: Tensor) -> Tensor:
        total = leaves[0]
        for leaf in leaves[1:]:
            total = total + leaf
        return total / len(leaves) if total.is_floating_point() else total

    return tree.map(reduce, *parts)


def _check_config(
    optimizer: object, accumulate: int, compute_dtype: torch.dtype | None
) -> None:
    check_optimizer(_WHERE, optimizer)
    if isinstance(accumulate, bool) or not isinstance(accumulate, int):
        raise TypeError(
            f"{_WHERE}: accumulate: expected an int, got {accumulate!r}. Give the "
            "number of parts of a batch."
        )
    if accumulate < 1:
        raise ValueError(
            f"{_WHERE}: accumulate: expected at least 1, got {accumulate}. 1 takes "
            "each batch whole."
        )
    if compute_dtype is not None and not compute_dtype.is_floating_point:
        raise TypeError(
            f"{_WHERE}: compute_dtype: expected a floating point dtype, got "
            f"{compute_dtype}. Give e.g. torch.bfloat16."
        )
