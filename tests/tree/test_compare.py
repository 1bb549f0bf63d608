# SPDX-License-Identifier: Apache-2.0
"""equal, allclose, diff, check_same_structure, describe, sizes and conversions."""

from collections import OrderedDict

import pytest
import torch
from torch.testing import assert_close

from functorch_lab import tree
from trees import zoo

A, B = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0, -2.0])


def test_equal_sees_values_shapes_dtypes_keys_and_containers():
    t = {"a": A, "b": [B]}
    assert tree.equal(t, {"b": [B.clone()], "a": A.clone()})
    assert tree.equal((), ())
    for other in (
        {"a": A, "b": [B + 1e-6]},
        {"a": A.double(), "b": [B]},
        {"a": A.reshape(2, 1), "b": [B]},
        {"a": A, "b": (B,)},
        {"a": A, "c": [B]},
        {"a": A},
    ):
        assert not tree.equal(t, other)


def test_allclose_has_the_tolerances_of_torch():
    near = [A + 1e-4]
    assert not tree.allclose([A], near)
    assert tree.allclose([A], near, rtol=1e-3)
    assert tree.allclose([A], near, atol=1e-3)
    assert tree.allclose([], [])


def test_diff_lists_every_leaf_that_differs():
    first = {"a": A, "b": [B, B], "c": A}
    second = {"a": A.double(), "b": [B, B + torch.tensor([0.0, 0.5, -0.25])], "c": B}
    assert tree.diff(first, second) == [
        "['a']: float32 in a, float64 in b",
        "['b'][1]: values differ by up to 0.5",
        "['c']: (2,) in a, (3,) in b",
    ]
    assert tree.diff(zoo(), zoo()) == []
    assert tree.diff({"a": A}, {"b": A}) == [
        "the root: keys 'a' in a, 'b' (missing 'a', unexpected 'b') in b"
    ]


DIFFERENT = {
    "shape": ([B], [A], r"at \[0\]: expected \(3,\), got \(2,\)"),
    "order of axes": (
        [B.expand(2, 3)],
        [B.expand(2, 3).T],
        r"at \[0\]: expected \(2, 3\), got \(3, 2\)",
    ),
    "dtype": ([A], [A.double()], r"at \[0\]: expected float32, got float64"),
    "key": ({"a": A}, {"A": A}, r"at the root: .* \(missing 'a', unexpected 'A'\)"),
    "kind": (
        {"a": A},
        {"a": 2.0},
        r"at \['a'\]: expected a tensor \(2,\), got a float",
    ),
    "none": ({"a": A}, {"a": None}, r"at \['a'\]: expected a tensor \(2,\), got None"),
    "subtree": (
        {"a": A},
        {"a": [A]},
        r"at \['a'\]: expected a tensor \(2,\), got a list",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_check_same_structure_names_the_first_difference(case):
    expected, got, difference = DIFFERENT[case]
    message = (
        rf"^optim\.adam\.update: grads and params differ {difference}.*\. Remedy\.$"
    )
    with pytest.raises(ValueError, match=message):
        tree.check_same_structure(
            expected,
            got,
            what="optim.adam.update",
            names=("params", "grads"),
            remedy="Remedy.",
        )


def test_check_same_structure_passes():
    tree.check_same_structure(zoo(), tree.scale(zoo(), 2.0))
    tree.check_same_structure([A], [A.double()], check_dtype=False)
    tree.check_same_structure({"b": B, "a": A}, OrderedDict(a=A, b=B))


def test_describe_aligns_its_columns():
    t = {"w": torch.full((700, 300), 2.0), "b": torch.tensor([2, 3], dtype=torch.int16)}
    assert tree.describe(t).splitlines() == [
        "path   shape       dtype    parameters    bytes",
        "['b']  (2,)        int16             2        4",
        "['w']  (700, 300)  float32     210,000  840,000",
        "total                          210,002  840,004",
    ]
    assert "(root)" in tree.describe(A)


def test_size_and_nbytes_count_every_leaf():
    t = [A, {"x": B.double()}, torch.tensor(3, dtype=torch.int8)]
    assert tree.size(t) == 2 + 3 + 1
    assert tree.nbytes(t) == 2 * 4 + 3 * 8 + 1
    assert tree.size({}) == tree.nbytes(()) == 0


def test_cast_leaves_integers_and_booleans_alone():
    t = {"w": A, "steps": torch.tensor(3), "mask": A > 2}
    result = tree.cast(t, torch.bfloat16)
    assert [x.dtype for x in tree.leaves(result)] == [
        torch.bool,
        torch.int64,
        torch.bfloat16,
    ]
    assert_close(result["w"].float(), A)


def test_copies_have_memory_of_their_own():
    t = [A.clone()]
    result = tree.copy(t)
    result[0] += 5
    assert_close(t, [A])
    assert_close(tree.zeros_like(t), [A - A])
    assert_close(tree.ones_like(t, dtype=torch.float64), [torch.ones(2).double()])
    assert tree.to(t, "meta")[0].device.type == "meta"


def test_cast_refuses_what_is_no_floating_dtype():
    with pytest.raises(TypeError, match=r"^tree\.cast: dtype: .* got 'float16'\."):
        tree.cast([A], "float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^tree\.cast: dtype: .* got int64\."):
        tree.cast([A], torch.int64)


def test_stack_and_unstack_refuse():
    with pytest.raises(TypeError, match=r"^tree\.stack: trees: .* got a dict\."):
        tree.stack({"a": A})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^tree\.stack: trees: .* got none\."):
        tree.stack([])
    message = (
        r"trees\[1\] and trees\[0\] differ at \['a'\]: expected \(2,\), got \(3,\)"
    )
    with pytest.raises(ValueError, match=rf"^tree\.stack: {message}"):
        tree.stack([{"a": A}, {"a": B}])
    with pytest.raises(
        ValueError, match=r"^tree\.unstack: .* at least one leaf, got none"
    ):
        tree.unstack({})
    with pytest.raises(ValueError, match=r"axis of 2, got \(3,\) at \['b'\]\. Pass"):
        tree.unstack({"a": A, "b": B})
    with pytest.raises(
        ValueError, match=r"common leading axis, got \(\) at \['a'\]\. Pass"
    ):
        tree.unstack({"a": torch.tensor(2.0)})


def test_unravel_refuses_a_vector_of_another_length():
    unravel = tree.ravel([A, B])[1]
    with pytest.raises(
        ValueError, match=r"^tree\.ravel: vector: expected \(5,\), got \(6,"
    ):
        unravel(torch.full((6,), 2.0))
