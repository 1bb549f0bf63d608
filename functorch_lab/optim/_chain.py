# SPDX-License-Identifier: Apache-2.0
"""One transformation after another."""

from __future__ import annotations

from typing import Any

from functorch_lab.optim._arguments import check_transformation
from functorch_lab.optim._elementwise import elementwise, is_elementwise
from functorch_lab.types import GradientTransformation


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Passes the gradients through transformations, from the first to the last.

    Its state is the tuple of their states. Elementwise if all members are.

    Raises:
        TypeError: a member that is no transformation.
        ValueError: in `update`, a state of another length.

    Examples:
        >>> import torch
        >>> import functorch_lab as fl
        >>> optimizer = fl.optim.chain(
        ...     fl.optim.clip_by_global_norm(1.0), fl.optim.sgd(lr=0.5)
        ... )
        >>> state = optimizer.init(torch.ones(2))
        >>> optimizer.update(torch.tensor([3.0, 4.0]), state)[0]
        tensor([-0.3000, -0.4000])
    """
    for transformation in transformations:
        check_transformation("optim.chain", transformation)

    def init(params: Any) -> tuple[Any, ...]:
        return tuple([member.init(params) for member in transformations])

    def update(
        grads: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        if not isinstance(state, tuple) or len(state) != len(transformations):
            raise ValueError(
                "optim.chain.update: state: expected a tuple of "
                f"{len(transformations)} states, got {_kind(state)}. "
                "Pass the state that this chain's init or update returned."
            )
        states = []
        for member, before in zip(transformations, state, strict=True):
            grads, after = member.update(grads, before, params, **extra)
            states.append(after)
        return grads, tuple(states)

    fits = all(is_elementwise(member) for member in transformations)
    return GradientTransformation(init, elementwise(update) if fits else update)


def _kind(state: Any) -> str:
    kind = type(state).__name__
    return f"a tuple of {len(state)}" if isinstance(state, tuple) else f"a {kind}"
