# SPDX-License-Identifier: Apache-2.0
"""What every layer and every optimizer promises, checked for all of them alike.

A case is a pure function of trees: `(params, x, key) -> y` for a layer,
`(params, state, grads) -> (params, state)` for an optimizer.
"""

import copy

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop
from torch.testing import assert_close

import functorch_lab as fl
from cases import LAYERS, NOT_LAYERS, NOT_OPTIMIZERS, OPTIMIZERS
from functorch_lab import nn, optim, random, tree
from oracles import dense_jacobian, finite_difference_gradient, gradient_loop

ALL = {
    **{f"nn.{name}": case for name, case in LAYERS.items()},
    **{f"optim.{name}": case for name, case in OPTIMIZERS.items()},
}
EXACT = {"rtol": 0, "atol": 0}
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
every_case = pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())


def scalar(result):
    """A curved function to which every floating element contributes in its own way."""
    total = torch.zeros(())
    for leaf in tree.leaves(result):
        if leaf.is_floating_point():
            weights = torch.linspace(0.3, 1.7, leaf.numel(), dtype=leaf.dtype)
            weights = weights.to(leaf.device).reshape(leaf.shape)
            total = total.to(leaf) + (weights * leaf.square()).sum()
    return total


def loss_of(case):
    return lambda *args: scalar(case(*args))


def flat_loss_of(case, args):
    """The loss as the oracles call it."""
    treedef = tree.flatten(args)[1]
    return lambda leaves: scalar(case(*tree.unflatten(treedef, leaves)))


def three(case, first_seed=0):
    """Arguments of three samples; what samples have in common is the same in all."""
    calls = [case.arguments(first_seed + i) for i in range(3)]
    return [
        tuple(calls[0][i] if i in case.shared else each for i, each in enumerate(call))
        for call in calls
    ]


def batched(case, calls):
    """The three as one batch, and where `vmap` finds its axes."""
    positions = range(len(calls[0]))
    together = tuple(
        calls[0][i] if i in case.shared else tree.stack([call[i] for call in calls])
        for i in positions
    )
    return together, tuple(None if i in case.shared else 0 for i in positions)


def close(got, expected, rtol, atol):
    """Equal structure, and leaves of equal dtype, device and (nearly) value."""
    assert tree.structure(got) == tree.structure(expected)
    assert_close(tree.leaves(got), tree.leaves(expected), rtol=rtol, atol=atol)


def all_of(args):
    return tuple(range(len(args)))


def kinds_of(args):
    return [(leaf.shape, leaf.dtype, leaf.device) for leaf in tree.leaves(args)]


def floating(args):
    return [leaf for leaf in tree.leaves(args) if leaf.is_floating_point()]


@pytest.mark.parametrize(
    ("namespace", "rows", "others"),
    [(nn, LAYERS, NOT_LAYERS), (optim, OPTIMIZERS, NOT_OPTIMIZERS)],
)
def test_every_public_name_has_a_row(namespace, rows, others):
    named = {row.partition(",")[0] for row in rows}
    assert named | others == set(namespace.__all__)
    assert not named & others


@pytest.mark.parametrize("name", LAYERS)
def test_the_table_says_which_layers_train_and_draw(name):
    case = LAYERS[name]
    params, x, key = case.arguments(0)
    assert bool(tree.leaves(params)) == case.has_params
    other = case(params, x, random.key(99))
    assert tree.equal(case(params, x, key), other) != case.draws


@every_case
def test_inputs_stay_and_the_same_call_gives_the_same_answer(case):
    args = case.arguments(1)
    before = copy.deepcopy(args)
    first = case(*args)
    expected = copy.deepcopy(first)
    fl.grad(loss_of(case), all_of(args))(*args)
    close(case(*args), expected, **EXACT)
    close(first, expected, **EXACT)  # the second call wrote nothing into it
    close(args, before, **EXACT)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_and_device_stay(case, dtype, device):
    if (dtype, device.type) == (torch.float64, "mps"):
        pytest.skip("MPS has no float64")
    args = case.arguments(1, dtype, device)
    result = case(*args)
    if case in OPTIMIZERS.values():
        fresh = case.optimizer.init(args[0])  # the state of args has seen updates
        assert tree.structure(result) == tree.structure((args[0], fresh))
        assert kinds_of(result) == kinds_of((args[0], fresh))
    else:
        kinds = {(leaf.dtype, leaf.device) for leaf in floating(result)}
        assert kinds == {(dtype, args[1].device)}
    grads = fl.grad(loss_of(case), all_of(args))(*args)
    assert kinds_of(grads) == kinds_of(floating(args))


@every_case
def test_the_gradient_equals_finite_differences(case):
    args = case.arguments(1)
    value, grads = fl.value_and_grad(loss_of(case), all_of(args))(*args)
    expected = finite_difference_gradient(flat_loss_of(case, args), tree.leaves(args))
    # Differences are as exact as the value is, not as each gradient is.
    atol = 1e-9 * value.abs().item()
    close(tree.leaves(grads), expected, rtol=1e-6, atol=atol)


@every_case
def test_vmap_is_a_loop_over_samples(case):
    calls = three(case)
    args, in_dims = batched(case, calls)
    expected = tree.stack([case(*call) for call in calls])
    close(fl.vmap(case, in_dims)(*args), expected, **ROUNDING)


@every_case
def test_vmap_of_grad_is_one_backward_pass_for_each_sample(case):
    calls = three(case)
    args, in_dims = batched(case, calls)
    expected = gradient_loop(
        flat_loss_of(case, args), [tree.leaves(call) for call in calls]
    )
    per_sample = fl.vmap(fl.grad(loss_of(case), all_of(args)), in_dims)(*args)
    close(tree.leaves(per_sample), expected, **ROUNDING)

    def total(*args):
        return fl.vmap(loss_of(case), in_dims)(*args).sum()

    grads = fl.grad(total, all_of(args))(*args)
    shared = len(floating([args[i] for i in case.shared]))
    summed = [g.sum(0) if i < shared else g for i, g in enumerate(expected)]
    close(tree.leaves(grads), summed, **ROUNDING)


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("jacobian", [fl.jacrev, fl.jacfwd])
def test_both_jacobians_equal_the_dense_one(case, jacobian):
    params, x, key = case.arguments(1)

    def output(x):
        return tree.leaves(case(params, x, key))[0]  # a new state comes after it

    close(jacobian(output)(x), dense_jacobian(output, x), **ROUNDING)


@every_case
def test_compiled_equals_eager_and_is_traced_once(case, monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    is_layer = case in LAYERS.values()
    in_dims = batched(case, three(case))[1]

    def step(args, batch):
        if not is_layer:
            return case(*args)
        return case(*args), fl.vmap(fl.grad(loss_of(case), (0, 1)), in_dims)(*batch)

    jitted = fl.jit(step)
    for i in range(3):
        # With the seed change data and key, step count and hyperparameters.
        args = case.arguments(i)
        batch = batched(case, three(case, i))[0] if is_layer else ()
        close(jitted(args, batch), step(args, batch), **ROUNDING)
    assert jitted.traces == 1


def dtypes_in_the_graphs_of(call, monkeypatch):
    """Of every input and every intermediate result that the compiler is given."""
    found = set()

    def capture(module, inputs):
        for node in module.graph.nodes:
            value = node.meta.get("val")
            for each in value if isinstance(value, tuple | list) else [value]:
                if isinstance(each, torch.Tensor):
                    found.add((each.dtype, str(node.target)))
        return boxed_nop(module, inputs)

    backend = aot_autograd(fw_compiler=capture)
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", backend)
    call()
    return found


WIDE = {
    *(torch.float64, torch.complex64, torch.complex128),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}


def test_a_float32_step_has_no_type_that_mps_lacks(monkeypatch):
    model = nn.mlp(5, [7, 3], 2, dropout=0.3)
    optimizer = optim.chain(
        optim.clip_by_global_norm(0.7),
        optim.adamw(lr=optim.schedules.warmup(optim.schedules.cosine(0.3, 7), 2)),
    )

    def loss_fn(params, x, y, key):
        logits = model.apply(params, x, key=key, train=True)
        return fl.losses.cross_entropy(logits, y).mean()

    state = fl.train.init(model.init(random.key(3)), optimizer, key=random.key(5))
    step = fl.train.make_step(loss_fn, optimizer)
    x = torch.linspace(-1.3, 1.9, 15).reshape(3, 5)
    found = dtypes_in_the_graphs_of(
        lambda: step(state, x, torch.tensor([1, 0, 1])), monkeypatch
    )
    operations = {name for _, name in found}
    # Dropout, backward pass, schedule, clipping: the whole step has been read.
    assert {"aten.bitwise_xor.Tensor", "aten.mm.default"} <= operations
    assert {"aten.cos.default", "aten.sqrt.default"} <= operations
    assert {(d, name) for d, name in found if d in WIDE} == set()


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.complex64])
def test_the_reader_of_graphs_sees_such_types(dtype, monkeypatch):
    x = torch.linspace(2.0, 7.0, 5)
    function = fl.jit(lambda x: x.to(dtype).sum(0).abs().float())
    found = dtypes_in_the_graphs_of(lambda: function(x), monkeypatch)
    assert dtype in {d for d, _ in found}
