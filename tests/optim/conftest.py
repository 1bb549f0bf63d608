# SPDX-License-Identifier: Apache-2.0
"""Trees to optimise, and the loops that the optimizers are compared in."""

import pytest
import torch

from functorch_lab import optim, tree

STEPS = 100


def make_params(dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.float().to(dtype)  # the same numbers in every dtype

    return {"out": (draw(3), [draw(5, 2)]), "in": {"weight": draw(2, 7)}, "s": draw()}


def make_grads(steps=STEPS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(11)

    def draw(leaf):
        values = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        return (values * 1.7 + 0.3).float().to(dtype)

    return [tree.map(draw, make_params()) for _ in range(steps)]


def train(optimizer, params, grads, state=None):
    """The params after each step, and the last state."""
    state = optimizer.init(params) if state is None else state
    history = []
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optim.apply_updates(params, updates)
        history.append(params)
    return history, state


def train_torch(make, params, grads, scheduler=None):
    """The same loop with a torch.optim optimizer, and that optimizer."""
    leaves, treedef = tree.flatten(tree.map(lambda p: p.clone(), params))
    optimizer = make([leaf.requires_grad_() for leaf in leaves])
    after = scheduler(optimizer) if scheduler else None
    history = []
    for g in grads:
        for leaf, grad in zip(leaves, tree.leaves(g), strict=True):
            leaf.grad = grad.clone()
        optimizer.step()
        if after:
            after.step()
        history.append(tree.unflatten(treedef, [p.detach().clone() for p in leaves]))
    return history, [optimizer.state[leaf] for leaf in leaves]


@pytest.fixture
def lab():
    """The functions of this file."""

    class Lab:
        params = staticmethod(make_params)
        grads = staticmethod(make_grads)
        train = staticmethod(train)
        train_torch = staticmethod(train_torch)

        @staticmethod
        def close(got, expected, rtol=1e-12, atol=1e-14):
            assert tree.paths(got) == tree.paths(expected)
            got, expected = tree.leaves(got), tree.leaves(expected)
            torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)

    return Lab
