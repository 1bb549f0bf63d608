# SPDX-License-Identifier: Apache-2.0
"""The laws of the tree algebra, on random trees."""

import jax
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from functorch_lab import tree
from trees import tensors, trees

fast = settings(max_examples=60, deadline=None)


def same(a, b):
    """Bitwise equal, with types and key orders compared by Python itself."""
    left, right = tree.flatten(a), tree.flatten(b)
    assert repr(left[1]) == repr(right[1])
    assert_close(left[0], right[0], rtol=0, atol=0)


def shifted(structure):
    return tree.map(lambda x: x * 1.7 - 0.3, structure)


@fast
@given(trees())
def test_map_of_the_identity_is_the_identity(t):
    same(tree.map(lambda x: x, t), t)


@fast
@given(trees())
def test_map_of_a_composition_is_the_composition_of_maps(t):
    once = tree.map(lambda x: (x + 2) * 3, t)
    same(once, tree.map(lambda x: x * 3, tree.map(lambda x: x + 2, t)))


@fast
@given(trees())
def test_unflatten_undoes_flatten(t):
    leaves, treedef = tree.flatten(t)
    same(tree.unflatten(treedef, leaves), t)
    assert treedef.num_leaves == len(leaves) == len(tree.paths(t))


@fast
@given(trees(extra=False))
def test_order_of_leaves_is_that_of_jax(t):
    expected = jax.tree_util.tree_leaves(tree.map(id, t))
    assert [id(leaf) for leaf in tree.leaves(t)] == expected


@fast
@given(trees(extra=False))
def test_unflatten_gives_what_jax_gives(t):
    numbered = tree.unflatten(tree.structure(t), range(len(tree.leaves(t))))
    definition = jax.tree_util.tree_structure(t)
    assert numbered == jax.tree_util.tree_unflatten(
        definition, range(definition.num_leaves)
    )


@fast
@given(trees())
def test_every_path_leads_to_its_leaf(t):
    for path, leaf in zip(tree.paths(t), tree.leaves(t), strict=True):
        assert eval(f"t{path}") is leaf
        assert tree.at(t, path).get() is leaf


@fast
@given(trees(), st.integers(0, 6))
def test_combine_undoes_partition(t, modulus):
    kept, rest = tree.partition(lambda path, x: x.numel() % 7 > modulus, t)
    same(tree.combine(kept, rest), t)
    same(tree.combine(rest, kept), t)
    assert len(tree.leaves(kept)) + len(tree.leaves(rest)) == len(tree.leaves(t))
    assert all(leaf.numel() % 7 > modulus for leaf in tree.leaves(kept))


@fast
@given(trees())
def test_unravel_undoes_ravel(t):
    vector, unravel = tree.ravel(t)
    same(unravel(vector), t)
    assert vector.shape == (tree.size(t),)


@fast
@given(
    trees(leaves=st.one_of([tensors(d) for d in (torch.float16, torch.bfloat16)])),
)
def test_unravel_restores_mixed_dtypes(t):
    vector, unravel = tree.ravel(t)
    same(unravel(vector), t)
    kinds = {leaf.dtype for leaf in tree.leaves(t)}
    if len(kinds) == 2:
        assert vector.dtype == torch.float32


@fast
@given(trees())
def test_unstack_undoes_stack(t):
    if not tree.leaves(t):
        return
    rows = [t, shifted(t), shifted(shifted(t))]
    stacked = tree.stack(rows)
    for leaf, part in zip(tree.leaves(t), tree.leaves(stacked), strict=True):
        assert part.shape == (3, *leaf.shape)
    for row, back in zip(rows, tree.unstack(stacked), strict=True):
        same(back, row)


@fast
@given(trees())
def test_sub_undoes_add(t):
    other = shifted(t)
    back = tree.sub(tree.add(t, other), other)
    assert_close(tree.leaves(back), tree.leaves(t), rtol=1e-12, atol=1e-12)


@fast
@given(trees())
def test_vector_operations_are_those_of_the_ravelled_vectors(t):
    other = shifted(t)
    a, b = tree.ravel(t)[0], tree.ravel(other)[0]
    if not len(a):
        return
    close = {"rtol": 1e-12, "atol": 0}
    assert_close(tree.vdot(t, other), torch.dot(a, b), **close)
    assert_close(tree.norm(t), torch.linalg.vector_norm(a), **close)
    cases = {
        "mul": (tree.mul(t, other), a * b),
        "scale": (tree.scale(t, -2.3), -2.3 * a),
        "add_scaled": (tree.add_scaled(t, -2.3, other), a - 2.3 * b),
        "clip": (tree.clip(t, 2.5, 4.5), a.clamp(2.5, 4.5)),
        "where": (
            tree.where(tree.map(lambda x: x > 3, t), t, other),
            torch.where(a > 3, a, b),
        ),
    }
    for name, (ours, expected) in cases.items():
        assert_close(tree.ravel(ours)[0], expected, msg=name, **close)
