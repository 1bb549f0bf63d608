# SPDX-License-Identifier: Apache-2.0
"""Accumulation dtypes, gradients and errors of the vector operations."""

import math

import pytest
import torch
from torch.testing import assert_close

from functorch_lab import tree

A, B = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0, -2.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_accumulated_in_float32(dtype):
    # 300 * 300 overflows float16, and 1/256 is lost beside 300 in bfloat16.
    t = [torch.full((7,), 300.0, dtype=dtype), torch.full((5,), 1 / 256, dtype=dtype)]
    squares = 7 * float(t[0][0]) ** 2 + 5 * float(t[1][0]) ** 2
    assert tree.norm(t).dtype == tree.vdot(t, t).dtype == torch.float32
    assert_close(tree.vdot(t, t), torch.tensor(squares), rtol=1e-6, atol=0)
    assert_close(tree.norm(t), torch.tensor(math.sqrt(squares)), rtol=1e-6, atol=0)


def test_float64_is_accumulated_in_float64_also_beside_float32():
    t = [torch.tensor([1e8, 3.0], dtype=torch.float64), torch.tensor([2.0, 5.0])]
    expected = torch.tensor(1e16 + 9 + 4 + 25, dtype=torch.float64)
    assert_close(tree.vdot(t, t), expected, rtol=0, atol=0)
    assert_close(tree.norm(t), expected.sqrt(), rtol=1e-15, atol=0)


def test_complex_leaves():
    t = [torch.tensor([2 + 3j, 5 - 2j])]
    other = [torch.tensor([7 - 2j, 3 + 5j])]
    assert_close(tree.vdot(t, other), torch.vdot(t[0], other[0]))
    assert_close(tree.norm(t), torch.linalg.vector_norm(t[0]))


def test_norm_of_a_tree_without_leaves_is_zero():
    assert_close(tree.norm({"a": ()}), torch.tensor(0.0))
    assert_close(tree.vdot([], []), torch.tensor(0.0))


def test_gradient_of_the_norm_is_the_direction_and_zero_at_zero():
    grads = torch.func.grad(tree.norm)({"a": A, "b": B})
    length = math.sqrt(4 + 9 + 25 + 49 + 4)
    assert_close(grads, {"a": A / length, "b": B / length})
    zero = tree.zeros_like({"a": A, "b": B})
    assert_close(torch.func.grad(tree.norm)(zero), zero)


def test_scalars_may_be_tensors_and_are_differentiated():
    slope = torch.func.grad(lambda s: tree.vdot([A], tree.add_scaled([A], s, [A])))
    assert_close(slope(torch.tensor(0.5)), torch.tensor(13.0))
    assert_close(tree.scale([A], torch.tensor(-3.0)), [-3 * A])


def test_where_broadcasts_one_condition_over_all_leaves():
    t, other = {"a": A, "b": B.reshape(3, 1)}, {"a": -A, "b": -B.reshape(3, 1)}
    assert_close(tree.where(torch.tensor(True), t, other), t)
    assert_close(tree.where(torch.tensor(False), t, other), other)
    picked = tree.where({"a": A > 2.5, "b": torch.tensor(False)}, t, other)
    assert_close(picked, {"a": torch.tensor([-2.0, 3.0]), "b": other["b"]})


def test_clip_with_one_limit_and_with_tensors():
    assert_close(tree.clip([B], min=-1.0), [torch.tensor([5.0, 7.0, -1.0])])
    limit = torch.tensor(6.0)
    assert_close(tree.clip([B], max=limit), [torch.tensor([5.0, 6.0, -2.0])])
    assert_close(tree.clip([B], -1.0, limit), [torch.tensor([5.0, 6.0, -1.0])])


PAIRED = {
    "add": tree.add,
    "sub": tree.sub,
    "mul": tree.mul,
    "vdot": tree.vdot,
    "allclose": tree.allclose,
    "add_scaled": lambda a, b: tree.add_scaled(a, 2.0, b),
    "where": lambda a, b: tree.where(torch.tensor(True), a, b),
}


@pytest.mark.parametrize("name", PAIRED)
def test_two_trees_must_agree_in_shapes_and_structure(name):
    message = r"b and a differ at \['w'\]\[0\]: expected \(3,\), got \(2,\)\. Pass"
    with pytest.raises(ValueError, match=rf"^tree\.{name}: {message}"):
        PAIRED[name]({"w": [B]}, {"w": [A]})
    message = r"b and a differ at \['w'\]: expected a list of 1, got a tensor \(3,\)"
    with pytest.raises(ValueError, match=rf"^tree\.{name}: {message}"):
        PAIRED[name]({"w": [B]}, {"w": B})


@pytest.mark.parametrize("name", ["norm", "ravel", "vdot"])
def test_integers_are_refused(name):
    t = {"w": A, "steps": torch.tensor(3)}
    call = {"norm": tree.norm, "ravel": tree.ravel, "vdot": lambda t: tree.vdot(t, t)}
    message = (
        rf"^tree\.{name}: tree: expected floating leaves, got int64 at \['steps'\]"
    )
    with pytest.raises(ValueError, match=message):
        call[name](t)


def test_clip_needs_a_limit_and_where_a_condition_of_the_structure():
    with pytest.raises(ValueError, match=r"^tree\.clip: min, max: .* got none"):
        tree.clip([A])
    with pytest.raises(ValueError, match=r"^tree\.where: trees differ at the root: "):
        tree.where({"x": A > 2}, [A], [A])
