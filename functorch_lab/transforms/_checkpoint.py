# SPDX-License-Identifier: Apache-2.0
"""Memory for time: intermediate values are computed again where they are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import checkpoint as torch_checkpoint

from functorch_lab.transforms._carry import require_function
from functorch_lab.transforms._flat import name_of, wraps


def checkpoint(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; a gradient through it keeps its arguments only.

    What it computes on the way is computed again in the backward pass. Random numbers
    are the same again, because they come from keys. It takes effect in the outermost
    `grad` or `value_and_grad` (and under torch's own `backward`), eagerly and under
    `jit`, whatever is inside: `checkpoint(vmap(f))` saves memory, and so does
    `scan(checkpoint(f), ...)`. Inside `vmap`, `jvp`, `vjp`, a Jacobian, or a nested
    `grad`, it is the plain call: results and derivatives are right, and no memory is
    saved.

    Args:
        fn: a pure function, of any arguments, that takes no gradient itself.

    Returns:
        A function of the same arguments and results.

    Raises:
        TypeError: `fn` is no function.
        RuntimeError: `fn` itself takes a reverse-mode derivative, by `grad`, `vjp` or
            `jacrev`, in a call that takes effect.

    Example:
        >>> import torch, functorch_lab as fl
        >>> calls = []
        >>> def cube(x):
        ...     calls.append("cube")
        ...     return x * x * x
        >>> fl.grad(fl.checkpoint(cube))(torch.tensor(2.0)), len(calls)
        (tensor(12.), 2)

    Source: the semantics of `jax.checkpoint`; T. Chen, B. Xu, C. Zhang, C. Guestrin,
    Training Deep Nets with Sublinear Memory Cost, 2016, algorithm 1, arXiv:1604.06174.
    """
    require_function("checkpoint", "fn", fn)

    @wraps(fn)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        # A level of torch.func ends before the backward pass that would compute
        # again, so that it could not be computed there.
        if torch._C._are_functorch_transforms_active():
            return fn(*args, **kwargs)
        options: dict[str, Any] = {"use_reentrant": False}
        # No generator to rewind: random numbers come from keys.
        options["preserve_rng_state"] = False
        if torch.compiler.is_dynamo_compiling():
            options["context_fn"] = _policy
        try:
            return torch_checkpoint.checkpoint(fn, *args, **options, **kwargs)
        except RuntimeError as error:
            if "yet support saved tensor hooks" not in str(error):
                raise
            raise RuntimeError(
                f"checkpoint: {name_of(fn)}: expected a function that takes no "
                "gradient itself, got one with grad, vjp or jacrev inside. Put "
                "checkpoint around a part of what is differentiated there."
            ) from None

    return checkpointed


def _kept(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
    """What a compiled graph keeps: what it cannot compute again.

    That are operations that may draw from torch's generator, fused attention among
    them, whose result is small beside what it would take to write it out.
    """
    policy = torch_checkpoint.CheckpointPolicy
    draws = torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())
    return policy.MUST_SAVE if draws else policy.MUST_RECOMPUTE


# With a policy, unlike without, torch also tells neighbouring checkpoints apart, and
# keeps what goes from one to the next.
_policy = functools.partial(
    torch_checkpoint.create_selective_checkpoint_contexts, _kept
)
