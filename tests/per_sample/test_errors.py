# SPDX-License-Identifier: Apache-2.0
"""Bad input of per-sample functions: each its own error, in eager mode and in jit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import functorch_lab as fl
from functorch_lab import per_sample

X = torch.linspace(-1.5, 2.5, 35).reshape(7, 5)
Y = torch.tensor([2, 1, 2, 1, 2, 2, 1])
PARAMS = {
    "b": torch.tensor([0.3, -0.7, 0.5]),
    "w": torch.linspace(0.2, 1.7, 15).reshape(3, 5),
}
KEYS = fl.random.split(fl.random.key(5), 7)


def loss_fn(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, params["w"], params["b"]), y)


def drawing(params: Any, x: Tensor, y: Tensor, *, key: Tensor) -> Tensor:
    return loss_fn(params, x + fl.random.normal(key, (5,)), y)


def vector(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.linear(x, params["w"])


def pair(params: Any, x: Tensor, y: Tensor) -> Any:
    return loss_fn(params, x, y), x


def number(params: Any, x: Tensor, y: Tensor) -> float:
    return 0.5


def statistics(params: Any, x: Tensor, y: Tensor) -> Tensor:
    z = F.linear(x[None], params["w"])
    return F.batch_norm(z, None, None, params["b"], training=True).sum()


def dropping(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.dropout(F.linear(x, params["w"])).sum()


def writing(params: Any, x: Tensor, y: Tensor) -> Tensor:
    params["w"].mul_(0.5)
    return loss_fn(params, x, y)


def branching(params: Any, x: Tensor, y: Tensor) -> Tensor:
    if x.sum() > 2:
        return loss_fn(params, x, y)
    return 3 * loss_fn(params, x, y)


def asking(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return loss_fn(params, x, y) * x.sum().item()


def batched(params: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("bi,oi->bo", x, params["w"]).square().sum()


def inner_autograd(params: Any, x: Tensor, y: Tensor) -> Tensor:
    z = F.linear(x, params["w"])
    (slope,) = torch.autograd.grad(z.exp().sum(), z, create_graph=True)
    return slope.square().sum()


@dataclass(frozen=True)
class Bad:
    """A call that must raise."""

    name: str
    kind: type[Exception]
    message: str
    loss: Callable[..., Any] = loss_fn
    params: Any = field(default_factory=lambda: PARAMS)
    batch: tuple[Any, ...] = (X, Y)
    options: dict[str, Any] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)
    jits: bool = True


INTEGERS = {**PARAMS, "steps": torch.tensor([3, 5])}
CASES = [
    Bad("a vector as loss", ValueError, r"vector: expected one number .* got shape "
        r"\(3,\)\. Write the loss for one sample", vector),
    Bad("a vector as loss, axis kept", ValueError, "reduce their loss too", vector,
        options={"keep_batch_axis": True}),
    Bad("a pair as loss", TypeError, "pair: .* got tuple of 2. Pass has_aux=True",
        pair),
    Bad("no pair with has_aux", TypeError, r"expected a pair \(loss, aux\)",
        options={"has_aux": True}),
    Bad("a number as loss", TypeError, "number: .* got float 0.5", number),
    Bad("lengths", ValueError, r"got 7 at batch\[0\]\['a'\] and 5 at batch\[1\]",
        batch=({"a": X}, Y[:5])),
    Bad("empty", ValueError, r"at least one sample, got shape \(0, 5\) at batch\[0\]",
        batch=(X[:0], Y[:0])),
    Bad("no batch", ValueError, r"got none\. Call it as f\(params, x, y\)", batch=()),
    Bad("0-d", ValueError, r"batch\[0\]: expected a leading axis of samples",
        batch=(torch.tensor(2.5), Y)),
    Bad("None in the batch", TypeError, r"batch\[1\]: expected a tensor, got None",
        batch=(X, None)),
    Bad("NumPy", TypeError, r"batch\[0\]: .* got ndarray of 7\. Convert it with "
        r"torch\.from_numpy", batch=(X.numpy(), Y), jits=False),
    Bad("a list", TypeError, r"batch\[0\]\[0\]: .* got float 1.5\. Convert a list with "
        r"torch\.tensor", batch=([1.5, 2.5], Y), jits=False),
    Bad("too many", TypeError, "loss_fn: expected what the loss takes after params",
        batch=(X, Y, Y)),
    Bad("None as params", TypeError, "params: expected a tensor, got None",
        params=None),
    Bad("no params", TypeError, "params: expected real floating-point leaves .* got "
        "none", params={}),
    Bad("integers only", TypeError, "leaves to differentiate, got none",
        params={"steps": INTEGERS["steps"]}),
    Bad("integers chosen", TypeError, r"got a tensor \(2,\) of int64 at \['steps'\]",
        params=INTEGERS, options={"wrt": "steps"}),
    Bad("complex", TypeError, r"got a tensor \(2,\) of complex64 at \['z'\]",
        params={**PARAMS, "z": torch.tensor([0.5j, 2j])}),
    Bad("a wrong pattern", ValueError, "wrt: expected a glob over dotted paths, got "
        r"'weight', .* Nearest: ", options={"wrt": "weight"}),
    Bad("nothing chosen", TypeError, "got none. Choose with wrt=",
        options={"wrt": lambda path, leaf: False}),
    Bad("batch statistics", ValueError, r"test_errors\.py:\d+: .* batch statistics, "
        "which mix samples.*check_independent", statistics),
    Bad("hidden randomness", RuntimeError, r"dropping: .*test_errors\.py:\d+: `return "
        r"F\.dropout.* random numbers from a key", dropping),
    Bad("no keys", TypeError, "drawing: expected keys=, one for each sample", drawing),
    Bad("keys for nothing", TypeError, "loss_fn: expected a loss that takes key=",
        keywords={"keys": KEYS}),
    Bad("one key", ValueError, r"keys: .* shape \(7, 2\), got a tensor \(2,\)", drawing,
        keywords={"keys": KEYS[0]}),
    Bad("keys of another batch", ValueError, r"keys: .* got a tensor \(5, 2\)", drawing,
        keywords={"keys": KEYS[:5]}),
    Bad("keys that are none", TypeError, r"keys: .* got a tensor \(7, 2\) of float32",
        drawing, keywords={"keys": KEYS.float()}),
    Bad("mask of numbers", TypeError, "mask: expected one bool .* of float32",
        keywords={"mask": torch.ones(7)}),
    Bad("mask of another shape", ValueError, r"mask: .* shape \(7,\), got .*\(7, 1\)",
        keywords={"mask": torch.ones(7, 1) > 0}),
    Bad("mask of another batch", ValueError, r"mask: .* got a tensor \(5,\)",
        keywords={"mask": torch.ones(5) > 0}),
    Bad("a list as mask", TypeError, "mask: .* got list of 7",
        keywords={"mask": [True] * 7}, jits=False),
    Bad("in-place", RuntimeError, r"writing: .*test_errors\.py:\d+: .*params\['w'\]: "
        "expected a loss that leaves its parameters as they are", writing),
    Bad("in-place, vmap", RuntimeError, "leaves its parameters as they are", writing,
        options={"method": "vmap"}),
    Bad("a branch", RuntimeError, r"branching: .*test_errors\.py:\d+: `if x\.sum\(\) > "
        r"2:`: .* torch\.where in place of if, or pass method='loop'", branching),
    Bad("item", RuntimeError, r"asking: .*x\.sum\(\)\.item\(\)`: .* torch\.where",
        asking),
    Bad("written for batches", RuntimeError, "batched: .* pass keep_batch_axis=True",
        batched),
    Bad("autograd within", RuntimeError, "taken by fl.grad", inner_autograd),
]  # fmt: skip


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")


@pytest.mark.parametrize("jits", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_error(case: Bad, jits: bool) -> None:
    if jits and not case.jits:
        pytest.skip("jit has no such arguments")
    function = per_sample.norms(case.loss, **case.options)
    with pytest.raises(case.kind, match=rf"(?s)^per_sample\.norms: .*{case.message}"):
        (fl.jit(function) if jits else function)(
            case.params, *case.batch, **case.keywords
        )


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"method": "fast"}, ValueError, "method: .* got 'fast'"),
        ({"chunk_size": 0}, ValueError, "chunk_size: .* got 0"),
        ({"chunk_size": 2.5}, ValueError, "chunk_size: .* got 2.5"),
        ({"wrt": 3}, TypeError, "wrt: .* got int 3"),
    ],
    ids=["method", "chunk of none", "half a chunk", "wrt"],
)
def test_bad_option(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^per_sample\.norms: {message}"):
        per_sample.norms(loss_fn, **options)


def test_a_value_is_no_loss() -> None:
    with pytest.raises(TypeError, match=r"loss_fn: .* got a tensor .*norms\(loss_fn\)"):
        per_sample.norms(loss_fn(PARAMS, X[0], Y[0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["norms", "grads", "value_and_grad", "explain", "check", "check_independent"],
)
def test_a_call_with_everything_at_once(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(loss_fn\)\(params, x, y\)"):
        getattr(per_sample, name)(loss_fn, PARAMS, X, Y)


def test_a_mixing_module_names_the_conversion() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    layer, params, state = fl.nn.from_module(module)

    def mixing(params: Any, x: Tensor) -> Tensor:
        return layer.apply(params, state, x[None], train=True)[0].sum()

    with pytest.raises(ValueError, match=r"from_module.*batch_norm="):
        per_sample.norms(mixing)(params, X)


def test_a_loss_that_changes_is_no_function() -> None:
    calls = []

    def changing(params: Any, x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(calls))
        value = loss_fn(params, x, y)
        return value if len(calls) > 1 else value + F.linear(x, params["w"]).sum()

    with pytest.raises(RuntimeError, match="changing: expected the same operations"):
        per_sample.norms(changing)(PARAMS, X, Y)


def test_another_shape_at_the_second_evaluation() -> None:
    calls = []

    def changing(params: Any, x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(calls))
        x = x if len(calls) > 1 else x[None]
        return F.linear(x, params["w"]).square().sum()

    with pytest.raises(RuntimeError, match="changing: expected the same operations"):
        per_sample.norms(changing)(PARAMS, X, Y)


def test_errors_of_the_user_pass_as_they_are() -> None:
    class Mine(ValueError):
        def __init__(self) -> None:
            super().__init__("my shape is my castle")

    def raising(params: Any, x: Tensor, y: Tensor) -> Tensor:
        raise Mine

    with pytest.raises(ValueError, match="raise Mine`: my shape is my castle"):
        per_sample.norms(raising)(PARAMS, X, Y)

    def missing(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return params["weight"]

    with pytest.raises(KeyError, match="'weight'"):
        per_sample.norms(missing)(PARAMS, X, Y)


def test_errors_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="random numbers from a key"):
        per_sample.norms(dropping)(PARAMS, X, Y)
    torch.testing.assert_close(torch.get_rng_state(), before)
