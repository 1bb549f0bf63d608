# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from functorch_lab import optim, tree

INNER = {
    "sgd": lambda: optim.sgd(lr=0.03),
    "momentum": lambda: optim.sgd(0.03, momentum=0.8, dampening=0.1, weight_decay=0.2),
    "nesterov": lambda: optim.sgd(lr=0.03, momentum=0.8, nesterov=True),
    "adam": lambda: optim.adam(lr=0.03, weight_decay=0.2),
    "adamw": lambda: optim.adamw(lr=optim.schedules.cosine(0.03, 5)),
    "chain": lambda: optim.chain(optim.scale_by_adam(), optim.scale(-0.03)),
}


def mixed(params):
    """Leaves of two dtypes, in turns, and one that is no floating point."""
    return {
        **tree.at(params, "['out'][0]").apply(lambda p: p.float()),
        "n": torch.arange(3),
    }


@pytest.mark.parametrize("name", INNER)
def test_fused_is_inner_bit_for_bit(lab, name):
    params, grads = lab.params(), lab.grads(7)
    got, _ = lab.train(optim.fused(INNER[name]()), params, grads)
    expected, _ = lab.train(INNER[name](), params, grads)
    lab.close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", INNER)
def test_leaves_of_several_dtypes_and_holes_too(lab, name):
    params = mixed(lab.params())
    grads = [{**mixed(g), "n": ()} for g in lab.grads(5)]
    got, state = lab.train(optim.fused(INNER[name]()), params, grads)
    expected, _ = lab.train(INNER[name](), params, grads)
    lab.close(got, expected, rtol=0, atol=0)
    assert [leaf.dtype for leaf in tree.leaves(got[-1])] == [
        leaf.dtype for leaf in tree.leaves(params)
    ]
    buffers = [leaf for leaf in tree.leaves(state) if leaf.ndim > 0]
    assert {buffer.shape for buffer in buffers} <= {torch.Size([25]), torch.Size([3])}


def test_a_clip_before_it_is_that_of_all_leaves(lab):
    def make():
        return optim.chain(optim.clip_by_global_norm(0.7), optim.adamw(lr=0.03))

    params, grads = lab.params(), lab.grads(5)
    got, _ = lab.train(optim.fused(make()), params, grads)
    expected, _ = lab.train(make(), params, grads)
    lab.close(got, expected)


def test_what_looks_at_single_leaves_is_refused():
    message = r"optim\.fused: inner: expected an elementwise transformation"
    frozen = optim.freeze(optim.sgd(), "in.*")
    masked = optim.adamw(mask="*.weight")
    for inner in (frozen, masked, optim.chain(optim.sgd(), masked)):
        assert not optim.is_elementwise(inner)
        with pytest.raises(ValueError, match=message):
            optim.fused(inner)
    with pytest.raises(TypeError, match=r"optim\.fused: .* got function\. Call"):
        optim.fused(optim.adam)  # pyright: ignore[reportArgumentType]


def test_a_transformation_of_ones_own_is_accepted_when_marked(lab):
    def update(grads, state, params=None, **extra):
        return tree.map(torch.sign, grads), state

    make = type(optim.chain())
    with pytest.raises(ValueError, match="elementwise"):
        optim.fused(make(lambda params: (), update))
    sign = make(lambda params: (), optim.elementwise(update))
    (grads,) = lab.grads(1)
    got, _ = optim.fused(sign).update(grads, ())
    lab.close(got, tree.map(torch.sign, grads))


def test_grads_of_other_params_are_refused_by_path(lab):
    params, (grads,) = lab.params(), lab.grads(1)
    optimizer = optim.fused(optim.adam())
    state = optimizer.init(params)
    wrong = tree.at(grads, "['in']['weight']").set(torch.randn(7, 2))
    message = r"optim\.fused\.update: grads and params differ at \['in'\]\['weight'\]"
    with pytest.raises(ValueError, match=message):
        optimizer.update(wrong, state, params)
    hole = {**grads, "s": ()}
    with pytest.raises(ValueError, match=r"fused\.update: .* at \['s'\]: .* got \(\)"):
        optimizer.update(hole, state, params)
    with pytest.raises(
        ValueError, match=r"adam\.update: .* expected \(28,\), got \(27"
    ):
        optimizer.update(hole, state)


def test_params_without_floating_leaves_are_left_alone():
    optimizer = optim.fused(optim.adam())
    params = {"n": torch.arange(3)}
    updates, _ = optimizer.update({"n": ()}, optimizer.init(params), params)
    assert updates == {"n": ()}
