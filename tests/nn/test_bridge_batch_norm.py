# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Batch norms of a bridged module, frozen or as group norms.

The oracles are the module in evaluation mode, and the module with torch's GroupNorm.
"""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import functorch_lab as fl
from bridge_models import ResNet, filled, numbers, weighted

CLOSE = {"rtol": 1e-12, "atol": 1e-13}
RANKS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SHAPES = {1: (2, 6, 5), 2: (2, 6, 5, 3), 3: (2, 6, 5, 3, 2)}


def by_name(tree):
    names = [
        p.strip("[]").replace("'", "").replace("][", ".") for p in fl.tree.paths(tree)
    ]
    return dict(zip(names, fl.tree.leaves(tree), strict=True))


def trained(module):
    """With numbers in parameters and statistics, in training mode."""
    module = filled(module)
    for i, (name, buffer) in enumerate(module.named_buffers()):
        if name.endswith("running_mean"):
            buffer.copy_(numbers(*buffer.shape, seed=i))
        if name.endswith("running_var"):
            buffer.copy_(numbers(*buffer.shape, seed=i).abs() + 0.3)
    return module


def with_group_norms(module, groups=None):
    """A copy with torch's GroupNorm on the same numbers in place of batch norm."""
    module = copy.deepcopy(module)
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                n = child.num_features
                other = nn.GroupNorm(groups or n, n, child.eps, child.affine)
                other.load_state_dict(dict(child.named_parameters()))
                setattr(part, name, other.double())
    return module


def gradients(module, x):
    x = x.clone().requires_grad_()
    module.zero_grad()
    weighted(module(x)).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}, x.grad


def check(layer, params, oracle, x, train=True):
    """Outputs and gradients, in params and input."""
    y = layer.apply(params, x, train=train)
    assert_close(y, oracle(x).detach(), **CLOSE)
    grads, by_input = fl.grad(
        lambda p, x: weighted(layer.apply(p, x, train=train)), (0, 1)
    )(params, x)
    expected, expected_input = gradients(oracle, x)
    assert_close(by_name(grads), expected, rtol=1e-12, atol=1e-12)
    assert_close(by_input, expected_input, rtol=1e-12, atol=1e-12)


def small(norm):
    return trained(nn.Sequential(nn.Identity(), nn.ModuleDict({"in": norm})["in"]))


NORMS = {
    **{f"{rank}d": (RANKS[rank](6, eps=0.03), SHAPES[rank]) for rank in RANKS},
    "features": (nn.BatchNorm1d(6), (5, 6)),
    "plain": (nn.BatchNorm2d(6, affine=False), SHAPES[2]),
    "mean of all": (nn.BatchNorm2d(6, momentum=None), SHAPES[2]),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_frozen_is_the_module_in_evaluation(name, train):
    norm, shape = NORMS[name]
    module = small(copy.deepcopy(norm))
    before = copy.deepcopy(module.state_dict())
    layer, params, state = fl.nn.from_module(module, batch_norm="frozen")
    assert state == ()
    check(layer, params, copy.deepcopy(module).eval(), numbers(*shape), train)
    assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert type(module[1]) is type(norm)
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("choice", ["group", 2, 3])
@pytest.mark.parametrize("name", [name for name in NORMS if name != "mean of all"])
def test_group_is_the_module_with_group_norm(name, choice):
    norm, shape = NORMS[name]
    module = small(copy.deepcopy(norm))
    layer, params, state = fl.nn.from_module(module, batch_norm=choice)
    assert state == ()
    oracle = with_group_norms(module, 3 if choice == "group" else choice)
    check(layer, params, oracle, numbers(*shape))
    check(layer, params, oracle, numbers(*shape), train=False)


def test_synchronised_batch_norm_too():
    module = nn.SyncBatchNorm.convert_sync_batchnorm(small(nn.BatchNorm2d(6)))
    kinds = [type(part) for part in module.modules()]
    assert nn.SyncBatchNorm in kinds
    x = numbers(*SHAPES[2])
    layer, params, _ = fl.nn.from_module(module, batch_norm="frozen")
    check(layer, params, copy.deepcopy(module).eval(), x)
    layer, params, _ = fl.nn.from_module(module, batch_norm=2)
    check(layer, params, with_group_norms(module, 2), x)


@pytest.mark.parametrize("shape", [(2, 6, 5), (6, 5)])
def test_instance_norm_with_statistics_is_frozen(shape):
    norm = nn.InstanceNorm1d(6, affine=True, track_running_stats=True)
    module = small(norm)
    layer, params, state = fl.nn.from_module(module, batch_norm="frozen")
    assert state == ()
    check(layer, params, copy.deepcopy(module).eval(), numbers(*shape))


def test_other_norms_stay():
    module = small(nn.InstanceNorm1d(6, affine=True))
    x = numbers(2, 6, 5)
    for choice in ("frozen", "group"):
        layer, params, _ = fl.nn.from_module(module, batch_norm=choice)
        check(layer, params, module, x)
    tracked = small(nn.InstanceNorm1d(6, track_running_stats=True))
    _, _, state = fl.nn.from_module(tracked, batch_norm="group")
    assert sorted(by_name(state)) == sorted(n for n, _ in tracked.named_buffers())
    plain = filled(nn.Linear(5, 2))
    for choice in ("frozen", "group", 3):
        layer, params, _ = fl.nn.from_module(plain, batch_norm=choice)
        check(layer, params, plain, numbers(3, 5))


@pytest.mark.parametrize("choice", ["frozen", 1, "group"])
def test_a_network_has_a_gradient_for_each_sample(choice):
    module = trained(ResNet())
    layer, params, state = fl.nn.from_module(module, batch_norm=choice)
    assert state == ()
    assert sorted(by_name(params)) == sorted(n for n, _ in module.named_parameters())
    frozen = choice == "frozen"
    oracle = copy.deepcopy(module).eval() if frozen else with_group_norms(module, 1)
    x = numbers(3, 3, 7, 5)
    check(layer, params, oracle, x)

    def sample_loss(params, x):
        return weighted(layer.apply(params, x[None], train=True))

    per_sample = fl.vmap(fl.grad(sample_loss), (None, 0))
    got = by_name(per_sample(params, x))
    for i in range(3):
        expected, _ = gradients(oracle, x[i : i + 1])
        own = {name: leaf[i] for name, leaf in got.items()}
        assert_close(own, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("choice", ["frozen", 2])
def test_it_compiles_also_for_each_sample(choice):
    module = small(nn.BatchNorm2d(6))
    layer, params, _ = fl.nn.from_module(module, batch_norm=choice)

    def sample_loss(params, x):
        return weighted(layer.apply(params, x[None], train=True))

    per_sample = torch.func.vmap(torch.func.grad(sample_loss), (None, 0))
    torch.compiler.reset()
    compiled = torch.compile(per_sample, backend="eager", fullgraph=True)
    x = numbers(*SHAPES[2])
    assert_close(compiled(params, x), per_sample(params, x), **CLOSE)


def test_its_params_and_gradients_go_back_into_the_module():
    module = trained(ResNet())
    layer, params, _ = fl.nn.from_module(module, batch_norm="frozen")
    x = numbers(2, 3, 7, 5)
    other = trained(ResNet())
    statistics = copy.deepcopy(dict(other.named_buffers()))
    halved = fl.tree.scale(params, 0.5)
    fl.nn.load_into(other, halved)
    assert_close(by_name(halved), dict(other.named_parameters()), rtol=0, atol=0)
    assert_close(dict(other.named_buffers()), statistics, rtol=0, atol=0)
    grads = fl.grad(lambda p: weighted(layer.apply(p, x, train=True)))(params)
    fl.nn.set_grads(module, grads)
    expected, _ = gradients(copy.deepcopy(module).eval(), x)
    given = {name: p.grad for name, p in module.named_parameters()}
    assert_close(given, expected, rtol=1e-11, atol=1e-12)


def test_frozen_statistics_are_copied_or_shared_as_asked():
    x = numbers(*SHAPES[2])
    for share in (False, True):
        module = small(nn.BatchNorm2d(6))
        layer, params, _ = fl.nn.from_module(
            module, batch_norm="frozen", copy=not share
        )
        before = layer.apply(params, x)
        module[1].running_mean.add_(3.0)
        assert torch.equal(layer.apply(params, x), before) != share


@pytest.mark.parametrize("choice", ["frozen", "group"])
def test_params_are_shared_if_asked(choice):
    module = trained(ResNet())
    _, params, _ = fl.nn.from_module(module, batch_norm=choice, copy=False)
    for name, leaf in by_name(params).items():
        assert leaf.data_ptr() == module.get_parameter(name).data_ptr()


@pytest.mark.parametrize("choice", ["frozen", "group"])
def test_new_params_begin_as_the_modules(choice):
    module = trained(ResNet())
    layer, _, _ = fl.nn.from_module(module, batch_norm=choice)
    params = layer.init(fl.random.key(0))
    assert_close(params["bn1"]["weight"], torch.ones(5, dtype=torch.float64))
    assert_close(params["bn1"]["bias"], torch.zeros(5, dtype=torch.float64))
    x = numbers(2, 3, 7, 5)
    fl.nn.load_into(module, params)  # the statistics of both are those from before
    frozen = choice == "frozen"
    oracle = module.eval() if frozen else with_group_norms(module, 1)
    assert_close(layer.apply(params, x, train=True), oracle(x).detach(), **CLOSE)


def test_a_shared_norm_hooks_and_the_root_itself():
    norm = nn.BatchNorm1d(6)
    module = trained(nn.Sequential(norm, nn.Tanh(), norm))
    norm.register_forward_hook(lambda module, args, y: y.mul(3.0))
    layer, params, _ = fl.nn.from_module(module, batch_norm="frozen")
    assert sorted(by_name(params)) == ["0.bias", "0.weight"]
    check(layer, params, copy.deepcopy(module).eval(), numbers(5, 6))
    layer, params, _ = fl.nn.from_module(norm, batch_norm="frozen")
    assert sorted(params) == ["bias", "weight"]
    check(layer, params, copy.deepcopy(norm).eval(), numbers(5, 6))


def test_half_precision_is_the_modules():
    module = small(nn.BatchNorm2d(6)).to(torch.bfloat16)
    x = numbers(*SHAPES[2]).to(torch.bfloat16)
    layer, params, _ = fl.nn.from_module(module, batch_norm="frozen")
    y = layer.apply(params, x, train=True)
    assert y.dtype == torch.bfloat16
    expected = module.eval()(x).detach()
    assert_close(y, expected, rtol=2 * torch.finfo(torch.bfloat16).eps, atol=1e-2)


class Own(nn.BatchNorm2d):
    def forward(self, input):  # noqa: A002
        return super().forward(input).relu()


def bridged(module, choice):
    return lambda: fl.nn.from_module(module, batch_norm=choice)


SOME = nn.Sequential(nn.BatchNorm2d(6))
FROZEN = fl.nn.from_module(SOME, batch_norm="frozen")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (bridged(SOME, "layer"), ValueError,
         r"nn.from_module: batch_norm: expected one of \('batch', 'frozen', 'group'\) "
         r"or a number of groups, got 'layer'. Use"),
        (bridged(nn.Linear(2, 3), "layer"), ValueError, "batch_norm: .* got 'layer'"),
        (bridged(SOME, 0), ValueError, "batch_norm: .* got 0"),
        (bridged(SOME, True), TypeError, "batch_norm: .* got True"),
        (bridged(SOME, None), TypeError, "batch_norm: .* got None"),
        (bridged(SOME, 4), ValueError,
         "nn.from_module: batch_norm: expected a divisor of 6, the channels of '0', "
         "got 4"),
        (bridged(nn.Sequential(Own(6)), "frozen"), TypeError,
         "batch_norm: expected batch norms of torch.nn, got '0' of class Own, "
         "with a forward of its own"),
        (bridged(nn.Sequential(Own(6)), "group"), TypeError, "a forward of its own"),
        (bridged(nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False)), "frozen"),
         ValueError, "batch_norm: expected statistics to freeze, got none in '0'"),
        (lambda: FROZEN.layer.apply(FROZEN.params, torch.ones(2, 3, 5, 7)), ValueError,
         r"expected 6 channels at axis 1, got an input of shape \(2, 3, 5, 7\)"),
        (lambda: FROZEN.layer.apply(FROZEN.params, torch.ones(6, 5, 7)), ValueError,
         "expected 4D input"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
