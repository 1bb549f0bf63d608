# SPDX-License-Identifier: Apache-2.0
"""A bridged module computes what the module computes: the module is the oracle."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import functorch_lab as fl
from bridge_models import Language, ResNet, filled, numbers, weighted

EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}


def mlp() -> Any:
    return filled(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)))


def by_name(tree):
    """Leaves by the names of torch."""
    return {
        path.strip("[]").replace("'", "").replace("][", "."): leaf
        for path, leaf in zip(fl.tree.paths(tree), fl.tree.leaves(tree), strict=True)
    }


def gradients(module, loss):
    """By backward, on the module itself, by the names of its parameters."""
    module.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in module.named_parameters()}


def snapshot(module):
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    flags = [part.training for part in module.modules()]
    return copy.deepcopy(tensors), flags


CASES = {
    "mlp": (mlp, (3, 5)),
    "conv": (
        lambda: filled(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(True), nn.Flatten())),
        (2, 3, 5, 7),
    ),
    "group norm": (
        lambda: filled(nn.Sequential(nn.GroupNorm(2, 6), nn.PReLU(6))),
        (3, 6, 5),
    ),
    "weight_norm": (
        lambda: filled(nn.utils.parametrizations.weight_norm(nn.Linear(5, 7))),
        (3, 5),
    ),
    "old weight_norm": (lambda: filled(old_weight_norm()), (3, 5)),
    "orthogonal": (
        lambda: filled(nn.utils.parametrizations.orthogonal(nn.Linear(5, 3))),
        (2, 5),
    ),
    "lstm": (lambda: filled(nn.LSTM(5, 3, 2, bidirectional=True)), (7, 2, 5)),
    "gru": (lambda: filled(nn.GRU(5, 3)), (7, 2, 5)),
}


def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(nn.Linear(5, 7))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("train", [False, True])
def test_outputs_and_gradients_are_the_modules(name, train):
    make, shape = CASES[name]
    module = make().train(train)
    x = numbers(*shape)

    def first(output):
        return output[0] if isinstance(output, tuple) else output

    layer, params, state = fl.nn.from_module(module)
    assert state == ()
    before = snapshot(module)

    def loss_fn(params, x):
        return weighted(first(layer.apply(params, x, train=train)))

    assert_close(layer.apply(params, x, train=train), module(x), **CLOSE)
    grads, by_input = fl.grad(loss_fn, (0, 1))(params, x)
    expected_input = x.clone().requires_grad_()
    expected = gradients(module, weighted(first(module(expected_input))))
    assert_close(by_name(grads), expected, **CLOSE)
    assert_close(by_input, expected_input.grad, **CLOSE)
    assert_close(snapshot(module), before, **EXACT)


def test_params_are_detached_copies_by_name():
    module = filled(ResNet())
    layer, params, state = fl.nn.from_module(module)
    assert isinstance(layer, fl.types.StatefulLayer)
    names = [name for name, _ in module.named_parameters()]
    assert sorted(by_name(params)) == sorted(names)
    assert sorted(by_name(state)) == sorted(n for n, _ in module.named_buffers())
    weight = params["layer2"]["0"]["downsample"]["0"]["weight"]
    own = module.layer2[0].downsample[0].weight
    assert_close(weight, own.detach(), **EXACT)
    assert not any(leaf.requires_grad for leaf in fl.tree.leaves(params))
    weight.mul_(3)
    state["bn1"]["running_mean"].add_(5)
    assert not torch.equal(weight, own)
    assert not module.bn1.running_mean.any()


def test_copy_false_shares_memory():
    module = mlp()
    params = fl.nn.from_module(module, copy=False).params
    assert params["0"]["weight"].data_ptr() == module[0].weight.data_ptr()
    assert not params["0"]["weight"].requires_grad


@pytest.mark.parametrize("momentum", [0.3, None])
def test_batch_norm_over_several_steps(momentum):
    module = filled(
        nn.Sequential(
            nn.Conv2d(3, 5, 3),
            nn.BatchNorm2d(5, momentum=momentum),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(75, 2),
            nn.BatchNorm1d(2, affine=False),
        )
    )
    layer, params, state = fl.nn.from_module(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.03)
    begin = fl.tree.copy(state)

    def loss_fn(params, state, x):
        y, state = layer.apply(params, state, x, train=True)
        return weighted(y), state

    first, x = state, numbers(7, 3, 7, 5)
    for step in range(4):
        x = numbers(7, 3, 7, 5, seed=step)
        grads, state = fl.grad(loss_fn, has_aux=True)(params, state, x)
        expected = gradients(module, weighted(module(x)))
        assert_close(by_name(grads), expected, rtol=1e-10, atol=1e-11)
        optimizer.step()
        params = fl.tree.map(lambda p, g: p - 0.03 * g, params, grads)
    assert_close(by_name(state), dict(module.named_buffers()), rtol=1e-11, atol=1e-12)
    assert_close(first, begin, **EXACT)
    module.eval()
    y, same = layer.apply(params, state, x)
    assert_close(y, module(x).detach(), rtol=1e-10, atol=1e-11)
    assert_close(same, state, **EXACT)


@pytest.fixture
def no_inductor(monkeypatch):
    """What is compiled, and how often, without the minutes that code takes."""
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")


@pytest.mark.usefixtures("no_inductor")
def test_a_resnet_compiled_once():
    module = filled(ResNet())
    layer, params, state = fl.nn.from_module(module)

    @fl.jit
    def step(params, state, x):
        def loss_fn(params):
            y, after = layer.apply(params, state, x, train=True)
            return weighted(y), (y, after)

        return fl.grad(loss_fn, has_aux=True)(params)

    for seed in range(2):
        x = numbers(3, 3, 7, 5, seed=seed)
        grads, (y, state) = step(params, state, x)
        output = module(x)
        assert_close(y, output.detach(), rtol=1e-11, atol=1e-11)
        expected = gradients(module, weighted(output))
        assert_close(by_name(grads), expected, rtol=1e-10, atol=1e-10)
    assert_close(by_name(state), dict(module.named_buffers()), **CLOSE)
    assert step.traces == 1


@pytest.mark.usefixtures("no_inductor")
def test_batch_norm_of_batches_side_by_side():
    # In place, statistics without an axis could not take those of many batches, and
    # an average over all steps would read the count from the device.
    module = filled(nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.Tanh()))
    layer, params, state = fl.nn.from_module(module)
    _, state = layer.apply(params, state, numbers(2, 3, 5, 7, seed=2), train=True)
    batches = numbers(5, 2, 3, 5, 7)

    def run(x):
        return layer.apply(params, state, x, train=True)

    y, after = fl.jit(fl.vmap(run))(batches)
    for i, x in enumerate(batches):
        fl.nn.load_into(module, params, state)
        assert_close(y[i], module(x).detach(), **CLOSE)
        member = fl.tree.map(lambda s, i=i: s[i], after)
        assert_close(by_name(member), dict(module.named_buffers()), **CLOSE)


def test_third_derivatives_of_batch_norm():
    # Those of F.batch_norm are wrong: its second one takes the statistics as constants.
    module = filled(nn.BatchNorm1d(3))
    layer, params, state = fl.nn.from_module(module)
    x = numbers(5, 3)

    def ours(x):
        return layer.apply(params, state, x, train=True)[0]

    def plainly(x):
        centred = x - x.mean(0)
        scale = (centred.square().mean(0) + module.eps).sqrt()
        return centred / scale * params["weight"] + params["bias"]

    def third(function):
        def first(x):
            return fl.grad(lambda x: weighted(function(x).exp()))(x)

        def second(x):
            return fl.grad(lambda x: weighted(first(x)))(x)

        return fl.grad(lambda x: weighted(second(x)))(x)

    got, expected = third(ours), third(plainly)
    scale = expected.abs().max().item()
    assert_close(got, expected, rtol=1e-10, atol=1e-10 * scale)


def test_batch_norm_of_one_sample_is_refused():
    layer, params, state = fl.nn.from_module(filled(nn.BatchNorm1d(3)))
    x = numbers(7, 3, 5)

    def run(x, params=params, state=state):
        return layer.apply(params, state, x, train=True)[0]

    with pytest.raises(
        ValueError, match=r"one value per channel in BatchNorm1d.*\(1, 3\)\. .*frozen"
    ):
        run(x[:1, :, 0])
    alone = (
        r"a whole batch in BatchNorm1d .*one sample of a vmap, \(1, 3, 5\)\. .*frozen"
    )
    for function in (fl.vmap(run), fl.jit(fl.vmap(run))):
        with pytest.raises(ValueError, match=alone):
            function(x[:, None])
    with pytest.raises(ValueError, match=r"3 channels at axis 1 .*\(5, 7, 3\)"):
        run(x.movedim(2, 0))
    # One image for each of several models is a batch, as it is for the module.
    several = fl.tree.stack([params, fl.tree.map(lambda p: p + 2, params)])
    y = fl.vmap(run, (0, 0))(x[:2, None], several)
    assert_close(y[0], run(x[:1]), **CLOSE)
    assert_close(run(x[:1]), filled(nn.BatchNorm1d(3))(x[:1]).detach(), **CLOSE)


def test_tied_weights_are_one_leaf_and_buffers_are_constants():
    module = filled(Language()).eval()
    layer, params, state = fl.nn.from_module(module)
    assert state == ()
    assert "decoder" not in params
    tokens = torch.tensor([[2, 3, 5, 7, 10], [4, 6, 8, 9, 2]])
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

    # As the module's forward wants it: additive, like its own mask.
    additive = torch.zeros(2, 5).double().masked_fill(padding, -torch.inf)

    def loss_fn(params):
        return weighted(layer.apply(params, tokens, padding=additive)["logits"])

    got = layer.apply(params, tokens, padding=additive)
    module.train()  # in evaluation torch may take its fused path
    expected = module(tokens, padding=additive)
    assert list(got) == ["logits", "hidden"]
    assert isinstance(got["hidden"][1], list)
    assert_close(got, expected, **CLOSE)
    by_backward = gradients(module, weighted(expected["logits"]))
    assert_close(by_name(fl.grad(loss_fn)(params)), by_backward, **CLOSE)
    # Constants are the layer's own.
    with torch.no_grad():
        module.mask.zero_()
        module.ids.zero_()
    assert_close(layer.apply(params, tokens, padding=additive), got, **EXACT)


@pytest.mark.parametrize("train", [False, True])
def test_an_encoder_of_transformers_with_padding(train):
    encoder = nn.TransformerEncoderLayer(6, 2, 10, 0.0, batch_first=True)
    module = filled(nn.TransformerEncoder(encoder, 2)).train(train)
    layer, params, _ = fl.nn.from_module(module)
    x = numbers(2, 5, 6)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])

    def loss_fn(params):
        y = layer.apply(params, x, src_key_padding_mask=padding, train=train)
        return weighted(y[~padding])

    grads, value = fl.grad(loss_fn)(params), loss_fn(params)
    loss = weighted(module(x, src_key_padding_mask=padding)[~padding])
    assert_close(value, loss.detach(), **CLOSE)
    assert_close(by_name(grads), gradients(module, loss), rtol=1e-11, atol=1e-11)


def test_an_ensemble_is_vmap_over_params():
    modules = [filled(ResNet(), seed=seed) for seed in (2, 3, 5)]
    bridges = [fl.nn.from_module(module) for module in modules]
    layer = bridges[0].layer
    params = fl.tree.stack([bridge.params for bridge in bridges])
    state = fl.tree.stack([bridge.state for bridge in bridges])
    x = numbers(2, 3, 5, 7)

    def run(params, state):
        return layer.apply(params, state, x, train=True)

    y, state = fl.vmap(run)(params, state)
    for i, module in enumerate(modules):
        assert_close(y[i], module(x).detach(), rtol=1e-11, atol=1e-12)
        member = fl.tree.map(lambda s, i=i: s[i], state)
        assert_close(by_name(member), dict(module.named_buffers()), **CLOSE)


def test_gradients_per_sample():
    module = filled(Language())
    layer, params, _ = fl.nn.from_module(module)
    tokens = torch.tensor([[2, 3, 5], [7, 10, 4], [6, 8, 9]])

    def loss_fn(params, tokens):
        return weighted(layer.apply(params, tokens[None])["logits"])

    grads = fl.vmap(fl.grad(loss_fn), (None, 0))(params, tokens)
    for i in range(3):
        expected = gradients(module, weighted(module(tokens[i, None])["logits"]))
        member = fl.tree.map(lambda g, i=i: g[i], grads)
        assert_close(by_name(member), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("no_inductor")
def test_gradients_per_sample_compiled_with_dropout():
    layer, params, _ = fl.nn.from_module(filled(Language(dropout=0.3)))

    def loss_fn(params, tokens, key):
        output = layer.apply(params, tokens[None], key=key, train=True)
        return weighted(output["logits"])

    per_sample = fl.vmap(fl.grad(loss_fn), (None, 0, 0))
    jitted = fl.jit(per_sample)
    for seed in range(2):
        tokens = torch.tensor([[2, 3, 5], [7, 10, 4]]) - seed
        keys = fl.random.split(fl.random.key(seed), 2)
        got = jitted(params, tokens, keys)
        expected = per_sample(params, tokens, keys)
        assert_close(got, expected, rtol=1e-11, atol=1e-12)
    assert jitted.traces == 1


@pytest.mark.usefixtures("no_inductor")
def test_evaluation_of_attention_takes_no_fused_path():
    module = filled(nn.MultiheadAttention(6, 2, batch_first=True)).eval()
    layer, params, _ = fl.nn.from_module(module)
    x = numbers(2, 5, 6)

    def of_sample(x):
        return layer.apply(params, x[None], x[None], x[None])[0][0]

    with torch.no_grad():
        expected = module(x, x, x)[0]
        assert_close(fl.vmap(of_sample)(x), expected, **CLOSE)
        assert_close(fl.jit(fl.vmap(of_sample))(x), expected, **CLOSE)


@pytest.mark.usefixtures("no_inductor")
def test_evaluation_of_an_encoder_takes_no_fused_path():
    part = nn.TransformerEncoderLayer(6, 2, 10, 0.0, batch_first=True)
    module = filled(nn.TransformerEncoder(part, 2))
    layer, params, _ = fl.nn.from_module(module)
    x = numbers(2, 5, 6)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    expected = module(x, src_key_padding_mask=padding).detach()

    def of_sample(x, padding):
        return layer.apply(params, x[None], src_key_padding_mask=padding[None])[0]

    with torch.no_grad():
        got = fl.jit(fl.vmap(of_sample))(x, padding)
        # The fused path sets padded positions to 0.
        assert_close(got, expected, **CLOSE)
    with pytest.raises(ValueError, match=r"key_padding_mask: .*\(1, 5\), got \(1, 3\)"):
        of_sample(x[0], padding[0, :3])


def test_spectral_norm_has_its_vectors_in_the_state():
    module = filled(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 7)))
    layer, params, state = fl.nn.from_module(module)
    x = numbers(3, 5)
    begin = fl.tree.copy(state)
    for _ in range(2):
        y, after = layer.apply(params, state, x, train=True)
        assert_close(y, module(x), **CLOSE)
        assert_close(state, begin, **EXACT)
        assert_close(by_name(after), dict(module.named_buffers()), **CLOSE)
        state, begin = after, fl.tree.copy(after)
    module.eval()
    assert_close(layer.apply(params, state, x)[0], module(x), **CLOSE)


def test_the_old_spectral_norm_and_instance_norm_too():
    module = filled(
        nn.Sequential(
            nn.utils.spectral_norm(nn.Conv1d(5, 3, 2)),
            nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        )
    )
    layer, params, state = fl.nn.from_module(module)
    assert sorted(by_name(state)) == sorted(n for n, _ in module.named_buffers())
    for seed in range(2):
        x = numbers(2, 5, 7, seed=seed)
        y, state = layer.apply(params, state, x, train=True)
        assert_close(y, module(x), **CLOSE)
    assert_close(by_name(state), dict(module.named_buffers()), **CLOSE)


def test_a_module_in_two_places_is_one():
    shared = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    module = filled(nn.Sequential(shared, nn.Tanh(), shared))
    layer, params, state = fl.nn.from_module(module)
    assert sorted(params) == sorted(state) == ["0"]
    x = numbers(3, 5)
    for _ in range(2):
        y, state = layer.apply(params, state, x, train=True)
        assert_close(y, module(x), **CLOSE)
    assert_close(by_name(state), dict(module.named_buffers()), **CLOSE)


@pytest.mark.parametrize("name", ["shared", "old weight_norm", "lstm"])
def test_a_layer_keeps_nothing_of_a_call(name):
    part = nn.Linear(5, 5)
    made = {"shared": lambda: nn.Sequential(part, part)}
    made |= {name: make for name, (make, _) in CASES.items()}
    layer, params, _ = fl.nn.from_module(made[name]())
    x = torch.ones(2, 5, dtype=fl.tree.leaves(params)[0].dtype)
    params = fl.tree.map(torch.clone, params)
    fl.grad(lambda p: fl.tree.leaves(layer.apply(p, x))[0].sum())(params)
    layer.apply(params, x)
    left = [weakref.ref(leaf) for leaf in fl.tree.leaves(params)]
    del params
    gc.collect()
    assert [ref() for ref in left] == [None] * len(left)


class Counts(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.calls = 3
        self._private = 4
        self.count: Any
        self.register_buffer("count", torch.tensor(2.0))

    def forward(self, x):
        if self.how == "in place":
            self.count += 5
        elif self.how == "method":
            self.count.mul_(3)
        elif self.how == "out":
            torch.add(self.count, 5, out=self.count)
        elif self.how == "another":
            self.count = self.count + 5
        elif self.how == "python":
            self.calls += 1
        elif self.how == "private":
            self._private += 1
            return x * self._private
        return x * self.count


@pytest.mark.parametrize(
    ("how", "after"),
    [("in place", 7.0), ("method", 6.0), ("out", 7.0), ("another", 7.0)],
)
def test_a_buffer_that_changes_is_named(how, after):
    x = torch.tensor([2.0, 3.0])
    layer, params, state = fl.nn.from_module(nn.Sequential(Counts(how)))
    assert state == ()
    for train in (False, True):
        with pytest.raises(ValueError, match=r"got a module that writes .*state=\['0"):
            layer.apply(params, x, train=train)
    module = nn.Sequential(Counts("none"))
    assert_close(fl.nn.from_module(module).layer.apply((), x), 2 * x, **EXACT)
    layer, params, state = fl.nn.from_module(
        nn.Sequential(Counts(how)), state=["0.count"]
    )
    begin = fl.tree.copy(state)
    y, end = layer.apply(params, state, x)
    assert_close(y, x * after, **EXACT)
    assert_close(end, {"0": {"count": torch.tensor(after)}}, **EXACT)
    assert_close(state, {"0": {"count": torch.tensor(2.0)}}, **EXACT)
    assert_close(layer.apply(params, state, x)[0], y, **EXACT)
    state["0"]["count"].add_(3)  # the caller's, not the layer's
    assert_close(layer.init(fl.random.key(0)), ((), begin), **EXACT)


class Statistics(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("var", torch.ones(2))

    def forward(self, x):
        return self.function(x, self.mean, self.var)


def test_statistics_written_by_a_function_are_named_too():
    x = numbers(3, 2, 5).float()
    for function in (
        lambda *args: F.batch_norm(*args, training=True),
        F.instance_norm,
    ):
        module = Statistics(function)
        with pytest.raises(ValueError, match=r"writes to it. Pass state=\['mean'\]"):
            fl.nn.from_module(module).layer.apply((), x)
        layer, _, state = fl.nn.from_module(module, state=["mean", "var"])
        y, state = layer.apply((), state, x)
        assert_close(y, module(x), **CLOSE)
        assert_close(state, dict(module.named_buffers()), **EXACT)
    module = Statistics(F.batch_norm)
    assert_close(fl.nn.from_module(module).layer.apply((), x), module(x), **EXACT)


def test_a_module_that_counts_in_python_is_refused():
    layer, params, _ = fl.nn.from_module(Counts("python"))
    for _ in range(2):  # the first call left nothing behind
        with pytest.raises(TypeError, match=r"no Python state .*\['Counts.calls'\]"):
            layer.apply(params, torch.ones(2))


def test_what_a_call_leaves_in_private_attributes_is_taken_back():
    layer, params, _ = fl.nn.from_module(Counts("private"))
    for _ in range(2):
        assert_close(layer.apply(params, torch.ones(2)), torch.full((2,), 5.0), **EXACT)


def test_an_error_inside_leaves_the_layer_as_it_was():
    module = mlp()
    layer, params, _ = fl.nn.from_module(module)
    y = layer.apply(params, numbers(3, 5))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        layer.apply(params, numbers(3, 7))
    assert_close(layer.apply(params, numbers(3, 5)), y, **EXACT)


def test_errors_name_the_leaf():
    layer, params, state = fl.nn.from_module(filled(ResNet()))
    x = numbers(2, 3, 5, 7)

    def run(params, state=state):
        return layer.apply(params, state, x)

    with pytest.raises(ValueError, match=r"apply: params\['fc'\]\['bias'\]: .*nothing"):
        run({**params, "fc": {"weight": params["fc"]["weight"]}})
    with pytest.raises(ValueError, match=r"params\['fd'\]: expected no such name"):
        run({**params, "fd": torch.ones(2)})
    wrong = {**params["fc"], "weight": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=r"\['weight'\]: .*\(2, 7\), got \(2, 3\)"):
        run({**params, "fc": wrong})
    with pytest.raises(TypeError, match=r"\['weight'\]: expected a tensor, got float"):
        run({**params, "fc": {**params["fc"], "weight": 2.0}})
    with pytest.raises(ValueError, match=r"params\['conv1'\]\['weight'\]: .*nothing"):
        run(())
    with pytest.raises(ValueError, match=r"apply: state\['bn1'\]\['running_mean'\]"):
        run(params, ())


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"from_module: module: .*got Layer"):
        fl.nn.from_module(fl.nn.linear(2, 3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"got a lazy '0.weight'. Call the module"):
        fl.nn.from_module(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match=r"names of buffers, got 'x'. .*\['count'\]"):
        fl.nn.from_module(Counts("none"), state=["x"])
    with pytest.raises(TypeError, match=r"sequence of names, .* Pass \['count'\]"):
        fl.nn.from_module(Counts("none"), state="count")
    with pytest.warns(DeprecationWarning, match=r"torch.jit.trace"):
        scripted: Any = torch.jit.trace(nn.Linear(2, 3), torch.ones(2))
    with pytest.raises(TypeError, match=r"modules of Python, got a ScriptModule"):
        fl.nn.from_module(nn.Sequential(scripted))
    with pytest.raises(TypeError, match=r"key: expected one key, .* got 3 \(int\)"):
        fl.nn.from_module(nn.Linear(2, 3)).layer.init(3)  # pyright: ignore
    module: Any = nn.Linear(2, 3)
    module.uncopied = (i for i in range(2))
    with pytest.raises(TypeError, match=r"copy.deepcopy takes, got Linear"):
        fl.nn.from_module(module)


@pytest.mark.parametrize(
    ("make", "name"), [(nn.GRU, "GRU"), (nn.LSTM, "LSTM"), (nn.RNN, "RNN")]
)
def test_fused_recurrence_under_vmap_is_refused(make, name):
    layer, params, _ = fl.nn.from_module(make(5, 3))
    x = torch.ones(2, 7, 5)
    with pytest.raises(
        ValueError, match=rf"no fused nn.{name} under vmap.*fl.nn.{name.lower()},"
    ):
        fl.vmap(lambda x: layer.apply(params, x)[0])(x)
    module = make(5, 3, 2, dropout=0.3)
    layer, params, _ = fl.nn.from_module(module)
    lengths = torch.tensor([7, 3])
    packed = nn.utils.rnn.pack_padded_sequence(x.transpose(0, 1), lengths)
    for given in (x, packed):
        got = layer.apply(params, given)[0]
        assert_close(got, module.eval()(given)[0])
        with pytest.raises(ValueError, match=rf"no dropout inside nn.{name}, got 0.3"):
            layer.apply(params, given, train=True, key=fl.random.key(0))


@pytest.mark.usefixtures("no_inductor")
def test_fused_recurrence_under_jit_is_refused():
    layer, params, _ = fl.nn.from_module(nn.GRU(5, 3))
    line = r"jit: run: .*test_bridge.py:\d+: .*: cannot be .*fl.nn.rnn, fl.nn.gru or"

    def run(x):
        return layer.apply(params, x)[0]

    with pytest.raises(RuntimeError, match=line):
        fl.jit(run)(torch.ones(7, 2, 5))


class Recomputes(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(5, 3), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_checkpointed_has_its_gradient(reentrant):
    # As torch does it, the gradient is zero: no transform sees through it.
    module = filled(Recomputes(reentrant))
    layer, params, _ = fl.nn.from_module(module)
    x = numbers(2, 5)

    def loss_fn(params, x):
        return weighted(layer.apply(params, x, train=True))

    each = fl.vmap(fl.grad(loss_fn), (None, 0))(params, x)
    for i in range(2):
        inner = module.inner  # without the checkpoint: the same numbers
        expected = gradients(inner, weighted(inner(x[i])))
        for grads in (each["inner"], fl.grad(loss_fn)(params, x[i])["inner"]):
            rows = by_name(grads)
            own = {n: g[i] if g.ndim > expected[n].ndim else g for n, g in rows.items()}
            assert_close(own, expected, **CLOSE)
    y = module(x.requires_grad_())  # torch's own are in their place again
    assert type(y.grad_fn).__name__.startswith("CheckpointFunction") == reentrant


class Branches(nn.Module):
    def __init__(self, ask):
        super().__init__()
        self.ask = ask

    def forward(self, x):
        return 2 * x if self.ask(x) else x


@pytest.mark.usefixtures("no_inductor")
@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda x: x.sum() > 0, "a branch on one"),
        (lambda x: x.detach().sum().item() > 0, r"Tensor\.item\(\)"),
        (lambda x: float(x.detach()[0]) > 0, r"Tensor\.__float__\(\)"),
        (lambda x: x.tolist()[0] > 0, r"Tensor\.tolist\(\)"),
    ],
    ids=["bool", "item", "float", "tolist"],
)
def test_a_branch_on_a_value_under_vmap_is_named(ask, what):
    layer, params, _ = fl.nn.from_module(Branches(ask))
    xs = torch.tensor([[2.0, 3.0], [-5.0, 0.5]])

    def run(x):
        return layer.apply(params, x)

    def loss(x):
        return run(x).sum()

    assert_close(run(xs[0]), 2 * xs[0], **EXACT)
    assert_close(fl.grad(loss)(xs[1]), torch.ones(2), **EXACT)
    line = rf"under vmap, .* got {what} in .*test_bridge.py:\d+: `.*\. "
    for function in (fl.vmap(run), fl.vmap(fl.grad(loss))):
        with pytest.raises(RuntimeError, match=rf"{line}Wrap .* fl\.jit"):
            function(xs)
    with pytest.raises(RuntimeError, match=rf"{line}Write torch\.where"):
        fl.jit(fl.vmap(run))(xs)
    with pytest.raises(
        RuntimeError, match=r"jit: run: .*test_bridge.py.*the value of a"
    ):
        fl.jit(run)(xs[0])
