# SPDX-License-Identifier: Apache-2.0
"""Leaves, structures, map and paths on fixed trees, and their errors."""

from collections import OrderedDict, defaultdict
from typing import Any

import optree
import pytest
import torch
from torch.testing import assert_close

from functorch_lab import tree
from trees import Node, Pair, zoo

A, B = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0, -2.0])

ZOO_PATHS = [
    "['a'].right",
    "['a'].left[0]",
    "['b'][0]",
    "['b'][1]",
    "['d']['p'][0]",
    "['d']['q']",
    "['n'].weight",
    "['n'].bias['w']",
    "['o']['z']",
    "['o']['y']",
]


def test_paths_name_every_container():
    assert tree.paths(zoo()) == ZOO_PATHS
    assert tree.paths(A) == [""]
    assert tree.paths(()) == tree.paths({"a": {}, "b": [()]}) == []


def test_keys_of_several_types_have_the_order_of_optree():
    t: Any = {"b": A, 3: B, "a": 2 * A, -1: 2 * B}
    expected = optree.tree_leaves(t, none_is_leaf=True, namespace="functorch_lab")
    assert [x is y for x, y in zip(tree.leaves(t), expected, strict=True)] == [True] * 4
    assert tree.paths(t) == ["[-1]", "[3]", "['a']", "['b']"]


def test_map_keeps_containers_and_the_order_of_insertion():
    result = tree.map(lambda x: x + 2, zoo())
    assert list(result) == list(zoo())
    assert type(result["o"]) is OrderedDict
    assert type(result["d"]) is defaultdict
    assert result["d"].default_factory is list
    assert type(result["a"]) is Pair
    assert type(result["n"]) is Node
    assert result["hole"] == ()
    assert result["empty"] == {}
    assert_close(result["d"]["q"], zoo()["d"]["q"] + 2)


def test_map_takes_subtrees_of_the_rest_where_the_first_has_leaves():
    seen = tree.map(lambda x, parts: (x, len(parts)), {"a": A}, {"a": [B, B, B]})
    assert seen["a"][1] == 3


def test_map_calls_in_the_order_of_leaves():
    seen = []
    tree.map(lambda x: seen.append(float(x[0])), {"b": B, "a": A})
    assert seen == [2.0, 5.0]


def test_map_does_not_mutate():
    t = zoo()
    before = tree.copy(t)
    tree.map(lambda x: x + 2, t)
    assert tree.equal(t, before)


def test_map_with_path():
    t = {"b": [B], "a": A}
    result = tree.map_with_path(lambda path, x, y: (path, x - y), t, t)
    assert result["b"][0][0] == "['b'][0]"
    assert_close(result["a"][1], A - A)


def test_structures_compare_by_containers_and_keys():
    first, second = (
        tree.structure({"a": A, "b": (B,)}),
        tree.structure({"b": (A,), "a": B}),
    )
    assert first == second
    assert hash(first) == hash(second)
    assert first != tree.structure({"a": A, "b": [B]})
    assert first != "something else"
    assert repr(first) == "{'a': *, 'b': (*,)}"


def test_a_structure_does_not_keep_the_tensors_alive():
    import weakref

    leaf = torch.tensor([2.0])
    alive = weakref.ref(leaf)
    treedef = tree.flatten({"a": leaf})[1]
    del leaf
    assert alive() is None
    assert treedef.num_leaves == 1


FUNCTIONS = {
    "leaves": tree.leaves,
    "flatten": tree.flatten,
    "structure": tree.structure,
    "paths": tree.paths,
    "map": lambda t: tree.map(torch.neg, t),
    "map_with_path": lambda t: tree.map_with_path(lambda p, x: x, t),
    "select": lambda t: tree.select(t, "*"),
    "partition": lambda t: tree.partition("*", t),
    "ravel": tree.ravel,
    "unstack": tree.unstack,
    "size": tree.size,
    "nbytes": tree.nbytes,
    "describe": tree.describe,
    "norm": tree.norm,
    "scale": lambda t: tree.scale(t, 2.0),
    "add": lambda t: tree.add(t, t),
    "vdot": lambda t: tree.vdot(t, t),
    "check_same_structure": lambda t: tree.check_same_structure(t, t),
    "copy": tree.copy,
    "zeros_like": tree.zeros_like,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_none_is_refused_by_its_path(name):
    message = (
        rf"^tree\.{name}: tree: expected tensors, got None at \['b'\]\[1\]\. Write"
    )
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name]({"b": [A, None], "c": None})


def test_none_at_the_root():
    with pytest.raises(ValueError, match=r"^tree\.leaves: .* None at the root\."):
        tree.leaves(None)


MISMATCHES = {
    "missing key": (
        {"a": A, "b": B},
        {"a": A},
        r"at the root: expected keys 'a', 'b', got 'a' \(missing 'b'\)",
    ),
    "unexpected key": (
        {"x": {"a": A}},
        {"x": {"a": A, "c": B}},
        r"at \['x'\]: expected keys 'a', got 'a', 'c' \(unexpected 'c'\)",
    ),
    "another container": (
        {"x": [A, B]},
        {"x": (A, B)},
        r"at \['x'\]: expected a list of 2, got a tuple of 2",
    ),
    "not the subtree before it": (
        {"a": A, "b": [B]},
        {"a": [A, A], "b": (B,)},
        r"at \['b'\]: expected a list of 1, got a tuple of 1",
    ),
    "another length": (
        [A, [B, B]],
        [A, [B]],
        r"at \[1\]: expected a list of 2, got a list of 1",
    ),
    "a leaf for a container": (
        Pair(A, {"k": B}),
        Pair(A, B),
        r"at \.left: expected a dict with keys 'k', got a tensor \(3,\)",
    ),
    "a hole for a container": (
        [A, [B]],
        [A, ()],
        r"at \[1\]: expected a list of 1, got \(\)",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_map_names_the_first_difference(case):
    first, second, difference = MISMATCHES[case]
    with pytest.raises(
        ValueError, match=rf"^tree\.map: trees differ {difference}\. Pass"
    ):
        tree.map(torch.add, first, second)
    with pytest.raises(
        ValueError, match=rf"^tree\.map_with_path: trees differ {difference}"
    ):
        tree.map_with_path(lambda p, x, y: x, first, second)


def test_unflatten_refuses_a_wrong_number_of_leaves_and_a_wrong_structure():
    treedef = tree.structure([A, B])
    with pytest.raises(ValueError, match=r"leaves: expected 2 leaves, got 1\."):
        tree.unflatten(treedef, [A])
    with pytest.raises(TypeError, match=r"treedef: expected what .* got a list\."):
        tree.unflatten([A], treedef)  # type: ignore[arg-type]
