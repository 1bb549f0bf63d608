"""checkpoint: the same results, and less memory, measured by counting."""

import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile

W = torch.linspace(-0.8, 1.1, 49, dtype=torch.float64).reshape(7, 7)
X = torch.linspace(0.3, 1.7, 35, dtype=torch.float64).reshape(5, 7)


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


def layer(w, x):
    return torch.sin(torch.tanh(x @ w) * x)


def network(around):
    """A loss of three layers, each within `around`."""

    def loss(w, x):
        for _ in range(3):
            x = around(layer)(w, x)
        return (x * x).sum()

    return loss


PLAIN, LIGHT = network(lambda f: f), network(fl.checkpoint)


def jax_loss(w, x):
    for _ in range(3):
        x = jax.checkpoint(lambda w, x: jnp.sin(jnp.tanh(x @ w) * x))(w, x)
    return (x * x).sum()


def same(got, expected):
    assert_close(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("jit", [lambda f: f, fl.jit])
def test_gradients_equal_jax(jit, monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    with jax.enable_x64(True):
        args = jnp.asarray(W.numpy()), jnp.asarray(X.numpy())
        theirs = jax.grad(jax_loss, (0, 1))(*args)
        theirs = [torch.tensor(leaf.tolist(), dtype=W.dtype) for leaf in theirs]
    same(jit(fl.grad(LIGHT, (0, 1)))(W, X), tuple(theirs))


TRANSFORMS: dict[str, Any] = {
    "value": lambda f: f,
    "value_and_grad": lambda f: fl.value_and_grad(f, (0, 1)),
    "grad of grad": lambda f: fl.grad(lambda w, x: (fl.grad(f)(w, x) ** 2).sum()),
    "vmap": lambda f: fl.vmap(f, in_dims=(None, 0)),
    "vmap of grad": lambda f: fl.vmap(fl.grad(f), in_dims=(None, 0)),
    "grad of vmap": lambda f: fl.grad(fl.mean_over_batch(f)),
    "jvp": lambda f: lambda w, x: fl.jvp(f, (w, x), (x.T @ x, x)),
    "vjp": lambda f: lambda w, x: fl.vjp(f, w, x)[1](torch.ones_like(w[0, 0])),
    "hvp": lambda f: lambda w, x: fl.hvp(f, (w, x), (w,)),
    "jacfwd": fl.jacfwd,
    "jacrev": fl.jacrev,
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_nothing_changes_under_any_transform(transform):
    same(transform(LIGHT)(W, X), transform(PLAIN)(W, X))


@pytest.mark.parametrize("name", ["value", "value_and_grad", "grad of grad", "hvp"])
def test_nothing_changes_under_jit(name, monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    transform = TRANSFORMS[name]
    step: Callable[..., Any] = fl.jit(transform(LIGHT))
    same(step(W, X), transform(PLAIN)(W, X))


def counted(count):
    def f(w, x):
        count.append(1)
        return layer(w, x)

    return f


def test_each_part_is_computed_once_more_in_the_backward_pass():
    count = []
    f = counted(count)
    same(
        fl.grad(lambda w: fl.checkpoint(f)(w, fl.checkpoint(f)(w, X)).sum())(W),
        fl.grad(lambda w: layer(w, layer(w, X)).sum())(W),
    )
    assert len(count) == 4


@pytest.mark.parametrize(
    "inside", [lambda f: f, lambda f: fl.vmap(f, in_dims=(None, 0)), fl.checkpoint]
)
def test_what_is_inside_is_computed_again(inside):
    count = []
    f = fl.checkpoint(inside(counted(count)))
    expected = fl.grad(lambda w: inside(layer)(w, X).sum())(W)
    same(fl.grad(lambda w: f(w, X).sum())(W), expected)
    assert len(count) >= 2


def kept_bytes(loss):
    """What a backward pass finds in memory, each tensor's memory once."""
    kept = {}

    def pack(leaf):
        storage = leaf.untyped_storage()
        kept[storage.data_ptr()] = leaf, storage.nbytes()
        return leaf

    w = W.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda leaf: leaf):
        value = loss(w, X)
    del value
    return sum(size for _, size in kept.values())


def deep(around, depth=8):
    def loss(w, x):
        for _ in range(depth):
            x = around(layer)(w, x)
        return x.sum()

    return loss


def test_what_is_kept_for_the_backward_pass_is_the_arguments():
    of_x, of_w = X.untyped_storage().nbytes(), W.untyped_storage().nbytes()
    plain = kept_bytes(deep(lambda f: f))
    light = kept_bytes(deep(fl.checkpoint))
    assert light == 8 * of_x + of_w
    # A layer keeps, besides its argument, the tanh and what the sine is taken of.
    assert plain == 8 * 3 * of_x + of_w


def test_scan_over_a_checkpoint_keeps_the_carries():
    count = []

    def step(w, carry, x):
        count.append(1)
        return layer(w, carry + x), None

    def loss(around, w):
        f = around(functools.partial(step, w))
        return fl.scan(f, X, torch.stack([X, X * 0.3, X * 1.4]))[0].sum()

    expected = fl.grad(functools.partial(loss, lambda f: f))(W)
    assert len(count) == 3
    same(fl.grad(functools.partial(loss, fl.checkpoint))(W), expected)
    assert len(count) == 3 + 6


def compiled_tanhs(f, monkeypatch):
    """How many tanh the compiler is given to compute."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return boxed_nop(graph, inputs)

    monkeypatch.setattr(_compile, "BACKEND", aot_autograd(fw_compiler=keep))
    f(W, X)
    (graph,) = graphs
    nodes = graph.graph.nodes
    return sum(node.target is torch.ops.aten.tanh.default for node in nodes)


@pytest.mark.parametrize(
    ("loss", "tanhs"),
    [
        (PLAIN, 3),
        (LIGHT, 6),
        (fl.checkpoint(PLAIN), 6),
        (network(lambda f: fl.checkpoint(fl.vmap(f, in_dims=(None, 0)))), 6),
    ],
)
def test_it_is_computed_again_in_compiled_code(loss, tanhs, monkeypatch):
    step = fl.jit(fl.value_and_grad(loss))
    assert compiled_tanhs(step, monkeypatch) == tanhs


def test_inductor_computes_again_and_equals_eager():
    from torch._inductor.utils import run_and_get_code

    step = fl.jit(fl.value_and_grad(LIGHT))
    got, code = run_and_get_code(step, W, X)
    same(got, fl.value_and_grad(PLAIN)(W, X))
    assert "".join(code).count(".tanh()") >= 6


def test_random_numbers_are_drawn_again_from_their_key():
    def noisy(w, key):
        return (fl.random.normal(key, (7,), dtype=w.dtype) * torch.tanh(w)).sum()

    key = fl.random.key(3)
    same(fl.grad(fl.checkpoint(noisy))(W, key), fl.grad(noisy)(W, key))


def test_trees_keywords_and_closures_pass():
    @fl.checkpoint
    def f(params, n, *, scale):
        return {"y": params["w"].sin() * n * scale * W, "rest": (n, None)}

    def loss(w, scale):
        result = f({"w": w}, 3, scale=scale)
        assert result["rest"] == (3, None)
        return result["y"].sum()

    expected = W.cos() * 3 * 1.7 * W
    same(fl.grad(loss)(W, torch.tensor(1.7, dtype=W.dtype)), expected)


def test_under_backward_of_torch():
    w = W.clone().requires_grad_()
    LIGHT(w, X).backward()
    assert w.grad is not None
    same(w.grad, fl.grad(PLAIN)(W, X))


def test_in_another_thread(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "eager")
    got = []
    step = fl.jit(fl.grad(LIGHT))
    thread = threading.Thread(target=lambda: got.append(step(W, X)))
    thread.start()
    thread.join()
    same(got, [fl.grad(PLAIN)(W, X)])


@pytest.mark.parametrize("jit", [lambda f: f, fl.jit])
def test_a_gradient_inside_is_refused(jit):
    inner = fl.checkpoint(lambda w, x: fl.grad(PLAIN)(w, x).sum())
    with pytest.raises(RuntimeError, match=r"checkpoint: .* takes no gradient itself"):
        jit(fl.grad(inner))(W, X)
    # Nothing is left disabled behind it.
    same(fl.grad(LIGHT)(W, X), fl.grad(PLAIN)(W, X))


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="checkpoint: fn: expected a function, got a t"):
        fl.checkpoint(any_(X))


def peak_bytes(call):
    """The most that one call allocates at a time, beside what is there before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = any_(record.profiler).kineto_results.events()
    events = [event for event in events if event.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes))


def attention_block(x, qkv):
    heads = (x @ qkv).unflatten(-1, (3, 2, -1)).transpose(1, 3)
    y = torch.nn.functional.scaled_dot_product_attention(*heads.unbind(2))
    return x + y.transpose(1, 2).flatten(2)


def test_fused_attention_is_kept_and_all_else_computed_again(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "aot_eager")
    x = torch.linspace(0.3, 1.7, 60, dtype=torch.float64).reshape(2, 5, 6)
    qkv = torch.linspace(-0.8, 1.1, 108, dtype=torch.float64).reshape(6, 18)

    def gradient_of(block):
        return fl.grad(lambda qkv: block(block(x, qkv), qkv).square().mean())

    light = fl.jit(gradient_of(fl.checkpoint(attention_block)))
    same(light(qkv), gradient_of(attention_block)(qkv))


def test_compiled_it_takes_less_than_half_of_the_memory():
    generator = torch.Generator().manual_seed(5)

    def numbers(*shape):
        return 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)

    sizes = [(8, 24), (8, 8), (8, 32), (32, 8)]
    layers = [tuple(numbers(*size) for size in sizes) for _ in range(4)]
    x = numbers(3, 12, 8)

    def block(layer, x):
        qkv, out, up, down = layer
        h = torch.nn.functional.layer_norm(x, (8,))
        query, key, value = (h @ qkv).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
        y = torch.softmax(query @ key.mT, -1) @ value
        x = x + y.transpose(1, 2).flatten(2) @ out
        return x + torch.tanh(torch.nn.functional.layer_norm(x, (8,)) @ up) @ down

    def loss(block, layers, x):
        for layer in layers:
            x = block(layer, x)
        return x.square().mean()

    plain, light = (
        fl.jit(fl.grad(functools.partial(loss, f)))
        for f in (block, fl.checkpoint(block))
    )
    same(light(layers, x), plain(layers, x))
    peak, least = (peak_bytes(lambda f=f: f(layers, x)) for f in (plain, light))
    assert least < 0.5 * peak
