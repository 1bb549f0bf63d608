# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""batch_norm against torch.nn over several steps, under vmap, jit and in half."""

import pytest
import torch
from torch import nn as torch_nn
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx

import functorch_lab as fl
from functorch_lab import nn, random, tree

MODULES = [
    torch_nn.BatchNorm1d,
    torch_nn.BatchNorm1d,
    torch_nn.BatchNorm2d,
    torch_nn.BatchNorm3d,
]
SHAPES = [(5, 3), (2, 3, 7), (2, 3, 7, 5), (2, 3, 2, 5, 3)]
OPTIONS = {
    "defaults": {},
    "eps": {"eps": 0.3},
    "momentum": {"momentum": 0.7},
    "mean of all batches": {"momentum": None},
    "frozen statistics": {"momentum": 0.0},
    "plain": {"affine": False},
    "no state": {"track_running_stats": False},
}
KEY = random.key(3)


def numbers(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return 0.7 + 1.3 * torch.randn(shape, dtype=torch.float64, generator=generator)


def prepare(rank=2, **options):
    """Our layer, its params and state, and torch's module with the same ones."""
    layer = nn.batch_norm(3, spatial_dims=rank, **options)
    module = MODULES[rank](3, **options).double()
    params, state = tree.cast(layer.init(KEY), torch.float64)
    params = tree.map(lambda p: p + numbers(p.shape, 5), params)
    module.load_state_dict({**dict(params), **dict(state)})
    return layer, params, state, module


def loss_of(y):
    weights = torch.linspace(0.3, 1.7, y.numel(), dtype=y.dtype).view_as(y)
    return (y**2 * weights).sum()


def close(actual, expected, rtol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_several_steps_match_torch(rank, options):
    layer, params, state, module = prepare(rank, **options)
    for step in range(4):
        x = numbers(SHAPES[rank], step).requires_grad_()
        before = tree.copy((params, state))

        def loss(params, x, state=state):
            y, state = layer.apply(params, state, x, train=True)
            return loss_of(y), (y, state)

        grads, (y, after) = fl.grad(loss, (0, 1), has_aux=True)(params, x)
        expected = module(x)
        leaves = dict(module.named_parameters())
        *of_params, of_x = torch.autograd.grad(loss_of(expected), [*leaves.values(), x])
        close(y, expected.detach())
        close(grads, (dict(zip(leaves, of_params, strict=True)) or (), of_x))
        close(after, dict(module.named_buffers()) or ())
        torch.testing.assert_close((params, state), before, rtol=0, atol=0)
        state = after
    module.eval()
    x = numbers(SHAPES[rank], 11)
    y, after = layer.apply(params, state, x)
    close(y, module(x).detach())
    assert all(
        a is b for a, b in zip(tree.leaves(after), tree.leaves(state), strict=True)
    )
    eval_grads = fl.grad(lambda p: loss_of(layer.apply(p, state, x)[0]))(params)
    leaves = dict(module.named_parameters())
    if leaves:
        expected = torch.autograd.grad(loss_of(module(x)), list(leaves.values()))
        close(eval_grads, dict(zip(leaves, expected, strict=True)))


def test_all_leading_axes_are_the_batch():
    layer, params, state, module = prepare()
    x = numbers((2, 5, 3, 7, 2), 1)
    y, after = layer.apply(params, state, x, train=True)
    close(y, module(x.flatten(0, 1)).detach().reshape(x.shape))
    close(after, dict(module.named_buffers()))
    module.eval()
    y, _ = layer.apply(params, after, x[1, 2])
    close(y, module(x[1, 2][None])[0].detach())


def test_one_image_has_statistics_where_it_has_more_than_one_pixel():
    layer, params, state, module = prepare()
    x = numbers((1, 3, 7, 5), 1)
    y, after = layer.apply(params, state, x, train=True)
    close(y, module(x).detach())
    close(after, dict(module.named_buffers()))


def test_derivatives():
    layer, params, state, _ = prepare(1)
    inputs = [numbers((2, 3, 5), 1), params["weight"], params["bias"]]
    inputs = [each.requires_grad_() for each in inputs]

    def output(x, weight, bias, train):
        return layer.apply({"weight": weight, "bias": bias}, state, x, train=train)[0]

    for train in (False, True):
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            check(lambda *args, t=train: output(*args, t), inputs, fast_mode=True)


def plainly(x, weight, bias):
    """The definition, whose derivatives of every order are those of its operations."""
    centred = x - x.mean((0, 2), keepdim=True)
    var = centred.square().mean((0, 2), keepdim=True)
    return centred / (var + 1e-5).sqrt() * weight[:, None] + bias[:, None]


def test_third_derivatives():
    # Those of F.batch_norm are wrong: its second one takes the statistics as constants.
    layer, params, state, _ = prepare(1)
    x = numbers((2, 3, 5), 1)

    def ours(x, weight, bias):
        own = {"weight": weight, "bias": bias}
        return layer.apply(own, state, x, train=True)[0]

    def third(function):
        def second(*args):
            return loss_of(grad(lambda x: loss_of(function(x, *args[1:])))(args[0]))

        return lambda *args: grad(lambda x: loss_of(grad(second)(x, *args[1:])))(
            args[0]
        )

    args = x, params["weight"], params["bias"]
    got, expected = third(ours)(*args), third(plainly)(*args)
    scale = expected.abs().max().item()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * scale)


def test_a_gradient_takes_few_sums_over_the_batch():
    layer, params, state, _ = prepare(2)
    x = numbers(SHAPES[2], 1)

    def loss(params, x, state):
        y, after = layer.apply(params, state, x, train=True)
        return loss_of(y), after

    gradient = grad(loss, (0, 1), has_aux=True)
    graph = make_fx(gradient, tracing_mode="fake")(params, x, state)
    graph.graph.eliminate_dead_code()
    sums = ("aten.sum.dim", "aten.mean.dim", "aten.var_mean")
    found = [
        str(node.target).split(".")[1]
        for node in graph.graph.nodes
        if str(node.target).startswith(sums)
        if node.args[0].meta["val"].numel() == x.numel()
    ]
    # Backward: of y, of y times the centred x, and torch's mean again for its variance.
    assert sorted(found) == ["mean", "sum", "sum", "var_mean"]


def population():
    layer, params, state, _ = prepare(1)
    x = numbers((2, 5, 3, 7), 1)  # a batch for each of two models
    many = tree.stack([params, tree.scale(params, 0.5)])
    shifted = tree.map(lambda s: s + 2, state)
    return layer, many, tree.stack([state, shifted]), x


def test_a_population_is_a_loop_over_models():
    layer, params, states, x = population()

    def step(params, state, x):
        def loss(params):
            y, after = layer.apply(params, state, x, train=True)
            return loss_of(y), (y, after)

        return fl.grad(loss, has_aux=True)(params)

    each = zip(tree.unstack(params), tree.unstack(states), x.unbind(), strict=True)
    close(fl.vmap(step)(params, states, x), tree.stack([step(*args) for args in each]))
    # One batch for all models, and one state that all begin with.
    state = tree.unstack(states)[0]
    got = fl.vmap(step, (0, None, None))(params, state, x[0])
    expected = [step(p, state, x[0]) for p in tree.unstack(params)]
    close(got, tree.stack(expected))
    keys = random.split(KEY, 2)
    made = fl.vmap(layer.init)(keys)
    close(made, tree.stack([layer.init(key) for key in keys]))


@pytest.mark.parametrize("mapped", ["params", "state"])
def test_models_may_differ_in_params_or_in_state_alone(mapped):
    layer, params, states, x = population()
    trees = {"params": params, "state": states}
    shared = {k: v if k == mapped else tree.unstack(v)[0] for k, v in trees.items()}
    in_dims = tuple(0 if k == mapped else None for k in trees)

    def step(params, state, x):
        return layer.apply(params, state, x, train=True)

    got = fl.vmap(step, (*in_dims, 0))(*shared.values(), x)
    for i in range(2):
        own = {k: tree.unstack(v)[i] if k == mapped else v for k, v in shared.items()}
        close(tree.unstack(got)[i], step(*own.values(), x[i]))


def over_samples(x, train=True):
    layer, params, state, _ = prepare(1)

    def sample_loss(params, x):
        return loss_of(layer.apply(params, state, x, train=train)[0])

    return lambda: fl.vmap(fl.grad(sample_loss), (None, 0))(params, x)


REFUSED = (
    "nn.batch_norm: x: expected a whole batch with train=True, got one sample of a "
    "vmap, whose params and state are not mapped"
)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 1, 3, 7), (2, 5, 3, 7)])
def test_vmap_over_samples_is_refused_in_training(shape):
    with pytest.raises(ValueError, match=REFUSED):
        over_samples(numbers(shape, 1))()
    with pytest.raises(ValueError, match=REFUSED):
        fl.jit(over_samples(numbers(shape, 1)))()
    layer, params, state, _ = prepare(1)
    with pytest.raises(ValueError, match=REFUSED):
        fl.vmap(lambda x: layer.apply(params, state, x, train=True))(numbers(shape, 1))


def test_samples_of_each_model_of_a_population_are_refused():
    layer, params, states, x = population()

    def model(params, state, x):
        return fl.vmap(lambda x: layer.apply(params, state, x, train=True)[0])(x)

    with pytest.raises(ValueError, match=REFUSED):
        fl.vmap(model)(params, states, x[:, :, None])


def test_vmap_over_samples_evaluates_each():
    layer, params, state, module = prepare(1)
    x = numbers((2, 3, 7), 1)
    got = over_samples(x, train=False)()
    module.eval()
    for i in range(2):
        expected = torch.autograd.grad(
            loss_of(module(x[i : i + 1])), [module.weight, module.bias]
        )
        close((got["weight"][i], got["bias"][i]), expected)
    y, _ = fl.vmap(lambda x: layer.apply(params, state, x))(x)
    close(y, module(x).detach())


def test_compiled_equals_eager():
    layer, params, states, x = population()
    torch.compiler.reset()

    def step(params, state, x):
        def loss(params):
            y, after = layer.apply(params, state, x, train=True)
            return loss_of(y), after

        return grad(loss, has_aux=True)(params), layer.apply(params, state, x)[0]

    one = (tree.unstack(params)[0], tree.unstack(states)[0], x[0])
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    close(compiled(*one), step(*one))
    many = torch.compile(torch.func.vmap(step), fullgraph=True, backend="eager")
    close(many(params, states, x), fl.vmap(step)(params, states, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_statistics_in_float32(dtype):
    layer = nn.batch_norm(3, spatial_dims=1)
    params, state = layer.init(KEY)
    x = numbers((2, 3, 7), 1).to(dtype)
    module = torch_nn.BatchNorm1d(3)
    expected = module(x).detach()
    y, state = layer.apply(tree.cast(params, dtype), state, x, train=True)
    assert y.dtype == dtype
    # One unit in the last place, as the two round after another order of operations.
    torch.testing.assert_close(y, expected, rtol=torch.finfo(dtype).eps, atol=1e-3)
    close(state, dict(module.named_buffers()), rtol=1e-6)
    half = tree.cast((params, state), dtype)
    for train in (False, True):
        y, after = layer.apply(*half, x, train=train)
        kinds = {name: leaf.dtype for name, leaf in after.items()}
        assert (y.dtype, kinds) == (dtype, {k: v.dtype for k, v in half[1].items()})


def test_state_begins_as_torch_has_it(device):
    layer = nn.batch_norm(3, spatial_dims=2)
    module = torch_nn.BatchNorm2d(3, device=device)
    params, state = layer.init(random.key(3, device=device))
    torch.testing.assert_close({**params, **state}, module.state_dict())
    _, state = layer.init(torch.empty(2, dtype=torch.int32, device="meta"))
    assert {leaf.device.type for leaf in state.values()} == {"meta"}
    assert nn.batch_norm(3, spatial_dims=2, affine=False).init(KEY)[0] == ()
    untracked = nn.batch_norm(3, spatial_dims=2, track_running_stats=False)
    assert untracked.init(KEY)[1] == ()


X = torch.linspace(-1.0, 1.3, 42).reshape(2, 3, 7)
LAYER = nn.batch_norm(3, spatial_dims=1)
PARAMS, STATE = LAYER.init(KEY)
ONE = nn.batch_norm(7, spatial_dims=0)
UNTRACKED = nn.batch_norm(3, spatial_dims=1, track_running_stats=False)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: ONE.apply(*ONE.init(KEY), X[0, :1], train=True), ValueError,
         r"nn.batch_norm: x: expected more than one value per channel with train=True, "
         r"got shape \(1, 7\). Give a larger batch"),
        (lambda: ONE.apply(*ONE.init(KEY), X[0, :0], train=True), ValueError,
         r"more than one value per channel .* got shape \(0, 7\)"),
        (lambda: UNTRACKED.apply(PARAMS, (), X[:1, :, :1]), ValueError,
         r"more than one value per channel .* got shape \(1, 3, 1\)"),
        (lambda: LAYER.apply(PARAMS, STATE, X[0], train=True), ValueError,
         r"nn.batch_norm: x: expected a batch, of shape \(batch, 3, length\), with "
         r"train=True, got one sample, \(3, 7\)"),
        (lambda: LAYER.apply(PARAMS, STATE, X[:, :2]), ValueError,
         r"nn.batch_norm: x: expected shape \(..., 3, length\), got \(2, 2, 7\)"),
        (lambda: LAYER.apply(PARAMS, STATE, X.mT), ValueError, "Move the channels"),
        (lambda: LAYER.apply(PARAMS, STATE, X.long()), TypeError, "torch.int64"),
        (lambda: LAYER.apply(PARAMS, STATE, X.double()), TypeError,
         "nn.batch_norm: x: expected torch.float32, as the params have"),
        (lambda: LAYER.apply(tree.cast(PARAMS, torch.float64), STATE, X.double()),
         TypeError, r"x: expected torch.float32, as state\['running_mean'\] has, or a"),
        (lambda: LAYER.apply(PARAMS, tree.to(STATE, "meta"), X), TypeError,
         "nn.batch_norm: x: expected device meta, as the state has, got cpu"),
        (lambda: LAYER.apply((), STATE, X), ValueError, "params: expected a dict"),
        (lambda: LAYER.apply(PARAMS, (), X), ValueError,
         r"nn.batch_norm: state: expected a dict with \['num_batches_tracked', "
         r"'running_mean', 'running_var'\], got tuple. Pass the state"),
        (lambda: LAYER.apply(PARAMS, PARAMS, X), ValueError,
         r"state: .* got a dict with \['bias', 'weight'\]"),
        (lambda: LAYER.apply(PARAMS, ONE.init(KEY)[1], X), ValueError,
         r"state\['running_mean'\]: expected a tensor of shape \(3,\), got \(7,\)"),
        (lambda: LAYER.apply(PARAMS, {**STATE, "num_batches_tracked": 2}, X),
         ValueError, r"state\['num_batches_tracked'\]: .* of shape \(\), got 2"),
        (lambda: UNTRACKED.apply(PARAMS, STATE, X), ValueError,
         r"nn.batch_norm: state: expected \(\), got dict of length 3"),
        (lambda: nn.batch_norm(0, spatial_dims=2), ValueError, "num_features: .* 0"),
        (lambda: nn.batch_norm(3, spatial_dims=4), ValueError, "spatial_dims: .* 4"),
        (lambda: nn.batch_norm(3), TypeError, "spatial_dims"),
        (lambda: nn.batch_norm(3, spatial_dims=1, eps=-1), ValueError, "eps: .* -1"),
        (lambda: nn.batch_norm(3, spatial_dims=1, momentum=1.1), ValueError,
         r"nn.batch_norm: momentum: expected a number in \[0, 1\], got 1.1"),
        (lambda: nn.batch_norm(3, spatial_dims=1, momentum="none"), TypeError,
         "momentum: .* got str"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
