# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""vit against the vision transformer of Hugging Face, in float64."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import functorch_lab as fl
from functorch_lab import nn, random, tree
from transformer_models import loss_of, vit_pair, vit_tree

SHAPES = {"wide": ((6, 8), (3, 2)), "square": (6, 3)}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def close(actual, expected, atol=1e-14):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=atol)


def prepare(shape="wide"):
    model, module = vit_pair(*SHAPES[shape])
    size = (6, 8) if shape == "wide" else (6, 6)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, 5, *size, generator=generator, dtype=torch.float64)
    params = vit_tree(dict(module.named_parameters()))
    return model, module, tree.map(torch.Tensor.detach, params), x


def module_gradients(module, x):
    x = x.clone().requires_grad_()
    leaves = dict(module.named_parameters())
    loss = loss_of(module(x).logits)
    *grads, grad_x = torch.autograd.grad(loss, [*leaves.values(), x])
    return vit_tree(dict(zip(leaves, grads, strict=True))), grad_x


@every_shape
def test_logits_and_gradients_equal_those_of_hugging_face(shape):
    model, module, params, x = prepare(shape)
    fresh = model.init(random.key(3))
    assert tree.structure(fresh) == tree.structure(params)
    shapes = [p.shape for p in tree.leaves(fresh)]
    assert shapes == [p.shape for p in tree.leaves(params)]
    expected = module(x).logits.detach()
    close(model.apply(params, x), expected)
    close(model.apply(params, x, train=True), expected)
    grads = fl.grad(lambda p, x: loss_of(model.apply(p, x)), (0, 1))(params, x)
    close(grads, module_gradients(module, x), 1e-13)


@every_shape
def test_per_sample_gradients_are_one_backward_pass_for_each(shape):
    model, module, params, x = prepare(shape)
    weights = torch.linspace(0.3, 1.7, 2, dtype=torch.float64)

    def loss_fn(params, x):
        return (model.apply(params, x) ** 2 * weights).sum()

    per_sample = fl.vmap(fl.grad(loss_fn, (0, 1)), (None, 0))(params, x)
    rows = [module_gradients(module, row[None]) for row in x]
    close(per_sample, tree.stack([(p, g[0]) for p, g in rows]), 1e-13)


def test_any_leading_axes_are_a_batch():
    model, module, params, x = prepare()
    expected = module(x).logits.detach()
    close(model.apply(params, x[1]), expected[1])
    close(model.apply(params, x[None, :, None]), expected[None, :, None])
    assert model.apply(params, x[:0]).shape == (0, 2)


def test_the_first_params_are_distributed_as_those_of_hugging_face():
    model = nn.vit(12, 2, 60, 66, 2, 3)
    params = model.init(random.key(7))
    config = ViTConfig(
        hidden_size=66,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=4 * 66,
        image_size=12,
        patch_size=2,
        num_labels=60,
    )
    torch.manual_seed(3)
    module = ViTForImageClassification(config)
    expected = vit_tree(dict(module.named_parameters()))
    leaves = tree.leaves(params), tree.leaves(expected)
    for path, ours, theirs in zip(tree.paths(params), *leaves, strict=True):
        assert ours.shape == theirs.shape, path
        n = ours.numel()
        if theirs.unique().numel() == 1:
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=0)
            continue
        # Both are estimates from n draws; five standard errors.
        assert abs(ours.std().item() / theirs.std().item() - 1) < 5 / n**0.5, path
        assert abs(ours.mean().item()) < 5 * 0.02 / n**0.5, path


def test_dropout_needs_a_key_in_training_only():
    model = nn.vit(4, 2, 3, 6, 2, 3, in_channels=2, dropout=0.3)
    plain = nn.vit(4, 2, 3, 6, 2, 3, in_channels=2)
    params = model.init(random.key(3))
    x = torch.linspace(-1.0, 1.4, 3 * 32).reshape(3, 2, 4, 4)
    close(model.apply(params, x), plain.apply(params, x))
    a, b = (
        model.apply(params, x, key=k, train=True) for k in random.split(random.key(5))
    )
    assert not torch.equal(a, b)
    # Without blocks and their dropout, that of the embedding remains.
    quiet = {**params, "blocks": tree.zeros_like(params["blocks"])}
    y = model.apply(quiet, x, key=random.key(5), train=True)
    assert not torch.equal(y, model.apply(quiet, x))
    with pytest.raises(ValueError, match=r"nn.vit: key: expected a key .* got None"):
        model.apply(params, x, train=True)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.vit(0, 2, 3, 6, 1, 3), ValueError, "image_size: .* got 0"),
        (
            lambda: nn.vit((6, 7), 2, 3, 6, 1, 3),
            ValueError,
            r"patch_size: expected a divisor of image_size=\(6, 7\), got \(2, 2\)",
        ),
        (lambda: nn.vit((6, 7, 2), 2, 3, 6, 1, 3), ValueError, "image_size: .* got 3"),
        (lambda: nn.vit(6, 2, 0, 6, 1, 3), ValueError, "nn.vit: num_classes: .* got 0"),
        (lambda: nn.vit(6, 2, 3, 6, 0, 3), ValueError, "nn.vit: num_layers: .* got 0"),
        (
            lambda: nn.vit(6, 2, 3, 6, 1, 4),
            ValueError,
            "num_heads: expected a divisor of embed_dim=6, got 4",
        ),
        (
            lambda: nn.vit(6, 2, 3, 6, 1, 3, in_channels=0),
            ValueError,
            "nn.vit: in_channels: .* got 0",
        ),
        (lambda: nn.vit(6, 2.0, 3, 6, 1, 3), TypeError, "patch_size: .* got float"),
    ],
)
def test_errors_of_the_configuration(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def without_head(params):
    return {k: v for k, v in params.items() if k != "head"}


@pytest.mark.parametrize(
    ("change", "shape", "kind", "message"),
    [
        (None, (5, 8, 6), ValueError, r"x: expected shape \(..., 5, 6, 8\), got \(5,"),
        (None, (2, 3, 6, 8), ValueError, r"got \(2, 3, 6, 8\). Resize"),
        (None, (6, 8), ValueError, r"got \(6, 8\)"),
        (without_head, (5, 6, 8), ValueError, r"vit: params: expected a dict with \["),
        (
            lambda p: {**p, "blocks": p["blocks"] * 2},
            (5, 6, 8),
            ValueError,
            r"vit: params\['blocks'\]: expected a tuple of 2, got tuple of length 4",
        ),
        (
            lambda p: {**p, "class_token": p["class_token"][None]},
            (5, 6, 8),
            ValueError,
            r"params\['class_token'\]: expected .* \(6,\), got \(1, 6\)",
        ),
        (tree.paths, (5, 6, 8), ValueError, "params: expected a dict .* got list"),
    ],
)
def test_errors_of_a_call(change, shape, kind, message):
    model, _, params, _ = prepare()
    x = torch.ones(shape, dtype=torch.float64)
    with pytest.raises(kind, match=message):
        model.apply(change(params) if change else params, x)


def test_images_of_integers_are_refused():
    model, _, params, x = prepare()
    with pytest.raises(TypeError, match=r"nn.vit: x: .* got torch.uint8"):
        model.apply(params, x.to(torch.uint8))
