# SPDX-License-Identifier: Apache-2.0
"""at, select, partition, combine: leaves by name."""

import pytest
import torch
from torch.testing import assert_close

from functorch_lab import tree
from trees import Node, Pair, zoo

A, B = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0, -2.0])
PARAMS = {"encoder": [{"weight": A, "bias": B}, {"weight": 2 * A}], "head": Pair(B, A)}


@pytest.mark.parametrize("path", ["['encoder'][0]['weight']", "encoder.0.weight"])
def test_at_gets_sets_and_applies(path):
    place = tree.at(PARAMS, path)
    assert place.get() is A
    changed = place.set(B)
    assert changed["encoder"][0]["weight"] is B
    assert PARAMS["encoder"][0]["weight"] is A
    assert changed["encoder"][1] == PARAMS["encoder"][1]
    assert_close(place.apply(torch.neg)["encoder"][0]["weight"], -A)
    assert list(changed["encoder"][0]) == ["weight", "bias"]


def test_at_reaches_fields_subtrees_and_the_root():
    assert tree.at(PARAMS, "['head'].right").get() is B
    assert tree.at(PARAMS, "head.left").get() is A
    assert tree.at(PARAMS, "encoder.1").get() is PARAMS["encoder"][1]
    assert tree.at(PARAMS, "").get() is PARAMS
    assert tree.at(PARAMS, "encoder").set(())["encoder"] == ()
    node = tree.at(zoo(), "n.bias.w").apply(lambda x: 3 * x)["n"]
    assert isinstance(node, Node)
    assert_close(node.bias["w"], 3 * zoo()["n"].bias["w"])


def test_at_names_the_nearest_paths():
    message = (
        r"^tree\.at: path: expected a path of the tree, got 'encoder\.0\.wieght'\. "
        r"Nearest: encoder\.0\.weight, "
    )
    with pytest.raises(ValueError, match=message):
        tree.at(PARAMS, "encoder.0.wieght")
    with pytest.raises(ValueError, match=r"Nearest: \['encoder'\]\[1\]\['weight'\]"):
        tree.at(PARAMS, "['encoder'][1]['weights']")
    with pytest.raises(ValueError, match=r"The tree has no paths\."):
        tree.at(A, "weight")


def test_at_refuses_an_ambiguous_dotted_path():
    ambiguous = {"a.b": A, "a": {"b": B}}
    with pytest.raises(
        ValueError, match=r"expected one place, got 'a\.b', which .* of 2"
    ):
        tree.at(ambiguous, "a.b")
    assert tree.at(ambiguous, "['a.b']").get() is A


def test_at_refuses_what_is_no_string():
    with pytest.raises(
        TypeError, match=r"^tree\.at: path: expected a string, got a int\."
    ):
        tree.at(PARAMS, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder.*.weight", ["['encoder'][0]['weight']", "['encoder'][1]['weight']"]),
        ("encoder.[1-9].*", ["['encoder'][1]['weight']"]),
        ("*.bias", ["['encoder'][0]['bias']"]),
        ("head.?e*", ["['head'].left"]),
        ("*head*", ["['head'].right", "['head'].left"]),
        ("encoder.0.weight", ["['encoder'][0]['weight']"]),
    ],
)
def test_select_takes_globs(pattern, expected):
    chosen = tree.select(PARAMS, pattern)
    assert list(chosen) == expected
    for path, leaf in chosen.items():
        assert tree.at(PARAMS, path).get() is leaf
    kept, rest = tree.partition(pattern, PARAMS)
    assert tree.paths(kept) == expected
    assert sorted(tree.paths(kept) + tree.paths(rest)) == sorted(tree.paths(PARAMS))


@pytest.mark.parametrize(
    "pattern", ["encoder.*.Weight", "weight", "encoder", "0.weight"]
)
def test_a_pattern_that_matches_nothing_names_the_nearest_paths(pattern):
    message = (
        rf"pattern: expected a glob over dotted paths, got '{pattern}', .* Nearest: "
    )
    with pytest.raises(ValueError, match="^tree.select: " + message):
        tree.select(PARAMS, pattern)
    with pytest.raises(ValueError, match="^tree.partition: " + message):
        tree.partition(pattern, PARAMS)


def test_partition_leaves_holes():
    kept, rest = tree.partition(lambda path, x: x.shape == (2,), PARAMS)
    assert kept["encoder"][0] == {"weight": A, "bias": ()}
    assert rest["encoder"] == [{"weight": (), "bias": B}, {"weight": ()}]
    assert rest["head"] == Pair(B, ())


def test_partition_refuses_swapped_arguments():
    with pytest.raises(
        TypeError, match=r"predicate: expected .* got a dict\. Pass it first"
    ):
        tree.partition(PARAMS, lambda path, x: True)  # type: ignore[arg-type]


def test_combine_fills_a_hole_with_a_whole_subtree():
    assert tree.combine({"a": (), "b": B}, {"a": [A, A], "b": ()}) == {
        "a": [A, A],
        "b": B,
    }


@pytest.mark.parametrize(
    ("kept", "rest", "difference"),
    [
        ([A, ()], [A, B], r"at \[0\]: .* got a tensor \(2,\) and a tensor \(2,\)"),
        ({"x": [A]}, {"x": (A,)}, r"at \['x'\]: .* got a list of 1 and a tuple of 1"),
        ({"x": A}, {"y": B}, r"at the root: .* keys 'x' and a dict with keys 'y'"),
        ([A], [(), B], r"at the root: .* got a list of 1 and a list of 2"),
    ],
)
def test_combine_refuses_what_does_not_fit(kept, rest, difference):
    message = rf"^tree\.combine: kept and rest differ {difference}\. Pass the two trees"
    with pytest.raises(ValueError, match=message):
        tree.combine(kept, rest)
