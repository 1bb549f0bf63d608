# SPDX-License-Identifier: Apache-2.0
"""chain, scale, clip_by_global_norm, add_decayed_weights and apply_updates."""

import numpy as np
import pytest
import torch

from functorch_lab import optim, tree


def to_numpy(params):
    return tree.map(lambda leaf: leaf.numpy(), params)


@pytest.fixture
def optax():
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        yield optax


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e3])
def test_clip_by_global_norm_is_optaxs(lab, optax, max_norm):
    (grads,) = lab.grads(1)
    ours, theirs = (
        optim.clip_by_global_norm(max_norm),
        optax.clip_by_global_norm(max_norm),
    )
    got, _ = ours.update(grads, ours.init(grads))
    expected, _ = theirs.update(to_numpy(grads), theirs.init(to_numpy(grads)))
    expected = tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), expected)
    lab.close(got, expected)


def test_a_zero_gradient_passes_the_clip_and_has_a_derivative():
    clip = optim.clip_by_global_norm(0.7)
    zero = torch.zeros(3)
    jacobian = torch.func.jacrev(lambda g: clip.update(g, clip.init(g))[0])(zero)
    torch.testing.assert_close(jacobian, torch.eye(3))


def test_a_gradient_that_is_not_finite_stays_so_after_the_clip():
    clip = optim.clip_by_global_norm(0.7)
    for bad in (float("nan"), float("inf")):
        grads = torch.tensor([2.0, bad])
        assert not clip.update(grads, clip.init(grads))[0].isfinite().all()


def test_the_norm_of_half_precision_grads_does_not_overflow():
    clip = optim.clip_by_global_norm(5.0)
    grads = torch.full((7,), 300.0, dtype=torch.float16)  # 300**2 > 65504
    updates, _ = clip.update(grads, clip.init(grads))
    torch.testing.assert_close(updates, torch.full((7,), 5.0 / 7**0.5))


def test_scale_takes_a_number_a_tensor_or_a_schedule(lab):
    (grads,) = lab.grads(1)
    expected = tree.scale(grads, -0.3)
    for step_size in (-0.3, torch.tensor(-0.3, dtype=torch.float64), lambda step: -0.3):
        part = optim.scale(step_size)
        lab.close(part.update(grads, part.init(grads))[0], expected)


def test_scale_by_schedule_begins_at_step_0(lab):
    (grads,) = lab.grads(1)
    part = optim.scale_by_schedule(lambda step: 1 / (2 + step))
    state = part.init(grads)
    for factor in (1 / 2, 1 / 3, 1 / 4):
        updates, state = part.update(grads, state)
        lab.close(updates, tree.scale(grads, factor))
    with pytest.raises(
        TypeError, match=r"scale_by_schedule: step_size_fn: .* got float"
    ):
        optim.scale_by_schedule(0.1)  # pyright: ignore[reportArgumentType]


def test_add_decayed_weights_adds_where_the_mask_says(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    part = optim.add_decayed_weights(0.3, mask="out.*")
    updates, _ = part.update(grads, part.init(params), params)
    lab.close(updates["in"], grads["in"])
    expected = tree.add(grads["out"], tree.scale(params["out"], 0.3))
    lab.close(updates["out"], expected)


def test_chain_passes_params_and_extras_to_every_member(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    seen = []

    def update(grads, state, params=None, **extra):
        seen.append((params is not None, extra))
        return grads, state

    probe = optim.chain()
    probe = type(probe)(lambda params: (), update)
    both = optim.chain(probe, optim.chain(probe))
    both.update(grads, both.init(params), params, loss=torch.tensor(2.0))
    assert seen == [(True, {"loss": torch.tensor(2.0)})] * 2


def test_an_empty_chain_changes_nothing(lab):
    (grads,) = lab.grads(1)
    empty = optim.chain()
    assert empty.update(grads, empty.init(grads)) == (grads, ())


def test_chain_refuses_what_is_no_transformation_and_foreign_states(lab):
    with pytest.raises(TypeError, match=r"optim\.chain: .* got function\. Call"):
        optim.chain(optim.adam)  # pyright: ignore[reportArgumentType]
    (grads,) = lab.grads(1)
    two = optim.chain(optim.scale(0.3), optim.scale(0.7))
    with pytest.raises(
        ValueError, match=r"chain\.update: state: expected a tuple of 2"
    ):
        two.update(grads, optim.scale(0.3).init(grads))


def test_apply_updates_keeps_dtypes_and_holes():
    params = {
        "half": torch.tensor([1.5, -2.5], dtype=torch.bfloat16),
        "single": torch.tensor(0.3),
        "count": torch.tensor([3, 4]),
    }
    updates = {
        "half": torch.tensor([0.25, 1.0]),
        "single": torch.tensor(0.4),
        "count": (),
    }
    got = optim.apply_updates(params, updates)
    assert [leaf.dtype for leaf in tree.leaves(got)] == [
        torch.int64,
        torch.bfloat16,
        torch.float32,
    ]
    torch.testing.assert_close(got["half"].float(), torch.tensor([1.75, -1.5]))
    torch.testing.assert_close(got["single"], torch.tensor(0.7))
    assert got["count"] is params["count"]
    wrong = {**updates, "half": torch.randn(3)}
    message = (
        r"optim\.apply_updates: updates and params differ at \['half'\]: "
        r"expected \(2,\), got \(3,\)"
    )
    with pytest.raises(ValueError, match=message):
        optim.apply_updates(params, wrong)


def test_max_norm_and_step_size_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"clip_by_global_norm: max_norm: .* got 0"):
        optim.clip_by_global_norm(0)
    with pytest.raises(ValueError, match=r"optim\.scale: step_size: .* got nan"):
        optim.scale(float("nan"))
    with pytest.raises(
        TypeError, match=r"clip_by_global_norm: norm: expected max_norm"
    ):
        optim.clip_by_global_norm(norm=1.0)  # pyright: ignore[reportCallIssue]


def test_a_float32_update_of_half_precision_params_is_rounded_once():
    params = torch.tensor([1.0], dtype=torch.bfloat16)
    just_over_half_a_step = torch.tensor([2.0**-8 + 2.0**-20])
    got = optim.apply_updates(params, just_over_half_a_step)
    assert got.item() == 1.0 + 2.0**-7
    wrong = (params + just_over_half_a_step.bfloat16()).item()
    assert wrong == 1.0, "the input does not tell the two roundings apart"


def test_scale_of_half_precision_grads_is_float32():
    part = optim.scale(0.3)
    grads = torch.tensor([1.5, -2.5], dtype=torch.bfloat16)
    updates, _ = part.update(grads, part.init(grads))
    torch.testing.assert_close(updates, torch.tensor([0.45, -0.75]))


NORMALLY_WITHOUT_PARAMS = {
    "clip_by_global_norm": lambda: optim.clip_by_global_norm(0.7),
    "scale": lambda: optim.scale(0.3),
    "scale_by_schedule": lambda: optim.scale_by_schedule(lambda step: 0.3),
    "sgd": lambda: optim.sgd(0.3),
}


@pytest.mark.parametrize("name", NORMALLY_WITHOUT_PARAMS)
def test_grads_that_do_not_fit_are_reported_by_name(lab, name):
    params, (grads,) = lab.params(), lab.grads(1)
    part = NORMALLY_WITHOUT_PARAMS[name]()
    state = part.init(params)
    where = rf"^optim\.{name}\.update: "
    absent = {**grads, "in": {"weight": None}}
    message = where + r"grads: expected tensors, got None at \['in'\]\['weight'\]\. "
    with pytest.raises(ValueError, match=message + "Write a hole"):
        part.update(absent, state)
    with pytest.raises(ValueError, match=where + r"grads: .* got None at the root"):
        part.update(None, state)
    message = where + r"grads and params differ at \['in'\]\['weight'\]: "
    with pytest.raises(
        ValueError, match=message + r"expected a tensor \(2, 7\), got N"
    ):
        part.update(absent, state, params)
    turned = {**grads, "in": {"weight": grads["in"]["weight"].T}}
    with pytest.raises(ValueError, match=message + r"expected \(2, 7\), got \(7, 2\)"):
        part.update(turned, state, params)


def test_fused_reports_an_absent_gradient_by_name(lab):
    part = optim.fused(optim.scale(0.3))
    params, (grads,) = lab.params(), lab.grads(1)
    with pytest.raises(ValueError, match=r"^optim\.fused\.update: .* None at \['s'\]"):
        part.update({**grads, "s": None}, part.init(params))
