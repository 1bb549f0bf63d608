# SPDX-License-Identifier: Apache-2.0
"""What every transformation of this namespace must do, whatever its rule."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from functorch_lab import optim, tree
from functorch_lab.types import GradientTransformation

TRANSFORMATIONS = {
    "sgd": lambda lr: optim.sgd(lr=lr),
    "momentum": lambda lr: optim.sgd(lr, momentum=0.8, dampening=0.1, weight_decay=0.2),
    "adam": lambda lr: optim.adam(lr=lr, weight_decay=0.2),
    "adamw": lambda lr: optim.adamw(lr=lr, mask="in.*"),
    "chain": lambda lr: optim.chain(
        optim.clip_by_global_norm(0.7), optim.trace(0.8), optim.sgd(lr=lr)
    ),
    "parts": lambda lr: optim.chain(
        optim.add_decayed_weights(0.1), optim.scale_by_adam(), optim.sgd(lr=lr)
    ),
    "fused": lambda lr: optim.fused(optim.adamw(lr=lr)),
    "freeze": lambda lr: optim.freeze(optim.fused(optim.adam(lr=lr)), "out.*"),
}
SCHEDULE = optim.schedules.warmup(optim.schedules.cosine(0.03, 5), 2)


@pytest.fixture(params=TRANSFORMATIONS)
def make(request):
    return TRANSFORMATIONS[request.param]


def test_it_is_a_pair_whose_state_holds_tensors_only(lab, make):
    optimizer = make(0.03)
    assert isinstance(optimizer, GradientTransformation)
    leaves = tree.leaves(optimizer.init(lab.params()))
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_inputs_stay_and_the_same_call_gives_the_same_answer(lab, make):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = make(0.03)
    given = (grads, optimizer.init(params), params)
    before = tree.copy(given)
    first = optimizer.update(*given)
    lab.close(optimizer.update(*given), first, rtol=0, atol=0)
    lab.close(given, before, rtol=0, atol=0)


def test_structure_shapes_and_dtypes_stay(lab, make):
    optimizer = make(SCHEDULE)
    params, (grads,) = lab.params(torch.float32), lab.grads(1, torch.float32)
    state = optimizer.init(params)
    updates, after = optimizer.update(grads, state, params)
    tree.check_same_structure(params, updates)
    tree.check_same_structure(state, after)
    storages = [leaf.data_ptr() for leaf in tree.leaves((params, state))]
    assert len(set(storages)) == len(storages), "leaves that share memory"


def test_integer_leaves_and_holes_pass_through(lab, make):
    params = {**lab.params(), "n": torch.arange(3)}
    grads = [{**g, "n": ()} for g in lab.grads(3)]
    got, _ = lab.train(make(0.03), params, grads)
    expected, _ = lab.train(make(0.03), lab.params(), lab.grads(3))
    assert got[-1].pop("n").tolist() == [0, 1, 2]
    lab.close(got[-1], expected[-1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "chain", "parts"])
def test_a_hole_leaves_the_leaf_and_its_state_alone(lab, name):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = TRANSFORMATIONS[name](0.03)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    updates, after = optimizer.update({**grads, "s": ()}, state, params)
    tree.check_same_structure(state, after)
    assert updates["s"] == ()
    whole, _ = optimizer.update(grads, state, params)
    if name != "chain":  # whose norm is that of all leaves
        lab.close(updates["in"], whole["in"], rtol=0, atol=0)
    with_paths = dict(zip(tree.paths(after), tree.leaves(after), strict=True))
    for path, leaf in zip(tree.paths(state), tree.leaves(state), strict=True):
        if path.endswith("['s']"):
            lab.close(with_paths[path], leaf, rtol=0, atol=0)


def test_vmap_over_params_and_states_is_a_loop(lab, make):
    optimizer = make(0.03)
    members = [tree.scale(lab.params(), 0.7 + i) for i in range(3)]
    grads = lab.grads(3)

    def two_steps(p, g):
        return lab.train(optimizer, p, [g, g])[0][-1]

    together = torch.func.vmap(two_steps)(tree.stack(members), tree.stack(grads))
    for got, p, g in zip(tree.unstack(together), members, grads, strict=True):
        lab.close(got, two_steps(p, g))


def test_the_gradient_flows_through_an_update(lab, make):
    optimizer = make(0.03)
    params, (grads,) = lab.params(), lab.grads(1)

    def loss(scale):
        p, g = tree.scale(params, scale), tree.scale(grads, scale)
        after = lab.train(optimizer, p, [g, g])[0][-1]
        return tree.vdot(after, after)

    at, h = torch.tensor(0.7, dtype=torch.float64), 1e-5
    expected = (loss(at + h) - loss(at - h)) / (2 * h)
    lab.close(torch.func.grad(loss)(at), expected, rtol=1e-6)


def test_one_trace_while_step_lr_and_data_change(lab, make):
    torch.compiler.reset()
    counter = CompileCounter()
    optimizer = make(0.03)

    @torch.compile(backend=counter, fullgraph=True, dynamic=False)
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    params, grads = lab.params(), lab.grads(4)
    state = optimizer.init(params)
    compiled = []
    for g, lr in zip(grads, (0.03, 0.03, 0.2, 0.5), strict=True):
        state = optim.set_hyperparams(state, lr=lr)
        params, state = step(params, state, g)
        compiled.append(params)
    assert counter.frame_count == 1
    params, state = lab.params(), optimizer.init(lab.params())
    for g, lr, got in zip(grads, (0.03, 0.03, 0.2, 0.5), compiled, strict=True):
        state = optim.set_hyperparams(state, lr=lr)
        updates, state = optimizer.update(g, state, params)
        params = optim.apply_updates(params, updates)
        lab.close(got, params)


def test_scheduled_steps_compile_once(lab):
    torch.compiler.reset()
    counter = CompileCounter()
    optimizer = optim.adamw(lr=SCHEDULE)
    update = torch.compile(optimizer.update, backend=counter, fullgraph=True)
    params, grads = lab.params(), lab.grads(4)
    state = expected = optimizer.init(params)
    for g in grads:
        updates, state = update(g, state, params)
        other, expected = optimizer.update(g, expected, params)
        lab.close(updates, other)
    assert counter.frame_count == 1


def test_set_hyperparams_and_init_trace(lab):
    torch.compiler.reset()
    optimizer = TRANSFORMATIONS["chain"](0.03)

    @torch.compile(backend="eager", fullgraph=True)
    def start(params, lr):
        return optim.set_hyperparams(optimizer.init(params), lr=lr, max_norm=0.3)

    state = start(lab.params(), torch.tensor(0.2))
    got = tree.map(lambda leaf: round(leaf.item(), 6), optim.get_hyperparams(state))
    assert got == {"max_norm": 0.3, "momentum": 0.8, "lr": 0.2}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_agrees_with_eager(lab):
    torch.compiler.reset()
    single = torch.float32
    optimizer = optim.chain(
        optim.clip_by_global_norm(0.7), optim.fused(optim.adamw(lr=SCHEDULE))
    )
    update = torch.compile(optimizer.update, fullgraph=True, dynamic=False)
    params, grads = lab.params(single), lab.grads(3, single)
    state = expected = optimizer.init(params)
    for g in grads:
        updates, state = update(g, state, params)
        other, expected = optimizer.update(g, expected, params)
        lab.close(updates, other, rtol=2e-6, atol=1e-8)


def test_a_float32_step_has_no_float64_node(lab, make):
    torch.compiler.reset()
    found = set()

    def look(module, inputs):
        for node in module.graph.nodes:
            value = node.meta.get("example_value")
            if isinstance(value, torch.Tensor):
                found.add(value.dtype)
        return module.forward

    optimizer = make(0.03)
    update = torch.compile(optimizer.update, backend=look, fullgraph=True)
    params, (grads,) = lab.params(torch.float32), lab.grads(1, torch.float32)
    update(grads, optimizer.init(params), params)
    assert found <= {torch.float32, torch.int64, torch.bool}
