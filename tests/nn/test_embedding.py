# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Embedding: values, gradients and padding against torch.nn.Embedding, in float64."""

import pytest
import torch
from torch import nn as torch_nn
from torch.func import grad, jacfwd, jacrev, vmap

from functorch_lab import nn, random
from parity import close, loss_of, same_distribution

WEIGHT = torch.linspace(-1.3, 2.1, 35, dtype=torch.float64).sin().reshape(7, 5)
TOKENS = torch.tensor([[2, 6, 2], [0, 3, 6]])
PADDINGS = [None, 2, 6, -1, -5, -7]
every_padding = pytest.mark.parametrize("padding", PADDINGS)


def both(padding):
    """Our layer, torch's module with the same weight, and the params."""
    module = torch_nn.Embedding(7, 5, padding_idx=padding).double()
    module.load_state_dict({"weight": WEIGHT})
    return nn.embedding(7, 5, padding_idx=padding), module, {"weight": WEIGHT}


def module_gradient(module, tokens):
    loss = loss_of(module(tokens) ** 2)
    return {"weight": torch.autograd.grad(loss, module.weight)[0]}


@every_padding
def test_outputs_and_gradients_match_torch(padding):
    layer, module, params = both(padding)
    before = WEIGHT.clone()
    close(layer.apply(params, TOKENS), module(TOKENS).detach())
    actual = grad(lambda p: loss_of(layer.apply(p, TOKENS) ** 2))(params)
    close(actual, module_gradient(module, TOKENS))
    torch.testing.assert_close(WEIGHT, before, rtol=0, atol=0)


@every_padding
def test_vmap_of_grad_matches_a_loop_over_samples(padding):
    layer, module, params = both(padding)
    sample_grad = grad(lambda p, x: loss_of(layer.apply(p, x) ** 2))
    actual = vmap(sample_grad, in_dims=(None, 0))(params, TOKENS)["weight"]
    loop = [module_gradient(module, row)["weight"] for row in TOKENS]
    close(actual, torch.stack(loop))


@every_padding
def test_a_population_of_params(padding):
    layer, _, params = both(padding)
    many = {"weight": torch.stack([WEIGHT, 0.5 * WEIGHT])}
    expected = layer.apply(params, TOKENS)
    close(
        vmap(layer.apply, (0, None))(many, TOKENS),
        torch.stack([expected, expected / 2]),
    )
    rows = vmap(layer.apply, (0, 0))(many, TOKENS)
    close(rows, torch.stack([expected[0], expected[1] / 2]))


@every_padding
def test_forward_and_second_derivatives_leave_padding_out(padding):
    layer, module, _ = both(padding)

    def function(weight):
        return layer.apply({"weight": weight}, TOKENS) ** 2

    forward, reverse = jacfwd(function)(WEIGHT), jacrev(function)(WEIGHT)
    close(forward, reverse)
    hessian = jacfwd(grad(lambda w: function(w).sum()))(WEIGHT)
    # The second derivative of a sum of squares: 2 for each time a row is used.
    used = module_gradient(module, TOKENS)["weight"].abs().sum(1) > 0
    counts = torch.bincount(TOKENS.flatten(), minlength=7) * used
    diagonal = hessian.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)
    close(diagonal, 2.0 * counts.double()[:, None].expand(7, 5))
    close(hessian.abs().sum(), 10.0 * counts.double().sum())


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (2, 1, 3), (0, 2)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_any_shape_of_integers(shape, dtype):
    layer, _, params = both(2)
    tokens = (torch.arange(torch.Size(shape).numel()) * 3 % 7).reshape(shape)
    y = layer.apply(params, tokens.to(dtype))
    assert y.shape == (*shape, 5)
    close(y, WEIGHT[tokens])


@every_padding
def test_init_is_that_of_torch(padding, device):
    layer = nn.embedding(1000, 70, padding_idx=padding)
    module = torch_nn.Embedding(1000, 70, padding_idx=padding)
    torch.manual_seed(0)
    module.reset_parameters()
    weight = layer.init(random.key(3, device=device))["weight"]
    assert (weight.shape, weight.dtype) == ((1000, 70), torch.float32)
    assert weight.device.type == device.type
    same_distribution(weight.cpu(), module.weight.detach(), None)
    zero = (weight == 0).all(1).nonzero().flatten().tolist()
    assert zero == ([] if padding is None else [padding % 1000])


def test_an_initializer_replaces_the_default_but_at_the_padding():
    layer = nn.embedding(3, 2, padding_idx=1, weight_init=nn.init.constant(0.7))
    keys = random.split(random.key(0), 5)
    expected = torch.tensor([[0.7, 0.7], [0.0, 0.0], [0.7, 0.7]])
    torch.testing.assert_close(layer.init(keys[0]), {"weight": expected})
    many = vmap(layer.init)(keys)["weight"]
    torch.testing.assert_close(many, expected.expand(5, 3, 2))


def test_an_infinite_vector_of_padding_leaves_no_nan():
    layer = nn.embedding(3, 2, padding_idx=1)
    table = torch.tensor([[2.0, 3.0], [torch.inf, torch.nan], [5.0, 7.0]])

    def loss(params):
        y = layer.apply(params, torch.tensor([0, 1, 0]))
        return torch.where(y.isfinite(), y, 0.0).square().sum()

    expected = torch.tensor([[8.0, 12.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(grad(loss)({"weight": table})["weight"], expected)


PARAMS = {"weight": WEIGHT}
LAYER = nn.embedding(7, 5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.embedding(0, 5), ValueError, "num_embeddings: .* got 0"),
        (lambda: nn.embedding(7, 0), ValueError, "embedding_dim: .* got 0"),
        (lambda: nn.embedding(7, 5.0), TypeError, "embedding_dim: .* got float"),
        (lambda: nn.embedding(7, 5, padding_idx=7), ValueError,
         "padding_idx: expected below num_embeddings=7, got 7"),
        (lambda: nn.embedding(7, 5, padding_idx=-8), ValueError,
         "padding_idx: expected at least -7, got -8"),
        (lambda: nn.embedding(7, 5, padding_idx=True), TypeError, "got bool"),
        (lambda: LAYER.apply(PARAMS, TOKENS.double()), TypeError,
         "nn.embedding: x: expected a tensor of integers, got torch.float64"),
        (lambda: LAYER.apply(PARAMS, TOKENS > 2), TypeError, "got torch.bool"),
        (lambda: LAYER.apply(PARAMS, [2, 3]), TypeError, "got list"),
        (lambda: LAYER.apply(PARAMS, TOKENS.to("meta")), TypeError,
         "x: expected device cpu, as the params have, got meta"),
        (lambda: LAYER.apply((), TOKENS), ValueError, r"with \['weight'\], got tuple"),
        (lambda: nn.embedding(5, 7).apply(PARAMS, TOKENS), ValueError,
         r"params\['weight'\]: expected a tensor of shape \(5, 7\), got \(7, 5\)"),
        (lambda: LAYER.apply(PARAMS, TOKENS + 1), IndexError,
         "nn.embedding: x: expected integers from 0 to .* got some outside"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected_and_got(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
