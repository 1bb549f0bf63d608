# SPDX-License-Identifier: Apache-2.0
"""Trees under torch's flat names: torch.nn is the other side."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import functorch_lab as fl
from functorch_lab import tree
from trees import Node, Pair, trees, zoo


def values(*shape: int, start: float = 2.0) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return (torch.arange(count) * 0.37 + start).reshape(shape)


def module() -> torch.nn.Module:
    torch.manual_seed(3)
    inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 5))
    return torch.nn.ModuleDict({"encoder": inner, "head": torch.nn.Linear(5, 7)})


def params() -> dict[str, Any]:
    def linear(n_in: int, n_out: int, start: float) -> dict[str, torch.Tensor]:
        weight = values(n_out, n_in, start=start)
        return {"weight": weight, "bias": values(n_out, start=-start)}

    inner = [linear(2, 3, 2.0), linear(3, 5, 3.0)]
    return {"encoder": inner, "head": linear(5, 7, 4.0)}


def test_names_are_those_of_torch() -> None:
    assert tree.to_state_dict(params()).keys() == module().state_dict().keys()
    found = tree.to_state_dict(zoo())
    assert list(found) == [
        *("a.right", "a.left.0", "b.0", "b.1", "d.p.0", "d.q"),
        *("n.weight", "n.bias.w", "o.z", "o.y"),
    ]
    for leaf, value in zip(tree.leaves(zoo()), found.values(), strict=True):
        torch.testing.assert_close(value, leaf, rtol=0, atol=0)


def test_loads_into_a_module() -> None:
    torchs, ours = module(), params()
    torchs.load_state_dict(tree.to_state_dict(ours))
    weight: Any = torchs.get_submodule("encoder.1").weight
    torch.testing.assert_close(weight.data, ours["encoder"][1]["weight"])


def test_loads_from_a_module_into_memory_of_its_own() -> None:
    torchs, like = module(), params()
    before = tree.copy(like)
    found = tree.from_state_dict(torchs.state_dict(), like)
    assert tree.equal(like, before)
    weight: Any = torchs.get_submodule("encoder.1").weight
    expected = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(3)
    torch.testing.assert_close(found["encoder"][1]["weight"], expected)
    assert not found["encoder"][1]["weight"].requires_grad


def test_gradients_flow_through_the_names() -> None:
    torchs, x = module().get_submodule("head"), values(5)

    def loss(params: Any) -> torch.Tensor:
        named = tree.to_state_dict(params)
        return torch.func.functional_call(torchs, named, (x,)).sum()

    grads = fl.grad(loss)(params()["head"])
    torch.testing.assert_close(grads["weight"], x.expand(7, 5))


@settings(max_examples=50, deadline=None)
@given(trees())
def test_there_and_back(given_tree: Any) -> None:
    wrapped = {"root": given_tree}
    found = tree.from_state_dict(tree.to_state_dict(wrapped), wrapped)
    assert tree.structure(found) == tree.structure(wrapped)
    assert tree.equal(found, wrapped)


def test_floating_dtypes_and_devices_are_those_of_like() -> None:
    like = {"w": torch.empty(2, dtype=torch.bfloat16), "n": torch.tensor(5)}
    given_dict = {"w": torch.tensor([2.5, 3.0]), "n": torch.tensor(7)}
    found = tree.from_state_dict(given_dict, like)
    torch.testing.assert_close(found["w"], torch.tensor([2.5, 3.0]).bfloat16())
    assert found["n"] == 7
    on_meta = {"w": torch.empty(2, device="meta"), "n": torch.tensor(5)}
    found = tree.from_state_dict(given_dict, on_meta)
    torch.testing.assert_close(found["w"], given_dict["w"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"a.b": values(2), "a": {"b": values(3)}},
            r"to_state_dict: tree: .* got \['a'\]\['b'\] and \['a.b'\], which are both "
            r"'a.b'\. Rename",
        ),
        (
            {"a": {0: values(2), "0": values(3)}},
            r"got \['a'\]\[0\] and \['a'\]\['0'\], which are both 'a.0'",
        ),
        (values(2), "got a single tensor. Put it into a dict"),
        ({"a": None}, r"got None at \['a'\]"),
    ],
)
def test_names_that_cannot_be_are_refused(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tree.to_state_dict(bad)


def test_numbers_are_refused() -> None:
    message = r"tree.to_state_dict: tree: .* a float at \['a'\]\[0\]. Make a number a"
    with pytest.raises(TypeError, match=message):
        tree.to_state_dict({"a": [2.5]})


def changed(**changes: Any) -> dict[str, Any]:
    """The state_dict of a small tree, some of its entries changed; None: left out."""
    whole = {"a.0": values(2), "a.1": values(3), "n": torch.tensor(5)} | changes
    return {name: value for name, value in whole.items() if value is not None}


LIKE = {"a": [values(2), values(3)], "n": torch.tensor(7)}


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (changed(**{"a.1": None}), "got missing 'a.1'. Rename the keys"),
        (changed(b=values(2)), "got unexpected 'b'. Rename the keys"),
        (
            changed(**{"a.0": None, "b.0": values(2)}),
            "got missing 'a.0', unexpected 'b.0'. Rename",
        ),
        (
            {f"x{i}": values(2) for i in range(7)},
            "missing 'a.0', 'a.1', 'n', unexpected 'x0', .* 'x4' and 2 more. ",
        ),
        (
            changed(**{"a.1": values(5)}),
            r"the shapes of like, got \(5,\) for \(3,\) at 'a.1'",
        ),
        (changed(n=torch.tensor(2.5)), "got float32 for int64 at 'n'. Convert"),
    ],
)
def test_what_does_not_fit_is_refused(state_dict: Any, message: str) -> None:
    with pytest.raises(ValueError, match="tree.from_state_dict: .*" + message):
        tree.from_state_dict(state_dict, LIKE)


def test_what_is_no_state_dict_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a dict of tensors, got a Linear"):
        tree.from_state_dict(torch.nn.Linear(2, 3), LIKE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"expected tensors, got a str at 'a.1'"):
        tree.from_state_dict(changed(**{"a.1": "text"}), LIKE)


def test_tensors_without_values_or_of_another_layout_are_refused() -> None:
    like = {"w": values(3, 3)}
    with pytest.raises(TypeError, match="got one on the meta device at 'w'"):
        tree.from_state_dict({"w": torch.empty(3, 3, device="meta")}, like)
    with pytest.raises(TypeError, match=r"got torch.sparse_coo for .* at 'w'. Conv"):
        tree.from_state_dict({"w": values(3, 3).to_sparse()}, like)


def test_containers_are_those_of_like() -> None:
    like = Pair(OrderedDict(z=values(2), y=values(3)), Node(values(5), ()))
    found = tree.from_state_dict(tree.to_state_dict(tree.scale(like, 3.0)), like)
    assert type(found.left) is Node
    assert found.left.bias == ()
    assert list(found.right) == ["z", "y"]
    torch.testing.assert_close(found.left.weight, 3 * values(5))
