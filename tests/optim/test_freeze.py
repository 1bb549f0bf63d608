# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from functorch_lab import optim, tree

FROZEN = {
    "pattern": "out.*",
    "predicate": lambda path, leaf: path.startswith("['out']"),
}


@pytest.mark.parametrize("how", FROZEN)
@pytest.mark.parametrize("is_fused", [False, True])
def test_frozen_leaves_rest_and_the_others_train(lab, how, is_fused):
    params, grads = lab.params(), lab.grads(5)
    inner = optim.fused(optim.adamw()) if is_fused else optim.adamw()
    got, state = lab.train(optim.freeze(inner, FROZEN[how]), params, grads)
    alone, _ = lab.train_torch(torch.optim.AdamW, params, grads)
    lab.close([got[-1]["in"], got[-1]["s"]], [alone[-1]["in"], alone[-1]["s"]])
    lab.close(got[-1]["out"], params["out"], rtol=0, atol=0)
    assert sum(leaf.numel() for leaf in tree.leaves(state.exp_avg)) == 2 * 7 + 1


def test_frozen_leaves_get_zero_updates_without_params_too(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = optim.freeze(optim.sgd(lr=0.3), "out.*")
    updates, _ = optimizer.update(grads, optimizer.init(params))
    lab.close(updates["out"], tree.zeros_like(params["out"]))
    lab.close(updates["s"], -0.3 * grads["s"])


def test_holes_stay_holes(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = optim.freeze(optim.adam(), "out.*")
    updates, _ = optimizer.update({**grads, "s": ()}, optimizer.init(params), params)
    assert updates["s"] == ()


def test_a_pattern_that_matches_nothing_is_refused(lab):
    with pytest.raises(ValueError, match=r"got 'encoder\.\*', which matches no leaf"):
        optim.freeze(optim.adam(), "encoder.*").init(lab.params())
    with pytest.raises(TypeError, match=r"optim\.freeze: .* got str"):
        optim.freeze("encoder.*", optim.adam())  # pyright: ignore[reportArgumentType]
