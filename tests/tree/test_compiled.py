# SPDX-License-Identifier: Apache-2.0
"""Every function traces without a break and gives what it gives in eager mode."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from functorch_lab import tree
from trees import zoo

ZOO = zoo()
STRUCTURE = tree.structure(ZOO)
VECTOR, UNRAVEL = tree.ravel(ZOO)


def everything_by_leaf(t: Any) -> Any:
    kept, rest = tree.partition("*b*", t)
    t = tree.combine(kept, tree.scale(rest, 3.0))
    t = tree.at(t, "b.0").apply(torch.neg)
    t = tree.map_with_path(lambda path, x: 2 * x if "w" in path else x, t)
    t = tree.add_scaled(tree.mul(tree.sub(tree.add(t, t), t), t), 0.5, t)
    t = tree.where(tree.map(lambda x: x > 0, t), t, tree.clip(t, min=-2.0))
    return tree.copy(tree.cast(tree.to(t, "cpu"), torch.float64))


def everything_in_whole(t: Any) -> Any:
    leaves, treedef = tree.flatten(t)
    vector, unravel = tree.ravel(t)
    rows = tree.unstack(tree.stack([t, unravel(2 * vector)]))
    facts = (
        treedef == STRUCTURE,
        treedef.num_leaves,
        tree.paths(t),
        tree.describe(t),
        tree.size(t) + tree.nbytes(t),
    )
    tensors = (
        tree.unflatten(treedef, leaves[::-1]),
        tree.select(t, "*.w"),
        tree.vdot(t, rows[1]) + tree.norm(t),
        tree.equal(t, rows[0]) & tree.allclose(t, rows[0]),
        tree.zeros_like(t),
        tree.ones_like(t),
    )
    return facts, tensors


def made_outside(t: Any) -> Any:
    return UNRAVEL(3 * VECTOR), tree.unflatten(STRUCTURE, tree.leaves(t))


def derivatives(t: Any) -> Any:
    def loss(node: Any) -> torch.Tensor:
        changed = dataclasses.replace(node, weight=3 * node.weight)
        return tree.vdot(changed, node.replace(bias=tree.scale(node.bias, 2.0)))

    node = t["n"]
    batch = tree.stack([node, tree.scale(node, 2.0)])
    return torch.func.grad(loss)(node), torch.func.vmap(torch.func.grad(loss))(batch)


FUNCTIONS = [everything_by_leaf, everything_in_whole, made_outside, derivatives]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_equals_eager(function):
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    expected, got = function(ZOO), compiled(ZOO)
    # Types, key orders, strings and numbers by repr; values to full precision after.
    assert repr(got) == repr(expected)
    for x, y in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        if isinstance(x, torch.Tensor):
            assert_close(x, y, rtol=0, atol=0)


def test_leaves_come_in_the_same_order_when_compiled():
    def numbered(t: Any) -> Any:
        counter = iter(range(100))
        return tree.map(lambda x: x * 0 + next(counter), t)

    compiled = torch.compile(numbered, fullgraph=True, backend="eager")
    assert_close(tree.leaves(compiled(ZOO)), tree.leaves(numbered(ZOO)))


def test_a_mismatch_is_found_while_tracing():
    compiled = torch.compile(tree.add, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="Pass trees of the same structure"):
        compiled({"a": VECTOR}, {"b": VECTOR})


# Inductor's own import, on its first use in a process.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_inductor_compiles_arithmetic():
    def descend(params: Any, grads: Any) -> Any:
        return tree.add_scaled(params, -0.1, tree.scale(grads, 1 / tree.norm(grads)))

    compiled = torch.compile(descend, fullgraph=True)
    t = {"b": ZOO["b"], "n": ZOO["n"]}
    assert_close(tree.leaves(compiled(t, t)), tree.leaves(descend(t, t)))
