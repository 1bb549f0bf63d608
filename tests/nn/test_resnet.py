# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""resnet against torch.nn: modules with torchvision's names, shapes and init."""

import math

import pytest
import torch
from torch import nn as torch_nn
from torch.func import functional_call

import functorch_lab as fl
from bridge_models import Block, filled, numbers, weighted
from functorch_lab import nn, random, tree

KEY = random.key(3)


class Module(torch_nn.Module):
    """A network of basic blocks, as torchvision builds it."""

    def __init__(self, blocks, classes, channels, width, small):
        super().__init__()
        stem = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = torch_nn.Conv2d(channels, width, *stem, bias=False)
        self.bn1 = torch_nn.BatchNorm2d(width)
        self.maxpool = torch_nn.Identity() if small else torch_nn.MaxPool2d(3, 2, 1)
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        inputs = width
        for i, (stage, number) in enumerate(zip(self.stages, blocks, strict=True)):
            outputs = width * 2**i
            first = Block(inputs, outputs, 2 if i else 1)
            rest = [Block(outputs, outputs, 1) for _ in range(number - 1)]
            self.add_module(stage, torch_nn.Sequential(first, *rest))
            inputs = outputs
        self.avgpool = torch_nn.AdaptiveAvgPool2d((1, 1))
        self.fc = torch_nn.Linear(inputs, classes)
        for part in self.modules():
            if isinstance(part, torch_nn.Conv2d):
                torch_nn.init.kaiming_normal_(
                    part.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def by_name(tree_):
    """Leaves by the names of torch."""
    names = [
        p.strip("[]").replace("'", "").replace("][", ".") for p in tree.paths(tree_)
    ]
    return dict(zip(names, tree.leaves(tree_), strict=True))


def like(tree_, tensors):
    """The tree with the tensors that a module has under these names."""
    leaves = [tensors[name].detach().clone() for name in by_name(tree_)]
    return tree.unflatten(tree.structure(tree_), leaves)


def close(actual, expected, rtol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-12)


BLOCKS, CLASSES = (2, 1, 1, 1), 5
IMAGES = {True: (2, 3, 7, 10), False: (2, 3, 33, 38)}


def pair(small, norm="batch"):
    """Our layer with its trees, and the module with the same numbers."""
    layer = nn.resnet(BLOCKS, CLASSES, width=2, small_images=small, norm=norm)
    module = Module(BLOCKS, CLASSES, 3, 2, small)
    if norm == "group":
        module = grouped(module)
    module = filled(module)
    params, state = nn.stateful(layer).init(KEY)
    params = like(params, dict(module.named_parameters()))
    return layer, params, tree.cast(state, torch.float64), module


def grouped(module, size=2):
    """With GroupNorm of `size` channels in each group in place of batch norm."""
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, torch_nn.BatchNorm2d):
                n = child.num_features
                setattr(part, name, torch_nn.GroupNorm(n // size, n))
    return module


@pytest.mark.parametrize("small", [True, False])
def test_several_training_steps_are_the_modules(small):
    layer, params, state, module = pair(small)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for step in range(4):
        x = numbers(*IMAGES[small], seed=step)

        def loss_fn(params, x, state=state):
            y, state = layer.apply(params, state, x, train=True)
            return weighted(y), (y, state)

        before = tree.copy((params, state, x))
        grads, (y, after) = fl.grad(loss_fn, (0, 1), has_aux=True)(params, x)
        close((params, state, x), before, rtol=0)
        theirs = x.clone().requires_grad_()
        expected = module(theirs)
        optimizer.zero_grad()
        weighted(expected).backward()
        named = dict(module.named_parameters())
        close(y, expected.detach())
        close(by_name(grads[0]), {name: p.grad for name, p in named.items()}, 1e-11)
        close(grads[1], theirs.grad, 1e-11)
        close(by_name(after), dict(module.named_buffers()))
        optimizer.step()
        params = like(params, named)
        state = after
    module.eval()
    x = numbers(*IMAGES[small], seed=11)
    y, same = layer.apply(params, state, x)
    close(y, module(x).detach())
    close(same, state, rtol=0)


def test_group_norm_has_no_state_and_treats_samples_alone():
    layer, params, state, module = pair(small=True, norm="group")
    assert isinstance(layer, fl.types.Layer)
    assert tree.leaves(state) == []
    x = numbers(3, *IMAGES[True][1:])
    named = {name: p.detach() for name, p in module.named_parameters()}
    assert sorted(by_name(params)) == sorted(named)
    close(layer.apply(params, x, train=True), module(x).detach())

    def sample_loss(params, x):
        return weighted(layer.apply(params, x, train=True))

    got = by_name(fl.vmap(fl.grad(sample_loss), (None, 0))(params, x))
    for i in range(3):
        module.zero_grad()
        weighted(module(x[i : i + 1])).backward()
        expected = {name: p.grad for name, p in module.named_parameters()}
        close({name: leaf[i] for name, leaf in got.items()}, expected, 1e-11)


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 32), (96, 32), (6, 3), (80, 20), (7, 1), (1, 1)]
)
def test_groups_have_two_channels_or_more(channels, groups):
    layer = nn.resnet((1,), 2, width=channels, small_images=True, norm="group")
    module = filled(
        grouped(Module((1,), 2, 3, channels, small=True), channels // groups)
    )
    params = like(layer.init(KEY), dict(module.named_parameters()))
    x = numbers(1, 3, 5, 7)
    close(layer.apply(params, x), module(x).detach())


def test_norm_may_be_a_function_of_the_channels():
    layer = nn.resnet(
        (1, 1),
        5,
        width=2,
        small_images=True,
        norm=lambda n: nn.group_norm(1, n, spatial_dims=2, affine=False),
    )
    module = Module((1, 1), 5, 3, 2, small=True)
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, torch_nn.BatchNorm2d):
                plain = torch_nn.GroupNorm(1, child.num_features, affine=False)
                setattr(part, name, plain)
    params = like(layer.init(KEY), dict(filled(module).named_parameters()))
    assert params["bn1"] == ()
    x = numbers(2, 3, 5, 7)
    close(layer.apply(params, x), module(x).detach())


def test_leading_axes_are_one_batch_in_training():
    layer, params, state, module = pair(small=True)
    x = numbers(2, 3, *IMAGES[True][1:])
    y, after = layer.apply(params, state, x, train=True)
    close(y, module(x.flatten(0, 1)).detach().reshape(2, 3, CLASSES))
    module.eval()
    y, _ = layer.apply(params, after, x[1, 2])
    close(y, module(x[1, 2][None])[0].detach())


def test_a_population_is_a_loop_over_models():
    layer, params, state, module = pair(small=True)
    both = tree.stack([params, tree.scale(params, 0.7)])
    x = numbers(*IMAGES[True])

    def step(params, state, x):
        def loss_fn(params):
            y, after = layer.apply(params, state, x, train=True)
            return weighted(y), after

        return fl.grad(loss_fn, has_aux=True)(params)

    got = fl.vmap(step, (0, None, None))(both, state, x)
    buffers = dict(module.named_buffers())
    for i, own in enumerate(tree.unstack(both)):
        leaves = {k: p.clone().requires_grad_() for k, p in by_name(own).items()}
        after = {name: buffer.clone() for name, buffer in buffers.items()}
        y = functional_call(module, {**leaves, **after}, x)
        expected = torch.autograd.grad(weighted(y), list(leaves.values()))
        grads, state_ = tree.unstack(got)[i]
        close(list(by_name(grads).values()), list(expected), 1e-11)
        close(by_name(state_), after)


def test_resnet18_is_torchvisions():
    model = nn.resnet18()
    params, state = model.init(KEY)
    assert tree.size(params) == 11_689_512
    with torch.device("meta"):
        module = Module((2, 2, 2, 2), 1000, 3, 64, small=False)
        small = Module((2, 2, 2, 2), 10, 3, 64, small=True)
        deeper = Module((3, 4, 6, 3), 1000, 3, 64, small=False)
    ours = {name: leaf.shape for name, leaf in by_name((params, state)).items()}
    theirs = {f"0.{n}": p.shape for n, p in module.named_parameters()}
    theirs |= {f"1.{n}": b.shape for n, b in module.named_buffers()}
    assert ours == theirs
    assert sum(p.numel() for p in small.parameters()) == 11_173_962
    assert sum(p.numel() for p in deeper.parameters()) == 21_797_672
    # The distributions: a variance of 2 / fan_out, ones, zeros, and 1 / sqrt(512).
    for name, leaf in by_name(params).items():
        kind = name.split(".")[-2]
        if leaf.ndim == 4:
            std = math.sqrt(2 / (leaf.shape[0] * leaf.shape[2] * leaf.shape[3]))
            assert abs(leaf.std().item() / std - 1) < 5 / math.sqrt(2 * leaf.numel())
            assert abs(leaf.mean().item()) < 5 * std / math.sqrt(leaf.numel())
            assert leaf.abs().max().item() > 3 * std  # not uniform
        elif kind == "fc":
            assert 0.99 < leaf.abs().max().item() * math.sqrt(512) <= 1
        else:
            value = 1.0 if name.endswith("weight") else 0.0
            close(leaf, torch.full_like(leaf, value), rtol=0)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda **o: nn.resnet18(10, small_images=True, **o), ((2, 2, 2, 2), 10, True)),
        (lambda **o: nn.resnet((3, 4, 6, 3), **o), ((3, 4, 6, 3), 1000, False)),
    ],
    ids=["18 for small images", "34"],
)
def test_other_depths_and_stems_have_torchvisions_names_and_shapes(make, options):
    blocks, classes, small = options
    params, _ = make(width=2).init(KEY)
    module = Module(blocks, classes, 3, 2, small)
    expected = {name: p.shape for name, p in module.named_parameters()}
    assert {name: leaf.shape for name, leaf in by_name(params).items()} == expected


MODEL = nn.resnet18(5, width=2, small_images=True)
PARAMS, STATE = MODEL.init(KEY)
WIDER = nn.resnet18(5, width=3, small_images=True)
LARGE = nn.resnet18(5, width=2)
GROUP = nn.resnet((1,), 5, width=2, small_images=True, norm="group")
X = torch.linspace(-1.0, 1.3, 2 * 3 * 8 * 9).reshape(2, 3, 8, 9)


def moved(state):
    first, block = state["layer3"]
    block = {**block, "bn2": {**block["bn2"], "running_mean": torch.ones(7)}}
    return {**state, "layer3": (first, block)}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: MODEL.apply(PARAMS, STATE, X[0], train=True), ValueError,
         r"nn.resnet18: x: expected a batch, of shape \(batch, 3, height, width\), "
         r'with train=True, got one sample, \(3, 8, 9\). .*norm="group"'),
        (lambda: MODEL.apply(PARAMS, STATE, X[:1, :, :8, :8], train=True), ValueError,
         r"nn.resnet18: x: expected more than one value per channel after 3 halvings "
         r".* got shape \(1, 3, 8, 8\)"),
        (lambda: LARGE.apply(*LARGE.init(KEY), torch.ones(1, 3, 32, 32), train=True),
         ValueError, "after 5 halvings"),
        (lambda: fl.vmap(lambda x: MODEL.apply(PARAMS, STATE, x, train=True))(X[None]),
         ValueError,
         r"nn.batch_norm at \['bn1'\]: x: expected a whole batch with train=True"),
        (lambda: MODEL.apply(PARAMS, moved(STATE), X), ValueError,
         r"nn.batch_norm at \['layer3'\]\[1\]\['bn2'\]: state\['running_mean'\]: "
         r"expected a tensor of shape \(8,\), got \(7,\). Pass the state"),
        (lambda: MODEL.apply(PARAMS, (), X), ValueError,
         r"nn.compose: state: expected a dict with \['bn1', .* got tuple"),
        (lambda: MODEL.apply(WIDER.init(KEY)[0], STATE, X), ValueError,
         r"nn.conv2d at \['conv1'\]: params\['weight'\]: expected a tensor of shape "
         r"\(2, 3, 3, 3\), got \(3, 3, 3, 3\). Pass the params that this layer's init"),
        (lambda: GROUP.apply(PARAMS, X), ValueError,
         r"nn.compose: params: expected a dict with .* got .*'layer2'"),
        (lambda: MODEL.apply(PARAMS, STATE, X[:, :2]), ValueError,
         r"nn.resnet18: x: expected shape \(..., 3, height, width\), got"),
        (lambda: MODEL.apply(PARAMS, STATE, X.long()), TypeError,
         "nn.resnet18: x: expected a floating-point tensor, got torch.int64"),
        (lambda: MODEL.apply(PARAMS, STATE, X.double()), TypeError,
         "x: expected torch.float32, as the params have, got torch.float64"),
        (lambda: nn.resnet18(0), ValueError, "nn.resnet18: num_classes: .* got 0"),
        (lambda: nn.resnet18(in_channels=0), ValueError, "in_channels: .* got 0"),
        (lambda: nn.resnet18(width=1.5), TypeError, "width: expected an integer"),
        (lambda: nn.resnet(()), ValueError, "nn.resnet: blocks: .* got none"),
        (lambda: nn.resnet((2, 0)), ValueError, "nn.resnet: blocks: .* got 0"),
        (lambda: nn.resnet(2), TypeError, "nn.resnet: blocks: .* got int"),
        (lambda: nn.resnet18(norm="layer"), ValueError,
         r'nn.resnet18: norm: expected "batch", "group" or a function .* \'layer\''),
        (lambda: nn.resnet18(norm=nn.linear(2, 3)), TypeError, "norm: .* got Layer"),
        (lambda: nn.resnet18(norm=7), TypeError, "norm: .* got int"),
        (lambda: nn.resnet18(norm=lambda n: n), TypeError,
         "norm: .* got one that returns int"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
