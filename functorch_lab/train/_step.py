# SPDX-License-Identifier: Apache-2.0
"""A loss and an optimizer become one compiled step."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from functorch_lab import optim, random, tree
from functorch_lab.train._fuse import effective
from functorch_lab.train._learning_rate import follow, lr_path
from functorch_lab.train._parts import average, check_mask, cut
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
    masked: bool = False,
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
        masked: The last element of each batch is a mask, bool of shape (batch,), as
            `data.batches(..., masked=True)` gives it, and the loss is called as
            `loss_fn(params, *batch, mask=mask)`: a mean over the samples where it is
            True, as `mean_over_batch` makes it. Parts of `accumulate` count by these
            samples. Without any in a batch the loss and its gradient are 0.
        donate: Reuse the memory of the old state, which can't be used afterwards.

    Returns:
        `step(state, *batch) -> (state, logs)`. The logs are 0-d tensors: "loss", at
        the parameters before the update, "grad_norm", the Euclidean norm of the
        gradient over all leaves, "lr", the learning rate of this update, if the
        optimizer's state holds exactly one, "samples", how many count in this batch,
        if `masked`, and "aux" if there is one.

    Raises:
        TypeError: If `loss_fn` is no function, `compute_dtype` not a floating point
            dtype, the optimizer not a GradientTransformation, or `masked` and the loss
            takes no mask; in a call, if `state` is not a TrainState, or the loss
            returns something else than its flags say.
        ValueError: If `accumulate` < 1; in a call, if it does not divide the batch, if
            the loss is not a floating point scalar, or if `masked` and there is no
            mask.

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
    _check_config(loss_fn, optimizer, accumulate, compute_dtype)
    takes_key = _takes(loss_fn, "key")
    lr_paths: list[tuple[str | int, ...]] = []
    if masked and not _takes(loss_fn, "mask"):
        raise TypeError(
            f"{_WHERE}: loss_fn: expected a function that takes mask by keyword, got "
            "one that does not. Wrap a sample loss in mean_over_batch, which does."
        )

    def call(params: Any, model_state: Any, key: Tensor, batch: Any) -> Any:
        if compute_dtype is not None:
            params, batch = tree.cast((params, batch), compute_dtype)
        states = (model_state,) if stateful else ()
        keywords = {"key": key} if takes_key else {}
        if masked:
            batch, keywords["mask"] = batch[:-1], batch[-1]
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
        if masked:
            check_mask(batch)
        if not lr_paths:  # once, before compiling: traced, the search takes seconds
            lr_paths.append(lr_path(state.opt_state))
        # Only what is used is traced: a generator's rounds take seconds to compile.
        key = random.fold_in(state.key, state.step) if takes_key else state.key
        gradient = value_and_grad(call, has_aux=True)
        model_state, parts, counts = state.model_state, [], []
        for i, part in enumerate(cut(batch, accumulate)):
            folds = takes_key and accumulate > 1
            part_key = random.fold_in(key, i) if folds else key
            (loss, (new_state, aux)), grads = gradient(
                state.params, model_state, part_key, part
            )
            parts.append((loss, grads, aux))
            if masked:
                counts.append(part[-1].sum())
                new_state = tree.where(counts[-1] > 0, new_state, model_state)
            model_state = new_state
        loss, grads, aux = average(parts, counts)
        updates, opt_state = effective(optimizer, state.params).update(
            grads, state.opt_state, state.params
        )
        logs = {"loss": loss, "grad_norm": tree.norm(grads)}
        if lr_paths[0] and (lr := follow(lr_paths[0], state.opt_state)).ndim == 0:
            # A copy: the next step reuses the state's memory if nothing else has it.
            logs["lr"] = lr.clone()
        if masked:
            logs["samples"] = sum(counts)
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


def _takes(loss_fn: Callable[..., Any], name: str) -> bool:
    if name == "mask":  # mean_over_batch takes one of its own, a key for what it wraps
        loss_fn = inspect.unwrap(loss_fn, stop=inspect.isfunction)
    try:
        signature = inspect.signature(loss_fn, follow_wrapped=name != "mask")
    except ValueError:  # what is not written in Python may have none
        return False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        (p.name == name and p.kind in by_name)
        or p.kind is inspect.Parameter.VAR_KEYWORD
        for p in signature.parameters.values()
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
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        got = type(loss).__name__
        if isinstance(loss, Tensor):
            got = f"{tuple(loss.shape)} {loss.dtype}"
        raise ValueError(
            f"{_WHERE}: loss_fn: expected a scalar loss, shape () and floating point, "
            f"got {got}. Return the mean over the batch, or wrap a sample loss in "
            "mean_over_batch."
        )
    return loss, model_state, aux


def _check_config(
    loss_fn: object, optimizer: object, accumulate: object, compute_dtype: object
) -> None:
    if not callable(loss_fn):
        raise TypeError(
            f"{_WHERE}: loss_fn: expected a function, got {type(loss_fn).__name__}. "
            "Give the loss itself, not its value."
        )
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
    is_dtype = isinstance(compute_dtype, torch.dtype)
    if compute_dtype is not None and not (is_dtype and compute_dtype.is_floating_point):
        raise TypeError(
            f"{_WHERE}: compute_dtype: expected a floating point dtype, got "
            f"{compute_dtype!r}. Give e.g. torch.bfloat16."
        )
