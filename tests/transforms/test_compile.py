"""What jit hands to torch.compile, and derivatives of derivatives under jit."""

import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile

W = torch.tensor([0.7, -0.4], dtype=torch.float64)
X = torch.tensor([[0.3, -1.7, 2.2], [1.4, 0.6, -0.9]], dtype=torch.float64)


@pytest.mark.parametrize("chosen", [None, False])
def test_instruction_sets_are_not_tried_unless_the_environment_says(
    monkeypatch, chosen
):
    from torch._inductor import config

    monkeypatch.setattr(sys, "platform", "linux")
    found: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda fn, **options: found.update(options))

    def flat(x):
        return x

    assert isinstance(flat, types.FunctionType)
    # What TORCHINDUCTOR_VEC_ISA_OK sets: None without it.
    with config.patch({"cpp.vec_isa_ok": chosen}):
        _compile.compile_flat(flat, "f", mode=None, dynamic=False, fullgraph=True)
    expected = {"cpp.vec_isa_ok": True} if chosen is None else {}
    got = {k: v for k, v in found["options"].items() if k == "cpp.vec_isa_ok"}
    assert got == expected


def scalar(np: Any) -> Any:
    return lambda w, x: np.sin(w[0] * x).sum() * np.exp(w[1] * x[0]) + (w**3).sum()


def twice(lib, f):
    """The second derivative in a direction, by forward mode in forward mode."""

    def inner(w, x):
        return lib.jvp(lambda w: f(w, x), (w,), (w * 2,))[1]

    return lambda w, x: lib.jvp(lambda w: inner(w, x), (w,), (w,))


NESTED: dict[str, Any] = {
    "vmap(hessian)": lambda lib, f: lib.vmap(lib.hessian(f), (None, 0)),
    "vmap(jvp(jvp))": lambda lib, f: lib.vmap(twice(lib, f), (None, 0)),
    "vmap(jvp(jacfwd))": lambda lib, f: lib.vmap(
        lambda w, x: lib.jvp(lambda w: lib.jacfwd(f)(w, x), (w,), (w,)), (None, 0)
    ),
}


@pytest.mark.parametrize("name", NESTED)
def test_second_derivatives_under_jit_equal_jax(monkeypatch, name):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    function: Callable[..., Any] = NESTED[name](fl, scalar(torch))
    ours = fl.jit(function)(W, X)
    with jax.enable_x64(True):
        args = jnp.asarray(W.numpy()), jnp.asarray(X.numpy())
        theirs = jax.tree.leaves(NESTED[name](jax, scalar(jnp))(*args))
        expected = [torch.tensor(x.tolist(), dtype=torch.float64) for x in theirs]
    for a, b in zip(jax.tree.leaves(ours), expected, strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_what_cannot_be_compiled_is_named_and_harms_no_other(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    f = scalar(torch)
    jitted = fl.jit(fl.vmap(fl.jacfwd(fl.jacrev(f)), in_dims=(None, 0)))
    with pytest.raises(RuntimeError, match=r"inside vmap: .* Use hessian, or jacrev"):
        jitted(W, X)
    after = fl.jit(fl.vmap(fl.grad(f), in_dims=(None, 0)))(W, X)
    assert_close(after, torch.stack([fl.grad(f)(W, x) for x in X]))
