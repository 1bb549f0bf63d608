"""Random changes of a jitted function's inputs, compared with eager each time.

A wrong answer of `jit` is the worst fault this library can have, so nothing here is
clever: random calls in random order to functions that look at everything they get.
"""

import random as stdlib_random
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import tree
from functorch_lab.transforms import (
    _compile,
    disable_jit,
    jit,
    mean_over_batch,
    value_and_grad,
    vmap,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is donated, but no part:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*requires grad.*:RuntimeWarning"),
]


class Pair(NamedTuple):
    left: Any
    right: Any


@tree.dataclass
class Node:
    first: Any
    second: Any


CLOSURE = {"scale": 1.5}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Dice(stdlib_random.Random):
    """Random choices, and the device on which the next tensors are made."""

    device = "cpu"


def tensors(value):
    found = []

    def visit(node):
        if isinstance(node, Tensor):
            found.append(node)
        elif isinstance(node, dict):
            for child in node.values():
                visit(child)
        elif isinstance(node, Node):
            visit((node.first, node.second))
        elif isinstance(node, tuple | list):
            for child in node:
                visit(child)

    visit(value)
    return found


def fold(x, y, n):
    """Depends on the order of dict entries, on structure, dtype and closure."""
    total = torch.zeros((), dtype=torch.float64)
    for i, leaf in enumerate(tensors((x, y))):
        total = total * 2 + (i + 1) * (leaf.double().sum() * n).cpu()
    return {
        "total": total,
        "scaled": total * CLOSURE["scale"],
        "kind": type(x).__name__,
    }


def aliases(x, y, n):
    """Returns its inputs, views of them, and new tensors."""
    found = tensors(x)
    return (
        x,
        [leaf.movedim(0, -1) if leaf.ndim else leaf for leaf in found],
        [leaf.reshape(-1) for leaf in found],
        y,
        n * 2,
    )


def trained(x, y, n):
    """A gradient inside, with some leaves integers."""
    weights = [leaf for leaf in tensors(x) if leaf.is_floating_point()]
    if not weights:
        return x

    def loss(weights):
        return sum((w * w).sum() * (i + n) for i, w in enumerate(weights))

    value, grads = value_and_grad(loss)(weights)
    return [w.detach() - 0.5 * g for w, g in zip(weights, grads, strict=True)], value


def mapped(x, y, n):
    """vmap over the first axis of every leaf that has one."""
    found = [leaf.double() for leaf in tensors(x) if leaf.ndim]
    results = [vmap(lambda row: row.sum() * n)(leaf) for leaf in found]
    if found:
        loss = mean_over_batch(lambda s, row: (row * s).sum() ** 2)
        results.append(value_and_grad(loss)(torch.tensor(1.5).double(), found[0]))
    return results


def updated(x, y, n):
    """The same structure with new values: what donation is for."""
    new = each(lambda leaf: leaf.flip(0) if leaf.ndim else leaf + 1, x)
    return new, y, tensors(x)[0].sum() if tensors(x) else n


FUNCTIONS: list[Callable[..., Any]] = [fold, aliases, trained, mapped, updated]
DTYPES = [torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.bool]


def make_tensor(rng: Dice, pool: list[Tensor]) -> Tensor:
    if pool and rng.random() < 0.2:  # one tensor at two places
        return rng.choice(pool)
    if pool and rng.random() < 0.2:  # two views of one memory
        base = rng.choice(pool)
        return base[:1] if base.ndim else base.view(1)
    shape = tuple(rng.choice([2, 3, 5]) for _ in range(rng.choice([0, 1, 2, 2])))
    dtype = rng.choice(DTYPES)
    values = torch.tensor(
        [rng.uniform(1.5, 9.0) for _ in range(torch.Size(shape).numel())]
    )
    leaf = values.reshape(shape).to(rng.device, dtype)
    kind = rng.random()
    if leaf.ndim == 2 and kind < 0.2:
        leaf = leaf.T
    elif leaf.ndim and kind < 0.3:
        leaf = leaf.repeat_interleave(2, 0)[::2]
    elif leaf.ndim and kind < 0.4:
        leaf = leaf[:1].expand(shape)
    elif leaf.is_floating_point() and kind < 0.55:
        leaf = leaf.requires_grad_()
    elif leaf.is_floating_point() and kind < 0.6:
        leaf = torch.nn.Parameter(leaf)
    pool.append(leaf)
    return leaf


def make_tree(rng: Dice, pool: list[Tensor], depth: int = 2) -> Any:
    kind = rng.choice(["tensor", "dict", "dict", "list", "tuple", "pair", "node", "od"])
    if depth == 0 or kind == "tensor":
        return make_tensor(rng, pool)

    def child():
        return make_tree(rng, pool, depth - 1)

    if kind in ("dict", "od"):
        names = rng.sample(["w", "b", "layer10", "layer2"], rng.choice([1, 2, 3]))
        return {"dict": dict, "od": OrderedDict}[kind]((k, child()) for k in names)
    if kind in ("list", "tuple"):
        items = [child() for _ in range(rng.choice([0, 1, 2]))]
        return items if kind == "list" else tuple(items)
    return (Pair if kind == "pair" else Node)(child(), child())


def each(function, x):
    return x if x is None else tree.map(function, x)


def vary(rng: Dice, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A small change of a call that was made before."""
    x, y, n = args
    change = rng.choice(["values", "number", "order", "swap", "layout", "grad", "one"])
    if change == "values":
        x = each(lambda leaf: leaf.detach().clone(), x)
    elif change == "number":
        n = rng.choice([2, 3, 2.5, 0.3, torch.tensor(2.5)])
    elif change == "order" and type(x) is dict:
        x = dict(rng.sample(list(x.items()), len(x)))
    elif change == "swap":
        x, y = y, x
    elif change == "layout":
        x = each(lambda t: t.detach().T.contiguous().T if t.ndim == 2 else t, x)
    elif change == "grad":
        x = each(lambda t: t.detach().requires_grad_(t.is_floating_point()), x)
    elif change == "one":
        y = None if rng.random() < 0.3 else x
    return x, y, n


def snapshot(value: Any) -> Any:
    """A deep copy that keeps structure and order, aliasing aside."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)((key, snapshot(child)) for key, child in value.items())
    if isinstance(value, Node):
        return Node(snapshot(value.first), snapshot(value.second))
    if isinstance(value, Pair):
        return Pair(*map(snapshot, value))
    if isinstance(value, tuple | list):
        return type(value)(map(snapshot, value))
    return value


def same(got: Any, expected: Any, exact: bool) -> None:
    """Structure, order of entries, dtypes and values are equal."""
    assert isinstance(got, (type(expected), Tensor)), (got, expected)
    if isinstance(expected, Tensor):
        rtol, atol = (0, 0) if exact else (1e-2, 1e-5)
        assert got.dtype == expected.dtype
        assert_close(
            got.detach(), expected.detach(), equal_nan=True, rtol=rtol, atol=atol
        )
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            same(got[key], expected[key], exact)
    elif isinstance(expected, Node):
        assert isinstance(got, Node)
        same((got.first, got.second), (expected.first, expected.second), exact)
    elif isinstance(expected, tuple | list):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            same(a, b, exact)
    elif isinstance(expected, float | int) and isinstance(got, Tensor):
        assert got.item() == pytest.approx(expected)
    else:
        assert got == expected


def as_tensors(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """jit turns numbers into tensors; eager must see the same to be comparable."""
    x, y, n = args
    wide = any(t.dtype == torch.float64 for t in tensors(args))
    if isinstance(n, float):
        n = torch.tensor(n, dtype=torch.float64 if wide else torch.float32)
    return x, y, torch.as_tensor(n)


def run(seed: int, calls: int, exact: bool) -> None:
    rng = Dice(seed)
    jitted = {f: jit(f) for f in FUNCTIONS}
    donating = {f: jit(f, donate_argnums=0) for f in FUNCTIONS}
    earlier: list[tuple[Any, ...]] = []
    for _ in range(calls):
        CLOSURE["scale"] = rng.choice([1.5, 1.5, 1.5, 2.5])
        if earlier and rng.random() < 0.7:
            args = vary(rng, rng.choice(earlier))
        else:
            pool: list[Tensor] = []
            rng.device = rng.choice(DEVICES)
            args = make_tree(rng, pool), make_tree(rng, pool, 1), rng.choice([2, 0.7])
        earlier.append(args)
        function: Callable[..., Any] = rng.choice(FUNCTIONS)
        inputs = snapshot(args[:2])
        expected = snapshot(function(*as_tensors(args)))
        same(jitted[function](*args), expected, exact)
        same(args[: len(inputs)], inputs, exact=True)
        if rng.random() < 0.4 and function is not aliases:
            donated = snapshot(args[0])
            same(donating[function](donated, *args[1:]), expected, exact)
            same(args[: len(inputs)], inputs, exact=True)
            for leaf in tensors(donated):
                with pytest.raises(RuntimeError, match="was donated"):
                    leaf.sum()


@pytest.mark.parametrize("seed", range(4))
def test_jit_equals_eager_exactly_when_traced(seed, monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    run(seed, calls=25, exact=True)


def test_jit_equals_eager_when_compiled():
    run(seed=11, calls=12, exact=False)


def test_threads_and_a_second_function_do_not_mix(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    shared = {f: jit(f) for f in (fold, mapped)}
    failures: list[BaseException] = []

    def work(seed):
        rng = Dice(seed)
        try:
            for _ in range(12):
                args = make_tree(rng, []), make_tree(rng, [], 1), rng.choice([2, 0.7])
                function = rng.choice([fold, mapped])
                same(shared[function](*args), function(*as_tensors(args)), exact=True)
        except BaseException as error:
            failures.append(error)

    CLOSURE["scale"] = 1.5
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_the_comparison_can_fail():
    good = {"a": torch.tensor([2.0, 3.0]), "b": 1}
    for bad in (
        {"b": 1, "a": good["a"]},
        {"a": good["a"].double(), "b": 1},
        {"a": good["a"] + 1e-6, "b": 1},
        {"a": good["a"]},
    ):
        with pytest.raises(AssertionError):
            same(bad, good, exact=True)
    with disable_jit():
        same(jit(lambda x: x)(good), good, exact=True)
