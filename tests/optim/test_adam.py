# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest
import torch

from functorch_lab import optim, tree

OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.03},
    {"lr": 0.03, "betas": (0.7, 0.95)},
    {"lr": 0.03, "eps": 0.1},
    {"lr": 0.03, "weight_decay": 0.2},
    {"lr": 0.03, "betas": (0.0, 0.9), "eps": 1e-3, "weight_decay": 0.4},
    {"lr": 0.03, "weight_decay": 0.0},
]
PAIRS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_adam_is_torchs(lab, name, options):
    params, grads = lab.params(), lab.grads()
    got, state = lab.train(getattr(optim, name)(**options), params, grads)
    expected, states = lab.train_torch(
        lambda leaves: PAIRS[name](leaves, **options), params, grads
    )
    lab.close(got, expected)
    lab.close(tree.leaves(state.exp_avg), [s["exp_avg"] for s in states])
    lab.close(tree.leaves(state.exp_avg_sq), [s["exp_avg_sq"] for s in states])
    assert state.step.item() == states[0]["step"].item()
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    got = [c.item() for c in state.bias_correction]
    lab.close(got, [1 - b ** len(grads) for b in (beta1, beta2)])


@pytest.mark.parametrize("name", PAIRS)
def test_defaults_are_torchs(lab, name):
    params, grads = lab.params(), lab.grads(3)
    got, _ = lab.train(getattr(optim, name)(), params, grads)
    expected, _ = lab.train_torch(PAIRS[name], params, grads)
    lab.close(got, expected)


def test_the_float32_update_is_within_ulps_of_a_float64_one(lab):
    # Updates, not params: the rounding of the params would hide that of the kernel.
    def updates(dtype):
        optimizer = optim.scale_by_adam()
        state = optimizer.init(lab.params(dtype))
        update = None
        for g in lab.grads(300, dtype):
            update, state = optimizer.update(g, state)
        return tree.cast(update, torch.float64)

    lab.close(updates(torch.float32), updates(torch.float64), rtol=5e-6, atol=1e-6)


def test_float32_params_drift_no_more_than_torchs(lab):
    single = torch.float32
    exact, _ = lab.train_torch(torch.optim.Adam, lab.params(), lab.grads())
    args = (lab.params(single), lab.grads(dtype=single))
    got, _ = lab.train(optim.adam(), *args)
    torchs, _ = lab.train_torch(torch.optim.Adam, *args)

    def drift(params):
        difference = tree.sub(tree.cast(params, torch.float64), exact[-1])
        return max(leaf.abs().max().item() for leaf in tree.leaves(difference))

    assert drift(got[-1]) < max(1.5 * drift(torchs[-1]), 1e-6)


def test_parts_in_a_chain_are_adamw(lab):
    params, grads = lab.params(), lab.grads(7)
    parts = optim.chain(
        optim.scale_by_adam(betas=(0.7, 0.95)),
        optim.add_decayed_weights(0.2),
        optim.scale(-0.03),
    )
    got, _ = lab.train(parts, params, grads)
    options: dict[str, Any] = {"lr": 0.03, "betas": (0.7, 0.95), "weight_decay": 0.2}
    expected, _ = lab.train_torch(
        lambda leaves: torch.optim.AdamW(leaves, **options), params, grads
    )
    lab.close(got, expected)


def test_the_mask_chooses_the_leaves_that_decay(lab):
    params, grads = lab.params(), lab.grads(5)
    options: dict[str, Any] = {"lr": 0.03, "weight_decay": 0.4}
    got, _ = lab.train(optim.adamw(mask="in.*", **options), params, grads)
    with_decay, _ = lab.train_torch(
        lambda leaves: torch.optim.AdamW(leaves, **options), params, grads
    )
    without, _ = lab.train_torch(
        lambda leaves: torch.optim.AdamW(leaves, lr=0.03, weight_decay=0.0),
        params,
        grads,
    )
    lab.close(got[-1]["in"], with_decay[-1]["in"])
    lab.close([got[-1]["out"], got[-1]["s"]], [without[-1]["out"], without[-1]["s"]])
    by_predicate = optim.adamw(mask=lambda path, leaf: leaf.shape == (2, 7), **options)
    lab.close(lab.train(by_predicate, params, grads)[0], got, rtol=0, atol=0)


def test_a_mask_that_matches_nothing_is_refused(lab):
    with pytest.raises(ValueError, match=r"pattern.* got 'encoder\.\*'"):
        optim.adamw(mask="encoder.*").init(lab.params())


def test_bfloat16_params_have_a_float32_state(lab):
    half = torch.bfloat16
    params, (grads,) = lab.params(half), lab.grads(1, half)
    optimizer = optim.adamw(lr=0.03)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    dtypes = {
        leaf.dtype for leaf in tree.leaves((updates, state.exp_avg, state.exp_avg_sq))
    }
    assert dtypes == {torch.float32}
    assert optim.get_hyperparams(state)["lr"].dtype == torch.float32
    wide = tree.cast(params, torch.float64)
    (exact,), _ = lab.train_torch(
        lambda leaves: torch.optim.AdamW(leaves, lr=0.03),
        wide,
        [tree.cast(grads, torch.float64)],
    )
    got = optim.apply_updates(params, updates)
    lab.close(got, tree.cast(exact, half), rtol=0, atol=0)


def test_leaves_of_two_dtypes_keep_theirs():
    params = {"a": torch.randn(3), "b": torch.randn(()), "c": torch.randn(2).double()}
    optimizer = optim.adamw()
    updates, state = optimizer.update(params, optimizer.init(params), params)
    for found in (updates, state.exp_avg, state.exp_avg_sq):
        assert [leaf.dtype for leaf in tree.leaves(found)] == [
            torch.float32,
            torch.float32,
            torch.float64,
        ]


@pytest.mark.parametrize("name", ["adam", "adamw", "scale_by_adam"])
def test_values_out_of_range_are_refused(name):
    make = getattr(optim, name)
    for betas in [(1.0, 0.9), (0.9, -0.1), (0.9, float("nan"))]:
        with pytest.raises(
            ValueError, match=rf"optim\.{name}: betas: expected two num"
        ):
            make(betas=betas)
    with pytest.raises(ValueError, match=rf"optim\.{name}: eps: .* got -1e-08"):
        make(eps=-1e-8)
    with pytest.raises(TypeError, match=rf"optim\.{name}: betas: .* got 0\.9"):
        make(betas=0.9)
    with pytest.raises(TypeError, match=rf"optim\.{name}: eps: .* got str"):
        make(eps="small")


def test_another_librarys_names_are_translated():
    make: Any = optim.adam
    for name, here in {"learning_rate": "lr", "b1": "betas", "b2": "betas"}.items():
        message = rf"optim\.adam: {name}: expected .*, got {name}=\. Write {here}="
        with pytest.raises(TypeError, match=message):
            make(**{name: 0.1})
    with pytest.raises(TypeError, match=r"optim\.adam: amsgrad: .* Use one of these"):
        make(amsgrad=True)


def test_the_state_of_another_optimizer_is_refused(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    message = (
        r"optim\.adam\.update: state: expected a AdamState .*, got SGDState\. Pass"
    )
    with pytest.raises(TypeError, match=message):
        optim.adam().update(grads, optim.sgd().init(params))
    message = (
        r"optim\.adam\.update: state: .* got one with lr, betas, eps, weight_decay"
    )
    with pytest.raises(TypeError, match=message):
        optim.adam().update(grads, optim.adamw().init(params))


def test_grads_of_other_params_are_refused_by_path(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    state = optim.adam().init(params)
    wrong = tree.at(grads, "['out'][1][0]").set(torch.randn(2, 5))
    message = (
        r"optim\.adam\.update: grads and params differ at \['out'\]\[1\]\[0\]: "
        r"expected \(5, 2\), got \(2, 5\)\. Pass the gradients of the params that init"
    )
    with pytest.raises(ValueError, match=message):
        optim.adam().update(wrong, state)


def test_params_must_be_real_tensors():
    with pytest.raises(TypeError, match=r"adam\.init: params: .* got float at \['w'\]"):
        optim.adam().init({"w": 0.5})
    with pytest.raises(TypeError, match=r"expected real tensors, got torch\.complex64"):
        optim.adam().init(torch.randn(2, dtype=torch.complex64))
