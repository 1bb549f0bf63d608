# SPDX-License-Identifier: Apache-2.0
"""A compiled step against the same step written with torch.nn and torch.optim."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import optim, random, train, tree
from functorch_lab.train import TrainState
from functorch_lab.transforms import disable_jit
from functorch_lab.types import GradientTransformation

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


def module() -> torch.nn.Sequential:
    """3 -> 5 -> 2 in float64, always with the same parameters."""
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
    ).double()
    for i, p in enumerate(net.parameters()):
        values = torch.linspace(0.5, 2.5 + i, p.numel(), dtype=torch.float64)
        p.data = values.cos().reshape(p.shape)
    return net


def params_of(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def apply(params: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ params["0.weight"].T + params["0.bias"])
    return hidden @ params["2.weight"].T + params["2.bias"]


def loss_fn(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(apply(params, x), y)


def batches(steps: int, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    x = torch.linspace(-1.5, 4.5, steps * size * 3, dtype=torch.float64).sin()
    y = (torch.arange(steps * size) * 7 // 3) % 2
    rows = zip(x.reshape(steps, size, 3), y.reshape(steps, size), strict=True)
    return [(a.clone(), b.clone()) for a, b in rows]


def run(
    step: Callable[..., Any], state: TrainState, data: list[tuple[Tensor, Tensor]]
) -> tuple[TrainState, list[dict[str, Any]]]:
    logs = []
    for batch in data:
        state, found = step(state, *batch)
        logs.append(found)
    return state, logs


CASES: dict[str, tuple[Callable[[], GradientTransformation], Any, dict[str, Any]]] = {
    "sgd": (
        lambda: optim.sgd(lr=0.3, momentum=0.7),
        torch.optim.SGD,
        {"lr": 0.3, "momentum": 0.7},
    ),
    "adamw": (
        lambda: optim.adamw(lr=0.02),
        torch.optim.AdamW,
        {"lr": 0.02},
    ),
}


# Few of these tests compile: what they check does not depend on the compiler, and
# that compiled equals eager is the subject of the tests of jit.
@pytest.mark.parametrize(("name", "accumulate"), [("sgd", 1), ("adamw", 3)])
def test_equals_torch_over_several_steps(name: str, accumulate: int) -> None:
    ours, theirs, options = CASES[name]
    net, data = module(), batches(7)
    optimizer = ours()
    state = train.init(params_of(net), optimizer, key=random.key(0))
    step = train.make_step(loss_fn, optimizer, accumulate=accumulate)
    state, logs = run(step, state, data)

    reference = theirs(net.parameters(), **options)
    for (x, y), found in zip(data, logs, strict=True):
        reference.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()  # pyright: ignore
        reference.step()
        assert_close(found["loss"], loss.detach(), **EXACT)
        assert_close(found["grad_norm"], norm, **EXACT)
    assert_close(state.params, params_of(net), **EXACT)
    assert int(state.step) == 7


def test_accumulating_equals_the_large_batch() -> None:
    optimizer, data = optim.adamw(lr=0.02), batches(5)
    results = []
    for parts in (1, 2, 6):
        state = train.init(params_of(module()), optimizer, key=random.key(0))
        step = train.make_step(loss_fn, optimizer, accumulate=parts)
        with disable_jit():
            results.append(run(step, state, data)[0].params)
    assert_close(results[1], results[0], **EXACT)
    assert_close(results[2], results[0], **EXACT)


def test_aux_of_parts_is_averaged_and_counts_add_up() -> None:
    def loss_with_aux(params: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Any]:
        right = (apply(params, x).argmax(-1) == y).sum()
        return loss_fn(params, x, y), {"right": right, "x": x.mean()}

    ((x, y),) = batches(1)
    optimizer = optim.sgd(lr=0.3)
    found = []
    for parts in (1, 2):
        state = train.init(params_of(module()), optimizer, key=random.key(0))
        step = train.make_step(loss_with_aux, optimizer, has_aux=True, accumulate=parts)
        with disable_jit():
            found.append(step(state, x, y)[1]["aux"])
    right = int((apply(params_of(module()), x).argmax(-1) == y).sum())
    assert int(found[0]["right"]) == int(found[1]["right"]) == right
    assert_close(found[0]["x"], x.mean(), **EXACT)
    assert_close(found[1]["x"], x.mean(), **EXACT)


def test_the_key_is_folded_with_the_step_and_the_part() -> None:
    def noisy(params: Tensor, x: Tensor, key: Tensor) -> Tensor:
        return (params * random.normal(key, x.shape, dtype=x.dtype) * x).sum()

    optimizer = optim.sgd(lr=0.0)
    x = torch.tensor([2.0, 3.0, 5.0, 7.0], dtype=torch.float64)
    key = random.key(5)
    start = train.init(x.new_tensor(1.5), optimizer, key=key)
    step = train.make_step(noisy, optimizer, donate=False)
    with disable_jit():
        state, first = step(start, x)
        _, second = step(state, x)
    assert torch.equal(state.key, key)
    for i, found in enumerate((first, second)):
        drawn = random.normal(random.fold_in(key, i), (4,), dtype=x.dtype)
        assert_close(found["loss"], 1.5 * (drawn * x).sum())
    assert not torch.equal(first["loss"], second["loss"])

    step = train.make_step(noisy, optimizer, accumulate=2, donate=False)
    folded = random.fold_in(key, 0)
    drawn = [
        random.normal(random.fold_in(folded, i), (2,), dtype=x.dtype) for i in (0, 1)
    ]
    want = 1.5 * ((drawn[0] * x[:2]).sum() + (drawn[1] * x[2:]).sum()) / 2
    with disable_jit():
        assert_close(step(start, x)[1]["loss"], want)


def takes_any(params: Tensor, *batch: Tensor, **options: Tensor) -> Tensor:
    return params * random.normal(options["key"]).double()


def takes_by_keyword(params: Tensor, *batch: Tensor, key: Tensor) -> Tensor:
    return params * random.normal(key).double()


def takes_by_place(params: Tensor, key: Tensor, /) -> Tensor:
    return params * key.sum()


def takes_many(params: Tensor, *key: Tensor) -> Tensor:
    return params * key[0].sum()


@pytest.mark.parametrize("loss", [takes_any, takes_by_keyword])
def test_a_loss_that_takes_a_key_by_keyword_gets_one(loss: Any) -> None:
    key, x = random.key(5), torch.tensor([2.0, 3.0], dtype=torch.float64)
    optimizer = optim.sgd(lr=0.0)
    state = train.init(x.new_tensor(1.5), optimizer, key=key)
    with disable_jit():
        _, logs = train.make_step(loss, optimizer)(state, x)
    assert_close(logs["loss"], 1.5 * random.normal(random.fold_in(key, 0)).double())


@pytest.mark.parametrize("loss", [takes_by_place, takes_many])
def test_a_loss_that_takes_no_key_by_keyword_gets_none(loss: Any) -> None:
    x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    optimizer = optim.sgd(lr=0.0)
    state = train.init(x.new_tensor(1.5), optimizer, key=random.key(5))
    with disable_jit():
        _, logs = train.make_step(loss, optimizer)(state, x)
    assert_close(logs["loss"], 1.5 * x.sum())


@pytest.mark.parametrize("has_aux", [False, True])
def test_model_state_goes_from_part_to_part(has_aux: bool) -> None:
    def stateful(params: Tensor, seen: dict[str, Tensor], x: Tensor) -> Any:
        seen = {"sum": 0.5 * seen["sum"] + x.sum(), "count": seen["count"] + 1}
        loss = (params * x).mean()
        return (loss, (seen, x.max())) if has_aux else (loss, seen)

    optimizer = optim.sgd(lr=0.1)
    model_state = {"sum": torch.tensor(7.0), "count": torch.tensor(3)}
    state = train.init(
        torch.tensor(1.5), optimizer, key=random.key(0), model_state=model_state
    )
    step = train.make_step(
        stateful, optimizer, stateful=True, accumulate=2, has_aux=has_aux
    )
    state, logs = step(state, torch.tensor([2.0, 3.0, 5.0, 8.0]))
    assert state.model_state["sum"].item() == 0.5 * (0.5 * 7 + 5) + 13
    assert state.model_state["count"].item() == 5
    assert_close(state.params, torch.tensor(1.5 - 0.1 * 4.5))
    assert logs["aux"].item() == 5.5 if has_aux else "aux" not in logs


def test_computes_in_another_dtype() -> None:
    seen: list[torch.dtype] = []

    def loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
        seen.extend([params["w"].dtype, x.dtype, y.dtype])
        return ((params["w"] * x) ** 2 * y).sum()

    optimizer = optim.sgd(lr=0.5)
    state = train.init({"w": torch.tensor(1.5)}, optimizer, key=random.key(0))
    step = train.make_step(loss, optimizer, compute_dtype=torch.bfloat16)
    state, logs = step(state, torch.tensor([1.25, 2.0]), torch.tensor([2, 3]))
    assert set(seen[:3]) == {torch.bfloat16, torch.int64}
    assert state.params["w"].dtype == torch.float32
    assert logs["loss"].dtype == logs["grad_norm"].dtype == torch.float32
    # sum of 2 w x^2 y, with values that bfloat16 holds
    assert logs["grad_norm"].item() == pytest.approx(45.375, rel=2**-7)
    assert state.params["w"].item() == pytest.approx(1.5 - 22.6875, rel=2**-7)


def test_changes_none_of_its_inputs_unless_it_donates() -> None:
    optimizer, ((x, y),) = optim.adamw(lr=0.02), batches(1)
    params, key = params_of(module()), random.key(3)
    state = train.init(params, optimizer, key=key)
    before = tree.copy(state)
    with disable_jit():
        train.make_step(loss_fn, optimizer, donate=False)(state, x, y)
    assert tree.equal(state, before)
    train.make_step(loss_fn, optimizer)(state, x, y)
    assert_close(params, params_of(module()), rtol=0, atol=0)  # init made copies
    assert torch.equal(key, random.key(3))


def test_the_same_state_goes_on_in_the_same_way() -> None:
    optimizer, data = optim.adamw(lr=0.02), batches(5)
    step = train.make_step(loss_fn, optimizer)
    state = train.init(params_of(module()), optimizer, key=random.key(0))
    state, _ = run(step, state, data[:2])
    saved = tree.copy(state)
    state, _ = run(step, state, data[2:])
    again, _ = run(step, saved, data[2:])
    assert tree.equal(state, again)


def test_many_small_leaves_share_buffers() -> None:
    params = {f"w{i:02}": torch.linspace(0.5, 2.0, 3 + i % 2) for i in range(40)}
    big = {f"w{i:02}": torch.linspace(0.5, 2.0, 3 + i % 2) for i in range(4)}

    def loss(params: Any, x: Tensor) -> Tensor:
        return sum(((p * x) ** 2).sum() for p in params.values())  # pyright: ignore

    optimizer = optim.adamw(lr=0.02)
    many = train.init(params, optimizer, key=random.key(0))
    few = train.init(big, optimizer, key=random.key(0))
    assert len(tree.leaves(many.opt_state)) < 12
    assert len(tree.leaves(few.opt_state)) > 8
    with disable_jit():
        state, _ = train.make_step(loss, optimizer)(many, torch.tensor(0.7))
    opt_state = optimizer.init(params)
    grads = tree.map(lambda p: 2 * p * 0.49, params)
    updates, _ = optimizer.update(grads, opt_state, params)
    assert_close(state.params, tree.add(params, updates))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"accumulate": 0}, ValueError, "accumulate: expected at least 1, got 0"),
        ({"accumulate": 2.0}, TypeError, "accumulate: expected an int, got 2.0"),
        ({"compute_dtype": torch.int8}, TypeError, "compute_dtype: expected a float"),
        ({"compute_dtype": "bfloat16"}, TypeError, "compute_dtype: .*got 'bfloat16'"),
        (
            {"loss_fn": torch.ones(3)},
            TypeError,
            "loss_fn: expected a function, got Ten",
        ),
        (
            {"optimizer": "adam"},
            TypeError,
            "expected a GradientTransformation, got str",
        ),
    ],
)
def test_refuses_settings(change: Any, kind: type[Exception], text: str) -> None:
    options: Any = {"loss_fn": loss_fn, "optimizer": optim.sgd(lr=0.1)} | change
    with pytest.raises(kind, match="train.make_step: .*" + text):
        train.make_step(**options)


@pytest.mark.parametrize(
    ("loss", "options", "kind", "text"),
    [
        (
            lambda p, x: p * x,
            {},
            ValueError,
            r"a scalar loss, .*, got \(5,\) torch.flo",
        ),
        (
            lambda p, x: x.long().sum(),
            {},
            ValueError,
            r"floating .* got \(\) torch.int64",
        ),
        (
            lambda p, x: (p * x.sum(), {"n": 5.0}),
            {"has_aux": True, "accumulate": 5},
            TypeError,
            r"aux\['n'\]: expected a tensor when accumulating, got 5.0",
        ),
        (lambda p, x: (p, x), {}, TypeError, "expected loss to be returned, got tuple"),
        (
            lambda p, x: p,
            {"has_aux": True},
            TypeError,
            "expected loss, aux to be returned, got Tensor",
        ),
        (
            lambda p, s, x: (p, s),
            {"has_aux": True, "stateful": True},
            TypeError,
            r"expected loss, \(model_state, aux\) to be returned, got tuple",
        ),
        (
            lambda p, x: (p * x.sum(), x),
            {"has_aux": True, "accumulate": 5},
            ValueError,
            r"aux: expected a scalar when accumulating, got shape \(1,\)",
        ),
        (
            lambda p, x: (p * x).sum(),
            {"accumulate": 2},
            ValueError,
            r"at \[0\]: .*divisible by accumulate = 2, got shape \(5,\)",
        ),
    ],
)
def test_refuses_what_a_loss_returns(
    loss: Any, options: Any, kind: type[Exception], text: str
) -> None:
    optimizer = optim.sgd(lr=0.1)
    state = train.init(torch.tensor(1.5), optimizer, key=random.key(0))
    step = train.make_step(loss, optimizer, **options)
    with pytest.raises(kind, match=text):
        step(state, torch.linspace(0.5, 2.5, 5))


def test_init_refuses_no_parameters() -> None:
    with pytest.raises(ValueError, match=r"at least one tensor, got \{\}"):
        train.init({}, optim.sgd(lr=0.1), key=random.key(0))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"key": torch.tensor([0.5, 2.5])}, TypeError, r"key: .*got torch.float32 of"),
        ({"key": 7}, TypeError, r"key: .*got int 7. Make one with random.key\(seed\)"),
        (
            {"key": random.split(random.key(0), 3)},
            ValueError,
            r"key: expected one key, int32 of shape \(2,\), got shape \(3, 2\)",
        ),
        (
            {"optimizer": 3},
            TypeError,
            "optimizer: expected a Gradient.*, got int. Make",
        ),
    ],
)
def test_init_refuses_keys_and_optimizers(
    change: Any, kind: type[Exception], text: str
) -> None:
    options = {"optimizer": optim.sgd(lr=0.1), "key": random.key(0)} | change
    with pytest.raises(kind, match="train.init: " + text):
        train.init(torch.tensor(1.5), **options)


@pytest.mark.parametrize("donate", [False, True])
def test_a_step_refuses_what_is_no_state(donate: bool) -> None:
    step = train.make_step(loss_fn, optim.sgd(lr=0.1), donate=donate)
    with pytest.raises(
        TypeError, match=r"state: expected a TrainState, got dict. Make"
    ):
        step(params_of(module()), *batches(1)[0])


def half(step: Tensor) -> Tensor:
    return 0.25 * 0.5**step


def logged(optimizer: GradientTransformation, count: int = 1) -> list[Any]:
    params = {f"w{i:02}": torch.linspace(0.5, 2.0, 3) for i in range(count)}
    state = train.init(params, optimizer, key=random.key(0))
    step = train.make_step(
        lambda p, x: sum((w * x).sum() for w in p.values()), optimizer
    )
    found = []
    with disable_jit():
        for _ in range(3):
            state, logs = step(state, torch.tensor(0.75))
            found.append(logs["lr"].item() if "lr" in logs else None)
    return found


@pytest.mark.parametrize("count", [1, 40])  # 40 leaves are joined
def test_the_learning_rate_of_the_update_is_logged(count: int) -> None:
    clipped = optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(lr=half))
    assert logged(clipped, count) == [0.25, 0.125, 0.0625]
    assert logged(optim.sgd(lr=0.375), count) == [0.375] * 3


def test_no_learning_rate_is_logged_where_there_is_not_one() -> None:
    two = optim.chain(optim.sgd(lr=half), optim.sgd(lr=0.5))
    assert logged(two) == logged(optim.scale(-0.5)) == [None] * 3


def test_the_logged_rate_has_memory_of_its_own() -> None:
    # Otherwise the next step could not reuse the state's.
    optimizer = optim.sgd(lr=0.375)
    start = train.init(torch.tensor(1.5), optimizer, key=random.key(0))
    step = train.make_step(lambda w, x: w * x, optimizer)
    with disable_jit():
        state, logs = step(start, torch.tensor(0.75))
    held = optim.get_hyperparams(state.opt_state)["lr"]
    assert held.data_ptr() != logs["lr"].data_ptr()
