# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch

from functorch_lab import optim, tree

OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.03},
    {"lr": 0.03, "weight_decay": 0.2},
    {"lr": 0.03, "momentum": 0.8},
    {"lr": 0.03, "momentum": 0.8, "dampening": 0.3},
    {"lr": 0.03, "momentum": 0.8, "nesterov": True},
    {"lr": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2},
    {"lr": 0.03, "momentum": 0.8, "dampening": -0.4, "weight_decay": 0.2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sgd_is_torchs(lab, options):
    params, grads = lab.params(), lab.grads()
    got, state = lab.train(optim.sgd(**options), params, grads)
    expected, states = lab.train_torch(
        lambda leaves: torch.optim.SGD(leaves, **options), params, grads
    )
    lab.close(got, expected)
    if "momentum" in options:
        buffers = [s["momentum_buffer"] for s in states]
        lab.close(tree.leaves(state.momentum_buffer), buffers)
    else:
        assert state.momentum_buffer == ()
    assert state.step.item() == len(grads)


def test_defaults_are_torchs(lab):
    params, grads = lab.params(), lab.grads(3)
    got, _ = lab.train(optim.sgd(), params, grads)
    expected, _ = lab.train_torch(torch.optim.SGD, params, grads)
    lab.close(got, expected)


def test_sgd_in_float32_is_as_near_to_float64_as_torchs(lab):
    options: dict[str, Any] = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2}
    exact, _ = lab.train(optim.sgd(**options), lab.params(), lab.grads())
    single = torch.float32
    got, _ = lab.train(
        optim.sgd(**options), lab.params(single), lab.grads(dtype=single)
    )
    lab.close(tree.cast(got[-1], torch.float64), exact[-1], rtol=1e-6, atol=1e-6)
    assert {leaf.dtype for leaf in tree.leaves(got[-1])} == {single}


def test_trace_and_scale_in_a_chain_are_sgd(lab):
    params, grads = lab.params(), lab.grads(7)
    parts = optim.chain(
        optim.add_decayed_weights(0.2),
        optim.trace(0.8, nesterov=True),
        optim.scale(-0.03),
    )
    got, _ = lab.train(parts, params, grads)
    options: dict[str, Any] = {
        "lr": 0.03,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.2,
    }
    expected, _ = lab.train_torch(
        lambda leaves: torch.optim.SGD(leaves, **options), params, grads
    )
    lab.close(got, expected)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(name, value):
    message = rf"optim\.sgd: {name}: expected a finite number >= 0, got {value}\. Pass"
    with pytest.raises(ValueError, match=message):
        optim.sgd(**{name: value})


def test_nesterov_needs_momentum():
    message = r"optim\.sgd: nesterov: expected momentum > 0 and dampening 0, got momen"
    with pytest.raises(ValueError, match=message):
        optim.sgd(nesterov=True)
    with pytest.raises(ValueError, match=message):
        optim.sgd(momentum=0.9, dampening=0.1, nesterov=True)


def test_weight_decay_needs_params(lab):
    optimizer = optim.sgd(weight_decay=0.1)
    state = optimizer.init(lab.params())
    message = r"optim\.sgd\.update: params: expected the parameters, .* got None"
    with pytest.raises(ValueError, match=message):
        optimizer.update(lab.grads(1)[0], state)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_grads_of_other_params_are_refused_by_path(lab, momentum):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = optim.sgd(momentum=momentum)
    state = optimizer.init(params)
    wrong = tree.at(grads, "['in']['weight']").set(torch.randn(7, 2))
    message = (
        r"optim\.sgd\.update: grads and params differ at \['in'\]\['weight'\]: "
        r"expected \(2, 7\), got \(7, 2\)\. Pass the gradients of"
    )
    with pytest.raises(ValueError, match=message):
        optimizer.update(wrong, state, params)
    with pytest.raises(ValueError, match=r"optim\.sgd\.update: .* \(missing 's'\)"):
        optimizer.update({k: grads[k] for k in ("in", "out")}, state, params)
