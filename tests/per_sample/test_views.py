# SPDX-License-Identifier: Apache-2.0
"""Views of parameters: where they lie, which keep their factors, none written to."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab.per_sample._frame import Frame, View, whole
from functorch_lab.per_sample._views import views
from functorch_lab.transforms import _compile
from per_sample_cases._compared import (
    compare,
    curved,
    distance,
    one_by_one,
    parameters,
    routes,
    samples,
)

X, DENSE = (3, 5), "DensePair"
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def calls(tensor: Tensor, rng: random.Random) -> list[Call]:
    """Views of a tensor, one of each kind."""
    ndim, size = tensor.ndim, tensor.numel()
    if not ndim:
        return [("reshape", (1,), {})]
    axis = rng.randrange(ndim)
    full = tensor.shape[axis]
    begin = rng.randrange(full)
    some = rng.randint(1, full - begin)
    part = slice(begin, begin + some, rng.choice([1, 1, 2, 3]))
    divisor = rng.choice([n for n in range(1, size + 1) if size % n == 0])
    found: list[Call] = [
        ("permute", tuple(rng.sample(range(ndim), ndim)), {}),
        ("narrow", (axis, begin, some), {}),
        ("select", (axis, begin), {}),
        ("unsqueeze", (axis,), {}),
        ("squeeze", (), {}),
        ("chunk", (rng.randint(1, 4),), {"dim": axis}),
        ("split", (rng.randint(1, 4), axis), {}),
        ("unbind", (axis,), {}),
        ("__getitem__", ((*[slice(None)] * axis, part),), {}),
        ("__getitem__", ((None, Ellipsis),), {}),
        ("reshape", (divisor, size // divisor), {}),
        ("unfold", (axis, min(2, full), 2), {}),
        ("expand", (2, *tensor.shape), {}),
    ]
    if ndim > 1:
        found += [
            ("mT", (), {}),
            ("movedim", (0, -1), {}),
            ("flatten", (), {"start_dim": -2}),
            ("diagonal", (), {}),
        ]
    return found


def chain(rng: random.Random) -> tuple[Tensor, Tensor, View]:
    """A leaf, a view of a view of it, and what is known of that."""
    shape = [rng.choice([1, 2, 3, 4, 6]) for _ in range(rng.randint(1, 4))]
    leaf = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    tensor, view = leaf, whole(0, leaf)
    for _ in range(rng.randint(1, 5)):
        name, args, kwargs = rng.choice(calls(tensor, rng))
        made = getattr(tensor, name)
        made = made if isinstance(made, Tensor) else made(*args, **kwargs)
        several = list(made) if isinstance(made, tuple | list) else [made]
        seen = views(view, tuple(tensor.shape), name, args, kwargs)
        assert len(seen) == len(several)
        number = rng.randrange(len(several))
        found = seen[number]
        if found is None:
            break
        tensor, view = several[number], found
    return leaf, tensor, view


@pytest.mark.parametrize("seed", range(5))
def test_frames_find_the_numbers_of_a_view(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        leaf, tensor, view = chain(rng)
        axes: list[list[int]] = [[], [], []]
        for axis in range(tensor.ndim):
            rng.choice(axes).append(axis)
        order = [axis for group in axes for axis in group]
        frame = view.frame(*[tuple(group) for group in axes])
        taken = frame.take(leaf)
        torch.testing.assert_close(
            taken, tensor.permute(order).reshape(frame.dims()), rtol=0, atol=0
        )
        matrices = torch.linspace(0.3, 1.7, 2 * taken.numel(), dtype=torch.float64)
        matrices = matrices.reshape(2, *frame.dims())
        placed = frame.place(matrices)
        assert placed.shape == (2, *leaf.shape)
        torch.testing.assert_close(frame.take(placed), matrices, rtol=0, atol=0)
        torch.testing.assert_close(placed.sum(), matrices.sum(), rtol=1e-12, atol=0)


def test_a_view_is_described_in_the_fewest_axes() -> None:
    leaf = whole(0, torch.empty(6, 5))
    (split,) = views(leaf, (6, 5), "view", (3, 2, 5), {})
    assert split is not None
    assert split.shape == (3, 2, 5)
    (back,) = views(split, (3, 2, 5), "reshape", (6, 5), {})
    assert back == leaf
    (row,) = views(split, (3, 2, 5), "select", (0, 1), {})
    assert row == views(leaf, (6, 5), "chunk", (3,), {})[1]


NO_VIEWS: list[Call] = [
    ("expand", (2, 6, 5), {}),
    ("unfold", (0, 2, 1), {}),
    ("__getitem__", ((slice(0, 6, 4),),), {}),
    ("narrow", (0, 2, 0), {}),
]


@pytest.mark.parametrize("call", NO_VIEWS, ids=str)
def test_what_is_no_box_is_not_followed(call: Call) -> None:
    assert views(whole(0, torch.empty(6, 5)), (6, 5), *call) == [None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("flatten", (), {}), ("narrow", (0, 3, 4), {})),  # the end of a row and more
        (("narrow", (0, 1, 4), {}), ("unflatten", (0, (2, 2)), {})),  # not from a pair
        (("narrow", (0, 0, 3), {}), ("__getitem__", ((slice(0, 3, 2),),), {})),
    ],
    ids=["rows", "pairs", "steps"],
)
def test_part_of_a_part_that_is_no_box(first: Call, second: Call) -> None:
    leaf = torch.empty(6, 5)
    (part,) = views(whole(0, leaf), (6, 5), *first)
    assert part is not None
    name, args, kwargs = first
    shape = tuple(getattr(leaf, name)(*args, **kwargs).shape)
    assert views(part, shape, *second) == [None]


@pytest.mark.parametrize("index", [True, [1, 2], (0, torch.tensor([1]))], ids=str)
def test_an_index_that_copies_is_no_view(index: Any) -> None:
    assert views(whole(0, torch.empty(6, 5)), (6, 5), "__getitem__", (index,), {}) == []


def split_in_three(p: Any, x: Tensor) -> Tensor:
    q, k, v = p["w"].chunk(3)
    return F.linear(x, q) * (x.sin() @ k.T) + x.cos() @ v.mT


def heads(p: Any, x: Tensor) -> Tensor:
    w = p["w"].unflatten(0, (3, 2))
    return F.linear(x, w[0]) + F.linear(x.sin(), w[1]) * F.linear(x.cos(), w[2])


def stacked(p: Any, x: Tensor) -> Tensor:
    for w in p["w"]:
        x = torch.tanh(x @ w)
    return x


def unpacked(p: Any, x: Tensor) -> Tensor:
    a, b, c = p["w"]
    return torch.tanh(torch.tanh(x @ a) @ b.H) @ c.mH


def reshaped(p: Any, x: Tensor) -> Tensor:
    h = torch.tanh(x @ p["w"].reshape(5, 7))
    return h @ p["w"].permute(1, 2, 0).reshape(7, 5)


def cast(p: Any, x: Tensor) -> Tensor:
    w = p["w"].float().double() if x.dtype == torch.float32 else p["w"].type_as(x)
    return x @ w.clone().T.contiguous()


def copied(p: Any, x: Tensor) -> Tensor:
    w = p["w"].clone()
    transposed = w.T
    w.mul_(1.5)
    return x @ transposed + x @ p["w"].T


def without_gradients(p: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        constant = p["w"].T
    y = x @ constant + x @ p["w"].detach().t() + x @ fl.stop_gradient(p["w"]).T
    return y + x @ p["v"]


KEPT: list[tuple[str, Callable[..., Tensor], dict[str, Any], dict[str, str]]] = [
    (
        "tied",
        lambda p, x: torch.tanh(x @ p["w"]) @ p["w"].T,
        {"w": (5, 7)},
        {"w": 2 * "DensePair "},
    ),
    ("split in three", split_in_three, {"w": (6, 5)}, {"w": 3 * "DensePair "}),
    ("heads", heads, {"w": (6, 5)}, {"w": 3 * "DensePair "}),
    ("stacked", stacked, {"w": (3, 5, 5)}, {"w": 3 * "DensePair "}),
    ("unpacked", unpacked, {"w": (3, 5, 5)}, {"w": 3 * "DensePair "}),
    ("tied and reshaped", reshaped, {"w": (5, 1, 7)}, {"w": 2 * "DensePair "}),
    ("every second", lambda p, x: x @ p["w"][:, 1::2], {"w": (5, 6)}, {"w": DENSE}),
    ("cast", cast, {"w": (7, 5)}, {"w": DENSE}),
    ("a copy that changes", copied, {"w": (7, 5)}, {"w": "DensePair Direct"}),
    (
        "without gradients",
        without_gradients,
        {"w": (7, 5), "v": (5, 7)},
        {"w": "Unused", "v": DENSE},
    ),
    ("every fourth", lambda p, x: x @ p["w"][:, ::4], {"w": (5, 7)}, {"w": "Direct"}),
]


@pytest.mark.parametrize("case", KEPT, ids=[case[0] for case in KEPT])
def test_a_view_keeps_its_factors(case: Any) -> None:
    _, forward, shapes, kinds = case
    compare(forward, parameters(**shapes), *samples(X), **kinds)


def test_views_keep_their_factors_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "BACKEND", "eager")

    def forward(p: Any, x: Tensor) -> Tensor:
        y = unpacked(p, x) + p["v"].mT[0] @ without_gradients(
            {"w": p["u"], "v": p["u"].H}, x
        )
        return y.sin() @ p["u"][1:, :].T.contiguous()

    kinds: dict[str, Any] = {"w": 3 * "DensePair ", "v": DENSE, "u": 2 * "DensePair "}
    shapes = {"w": (3, 5, 5), "v": (2, 3, 3), "u": (5, 5)}
    compare(forward, parameters(**shapes), *samples(X), jit=True, **kinds)


def test_a_cast_takes_no_memory_for_each_sample() -> None:
    made = []

    def loss(params: Any, x: Tensor) -> Tensor:
        w = params["w"].half()
        made.append(w)
        return curved((x.half() @ w).float())

    params = {"w": parameters(w=(5, 7))["w"].float()}
    x = samples(X)[0].float()
    found = fl.per_sample.factors(loss)(params, x)
    assert routes(found) == {"w": [DENSE]}
    stand_in = torch._C._functorch.get_unwrapped(made[-1])  # pyright: ignore
    assert stand_in.shape == (3, 5, 7)
    assert stand_in.stride(0) == 0
    expected = one_by_one(loss, params, x)["w"]
    assert distance(found["w"].materialize(), expected) < 2e-3


def test_a_cast_that_no_rule_knows_is_exact() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        return x @ p["w"].T.contiguous().exp()

    compare(forward, parameters(w=(7, 5)), *samples(X), w="Direct")


def test_an_inner_derivative_is_exact() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: torch.tanh(x @ p["w"].T).sum())(x)

    compare(forward, parameters(w=(7, 5)), *samples(X), w="Direct")


def assign(w: Tensor, x: Tensor) -> None:
    w[0] = x[0, 0]


def add(w: Tensor, x: Tensor) -> None:
    w += x.sum()


def without_graph(w: Tensor, x: Tensor) -> None:
    with torch.no_grad():
        w.mul_(2)


def replace_data(w: Tensor, x: Tensor) -> None:
    w.data = x


WRITES: list[tuple[str, Callable[..., Any]]] = [
    ("add_", lambda w, x: w.add_(1)),
    ("add_", add),
    ("__setitem__", assign),
    ("copy_", lambda w, x: w.t().copy_(x.sum())),
    ("mul_", without_graph),
    ("sub_", lambda w, x: w.data.sub_(1)),
    ("div_", lambda w, x: w.detach()[1:, None].div_(2)),
    ("zero_", lambda w, x: w.diagonal().zero_()),
    ("neg_", lambda w, x: w[::3].neg_()),
    ("exp_", lambda w, x: w.float().exp_()),
    ("data=", replace_data),
    ("normal_", lambda w, x: torch.nn.init.normal_(w)),
    ("kaiming_uniform_", lambda w, x: torch.nn.init.kaiming_uniform_(tensor=w)),
    ("relu", lambda w, x: F.relu(w, inplace=True)),
    ("mul", lambda w, x: torch.mul(w, 2, out=w)),
    ("matmul", lambda w, x: torch.matmul(x, x.T, out=w[:3, :3])),
    ("_foreach_add_", lambda w, x: torch._foreach_add_([w], 1)),  # pyright: ignore
]


@pytest.mark.parametrize(("name", "write"), WRITES, ids=[name for name, _ in WRITES])
def test_a_loss_may_not_write_to_its_parameters(
    name: str, write: Callable[..., Any]
) -> None:
    def loss(params: Any, x: Tensor) -> Tensor:
        write(params["layer"]["w"], x)
        return curved(x @ params["layer"]["w"])

    weight = torch.nn.Parameter(parameters(w=(5, 7))["w"])
    before = weight.detach().clone()
    message = rf"params\['layer'\]\['w'\]: expected a loss .* got {name}, which writes"
    with pytest.raises(RuntimeError, match=message):
        fl.per_sample.norms(loss)({"layer": {"w": weight}}, *samples(X))
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=0)


def test_uses_of_an_axis_of_one_are_alike() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        column = p["w"].squeeze().unsqueeze(1)
        return F.linear(x[:, :1], p["w"]).sin() + F.linear(x[:, 1:2], column)

    compare(forward, parameters(w=(7, 1)), *samples(X), w=DENSE)


def test_what_is_made_of_parameters_may_be_written_to() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        rows = p["w"][torch.tensor([0, 2])]
        rows += 1
        y = x @ p["w"]
        y += 1
        return y.relu_() * rows.sum()

    compare(forward, parameters(w=(5, 7)), *samples(X), w="DensePair IndexPair")


def test_frames_of_a_part_of_a_leaf() -> None:
    frame = Frame((5, 7), (5, 7), (1, 2), (2, 1), (), (0,), ())
    expected = torch.zeros(5, 7)
    expected[1:3, 2] = torch.tensor([3.0, 4.0])
    matrices = torch.tensor([3.0, 4.0]).reshape(1, 2, 1)
    torch.testing.assert_close(frame.place(matrices), expected, rtol=0, atol=0)
    torch.testing.assert_close(frame.take(expected), matrices, rtol=0, atol=0)
