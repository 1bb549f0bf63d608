# SPDX-License-Identifier: Apache-2.0
"""When an optimizer runs on one buffer instead of one per parameter."""

from functorch_lab import optim, tree
from functorch_lab.types import GradientTransformation, Params

# Compiling takes time in proportion to the number of kernels, one per leaf: 150 leaves
# of 4096 numbers take 92 s by leaf and 5 s joined, and run nine times as fast. With
# few leaves there is nothing to gain, and joining large ones costs a copy.
_MANY = 24
_SMALL = 2**16


def effective(
    optimizer: GradientTransformation, params: Params
) -> GradientTransformation:
    """The transformation that `init` and `make_step` use for these parameters.

    Both ask here, with the same answer for the same shapes, so that a state always
    fits its step.
    """
    leaves = [leaf for leaf in tree.leaves(params) if leaf.is_floating_point()]
    small = sum(leaf.numel() for leaf in leaves) <= _SMALL * len(leaves)
    if len(leaves) < _MANY or not small:
        return optimizer
    if optim.is_elementwise(optimizer):
        return optim.fused(optimizer)
    # A wrapper that keeps a tree of its own says how to join what is inside it.
    joined = getattr(optimizer.update, "joined", None)
    return optimizer if joined is None else joined()
