# SPDX-License-Identifier: Apache-2.0
"""tree.dataclass: a node for this library, for torch.func and for torch.compile."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils import _pytree

from functorch_lab import tree
from trees import Node

A, B = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0, -2.0])


def test_fields_are_children_in_their_order():
    node = Node(weight=A, bias={"x": B})
    assert [x is y for x, y in zip(tree.leaves(node), [A, B], strict=True)] == [
        True
    ] * 2
    assert tree.paths(node) == [".weight", ".bias['x']"]
    assert [str(path[0]) for path, _ in _pytree.tree_flatten_with_path(node)[0]] == [
        ".weight",
        ".bias",
    ]


def test_it_is_frozen_and_replace_returns_a_copy():
    node: Any = Node(weight=A, bias=B)
    changed = node.replace(bias=A)
    assert changed.bias is A
    assert changed.weight is A
    assert node.bias is B
    assert dataclasses.replace(node, weight=B).weight is B
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        node.weight = B
    with pytest.raises(TypeError, match="unexpected keyword argument 'wieght'"):
        node.replace(wieght=A)


def test_torch_func_looks_into_it():
    node = Node(weight=A, bias=B)
    grads = torch.func.grad(lambda n: (n.weight**2).sum() + n.bias.sum())(node)
    assert isinstance(grads, Node)
    assert_close(grads.weight, 2 * A)
    batch = tree.stack([node, tree.scale(node, 2.0)])
    doubled = torch.func.vmap(lambda n: n.replace(weight=n.weight.sum()))(batch)
    assert_close(doubled.weight, torch.tensor([5.0, 10.0]))


def test_the_empty_and_default_fields():
    @tree.dataclass
    class State:
        step: torch.Tensor
        trace: object = ()

    assert tree.paths(State(step=A)) == [".step"]


@tree.dataclass
class Measured:
    """A constant between two children."""

    value: torch.Tensor
    unit: str = tree.static()
    error: Any = ()


def test_a_static_field_belongs_to_the_structure():
    node: Any = Measured(A, "m", B)
    assert tree.paths(node) == [".value", ".error"]
    assert [str(path[0]) for path, _ in _pytree.tree_flatten_with_path(node)[0]] == [
        ".value",
        ".error",
    ]
    assert tree.structure(node) == tree.structure(Measured(B, "m", A))
    assert tree.structure(node) != tree.structure(Measured(A, "s", B))
    _, spec = _pytree.tree_flatten(node)
    assert spec == _pytree.tree_structure(Measured(B, "m", A))
    assert spec != _pytree.tree_structure(Measured(A, "s", B))
    assert _pytree.tree_unflatten([B, A], spec).unit == "m"
    assert node.replace(unit="s").unit == "s"


def test_functions_of_trees_keep_static_fields():
    node: Any = Measured(A, "m", B)
    doubled = tree.map(lambda x: 2 * x, node)
    assert doubled.unit == "m"
    assert_close(doubled.value, 2 * A)
    assert torch.func.grad(lambda n: n.value.sum() + n.error.sum())(node).unit == "m"
    batch = tree.stack([node, doubled])
    mapped = torch.func.vmap(lambda n: n.replace(value=n.value.sum(), unit="s"))(batch)
    assert mapped.unit == "s"
    assert_close(mapped.value, torch.tensor([5.0, 10.0]))
    with pytest.raises(ValueError, match=r"tree\.map: "):
        tree.map(torch.add, node, node.replace(unit="s"))


def test_it_refuses_what_is_no_class_and_a_replace_of_its_own():
    with pytest.raises(TypeError, match=r"^tree\.dataclass: cls: .* got a int\."):
        tree.dataclass(3)  # type: ignore[arg-type]

    class Own:
        x: int

        def replace(self):
            """Another meaning."""

    with pytest.raises(TypeError, match=r"Own: expected no attribute named replace"):
        tree.dataclass(Own)
