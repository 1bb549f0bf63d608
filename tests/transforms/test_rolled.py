"""Loops on torch's operators under jit, against jax.lax, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
import torch
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab.transforms import _compile

X = torch.tensor(
    [[0.3, -1.7, 2.2], [1.4, 0.6, -0.9], [-0.2, 0.8, 1.9], [2.3, -0.5, 0.7]],
    dtype=torch.float64,
)
XS = torch.cat([X, X.flip(0) * 0.6, -X[:3] * 0.4])  # 11 steps
H = torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)
OPERATORS = ("scan", "while_loop")


class Graphs:
    """A backend that computes eagerly and keeps the names of the operators it saw."""

    def __init__(self) -> None:
        self.operators: list[str] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        names = [getattr(node.target, "_name", "") for node in graph.graph.nodes]
        self.operators += [name for name in names if name in OPERATORS]
        return graph.forward


@pytest.fixture(autouse=True)
def float64_in_jax():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    found = Graphs()
    monkeypatch.setattr(_compile, "BACKEND", found)
    return found


def as_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x.numpy()), tree)


def check(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        expected = torch.tensor(jnp.asarray(b).tolist(), dtype=a.dtype)
        assert_close(a, expected.reshape(a.shape), rtol=1e-12, atol=1e-14)


class Ours:
    """What a step is written with, here and in jax."""

    np = torch
    scan, cond, fori_loop = fl.scan, fl.cond, fl.fori_loop
    while_loop, checkpoint, grad = fl.while_loop, fl.checkpoint, fl.grad


class Theirs:
    np = jnp
    scan, cond, fori_loop = jax.lax.scan, jax.lax.cond, jax.lax.fori_loop
    while_loop, checkpoint, grad = jax.lax.while_loop, jax.checkpoint, jax.grad


def mixed(lib):
    """Numbers, bools and integers in the carry; ys with a hole."""

    def step(c, x):
        up = x.sum() > 0
        h = lib.np.tanh(c["h"] * 0.9 + x)
        carry = {"h": h, "n": c["n"] + 1, "up": c["up"] ^ up, "mean": c["mean"] + x[0]}
        return carry, (h, None, c["n"] * 2, up)

    init = {"n": 0, "mean": 0.0, "up": True}
    return lambda h, xs, **options: lib.scan(step, {"h": h, **init}, xs, **options)


@pytest.mark.parametrize(
    ("unroll", "reverse", "loops"), [(1, True, 1), (3, True, 1), (7, False, 0)]
)
def test_unroll_changes_the_graph_alone(graphs, unroll, reverse, loops):
    options = {"reverse": reverse, "unroll": unroll}
    ours = fl.jit(lambda h, xs: mixed(Ours)(h, xs, **options))(H, XS)
    check(ours, mixed(Theirs)(as_jax(H), as_jax(XS), reverse=reverse))
    assert graphs.operators == ["scan"] * loops


def body(lib, c, x):
    """One step with a loop, a branch and a gradient inside."""
    c = lib.fori_loop(2, 5, lambda i, v: v * 0.9 + v * i, c)
    c = lib.cond(x[0] > 0, lambda v: v * 0.7, lambda v: v - x, c)
    c = lib.while_loop(lambda v: v[0] < 0.8, lambda v: v + 0.3, c)
    c = c - 0.1 * lib.grad(lambda v: (lib.np.sin(v * x) ** 2).sum())(c)
    c, ys = lib.scan(lambda d, e: (d * 0.9 + e, d * e), c, x)
    return lib.checkpoint(lib.np.tanh)(c), ys


LOOPS = {
    "everything inside": lambda lib: (
        lambda h, xs: lib.scan(lambda c, x: body(lib, c, x), h, xs)
    ),
    "no carry": lambda lib: (
        lambda h, xs: lib.scan(lambda c, x: (c, lib.np.sin(x)), None, xs)
    ),
    "no xs and no ys": lambda lib: (
        lambda h, xs: lib.scan(lambda c, x: (c * 1.1, None), h, length=5)
    ),
    "nothing but ys": lambda lib: (
        lambda h, xs: lib.scan(lambda c, x: ((), h * 2), (), length=3)
    ),
    "results that are arguments": lambda lib: (
        lambda h, xs: lib.scan(
            lambda c, x: ((c[1], c[0]), (c[0], x, c[0], h)), (h, h * 2), xs
        )
    ),
    "closure over its own xs": lambda lib: (
        lambda h, xs: lib.scan(lambda c, x: (c * xs[2] + x, xs.sum()), xs[0], xs)
    ),
    "transposed": lambda lib: (
        lambda h, xs: lib.scan(
            lambda c, x: (c.T + x[0], x.T), xs[:3].T, xs[:9].reshape(3, 3, 3)
        )
    ),
    "fori_loop": lambda lib: (
        lambda h, xs: lib.fori_loop(2, 7, lambda i, v: v * 0.9 + i * xs[1], h)
    ),
    "while_loop": lambda lib: (
        lambda h, xs: lib.while_loop(
            lambda v: v["n"] < 6,
            lambda v: {"h": v["h"] * h, "n": v["n"] + 1},
            {"h": xs[1], "n": 2},
        )
    ),
    "while_loop of no steps": lambda lib: (
        lambda h, xs: lib.while_loop(lambda v: v[0] > 9, lambda v: v * h, h)
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_equal_jax(graphs, name):
    ours = fl.jit(LOOPS[name](Ours))(H, XS)
    check(ours, LOOPS[name](Theirs)(as_jax(H), as_jax(XS)))
    assert graphs.operators


def test_keys_in_the_carry():
    def step(key, _):
        key, use = fl.random.split(key)
        return key, fl.random.uniform(use, (2,))

    def theirs(key, _):
        key, use = jax.random.split(key)
        return key, jax.random.uniform(use, (2,), dtype=jnp.float32)

    _, ours = fl.jit(lambda key: fl.scan(step, key, length=5))(fl.random.key(7))
    _, ys = jax.lax.scan(theirs, jax.random.key(7), length=5)
    assert_close(ours, torch.tensor(ys.tolist()), rtol=0, atol=0)


def training(lib, np, value_and_grad, optimizer, apply_updates):
    def loss(params, x):
        return ((np.tanh(x * params["w"]) + params["b"]) ** 2).mean()

    def step(carry, x):
        params, state = carry
        value, grads = value_and_grad(loss)(params, x)
        updates, state = optimizer.update(grads, state, params)
        return (apply_updates(params, updates), state), value

    def run(params, xs):
        carry = params, optimizer.init(params)
        (params, _), losses = lib.scan(step, carry, xs)
        return params, losses

    return run


PARAMS = {"w": H, "b": XS[1]}
OPTIMIZER = fl.optim.sgd(lr=0.3, momentum=0.8)


def check_training(jitted):
    optimizer = optax.sgd(0.3, momentum=0.8)
    theirs = training(Theirs, jnp, jax.value_and_grad, optimizer, optax.apply_updates)
    check(jitted(PARAMS, XS), theirs(as_jax(PARAMS), as_jax(XS)))


def our_training():
    return training(Ours, torch, fl.value_and_grad, OPTIMIZER, fl.optim.apply_updates)


def test_a_training_loop_is_one_step_in_the_graph(graphs):
    check_training(fl.jit(our_training()))
    assert graphs.operators == ["scan"]


def test_a_training_loop_compiled(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "inductor")
    check_training(fl.jit(our_training()))


def plain_scan(step, carry, xs, reverse=False, unroll=1):
    """The loop in words: the oracle where values have to be equal to the last bit."""
    ys = []
    for t in reversed(range(len(xs))) if reverse else range(len(xs)):
        carry, y = step(carry, xs[t])
        ys.append(y)
    ys = ys[::-1] if reverse else ys
    return carry, jax.tree.map(lambda *leaves: torch.stack(leaves), *ys)


def plain_while(cond, step, value):
    while cond(value):
        value = step(value)
    return value


def intricate(scan, while_loop):
    """Carries that share memory, trade places and change strides, of all dtypes."""

    def shared(c, x):
        d, e = c[2].clone(), x.clone()
        d[0] = x[1]
        return (c[0], x, d.add_(x)), (c[0], c[1], e.mul_(2), d)

    def typed(c, x):
        h, n, up, z = c
        after = h * 0.5 + x.bfloat16(), n * 3 % 17, up ^ (x[0] > 0), x[2] - z
        return after, (n, z, x[1:].view(2, 1))

    def run(donated, xs):
        a, b = donated["a"], donated["b"]
        h, n, up = b.bfloat16(), torch.arange(2, 5), b[0] > b[1]
        table = a + b.unsqueeze(1)
        (a2, b2), _ = scan(lambda c, x: ((c[1], c[0] + x + a), c), (a, b), xs)
        return {"a": b2, "b": a2}, (
            scan(shared, (b, xs[2], a), xs.T.flip(1).T),
            scan(typed, (h, n, up, b[2]), xs, reverse=True, unroll=2),
            scan(
                lambda c, x: (c.T.flip(0), x[:1].expand(2)), table, xs[3].expand(4, 3)
            ),
            while_loop(
                lambda v: v[0].sum() < 90, lambda v: (v[1], v[0] + b**2), (a, b)
            ),
        )

    return run


def test_intricate_loops_compiled_equal_plain_loops(monkeypatch):
    monkeypatch.setattr(_compile, "BACKEND", "inductor")
    jitted = fl.jit(intricate(fl.scan, fl.while_loop), donate_argnums=0)
    plain = intricate(plain_scan, plain_while)
    xs = (XS[:5] * 8).round() / 4
    theirs = ours = {"a": xs[1] * 2, "b": xs[4] + 0.5}
    for _ in range(3):
        before = xs.clone()
        theirs, expected = plain(theirs, xs)
        ours, got = jitted({k: v.clone() for k, v in ours.items()}, xs)
        assert_close((ours, got), (theirs, expected), rtol=0, atol=0)
        assert_close(xs, before, rtol=0, atol=0)
        xs = xs.flip(0)


@pytest.mark.parametrize("closed_over", [False, True])
def test_a_gradient_through_a_loop_unrolls_it(graphs, closed_over):
    def loss_in(lib):
        def loss(h, xs):
            init = xs[0] if closed_over else h
            carry, ys = lib.scan(lambda c, x: (lib.np.tanh(c * h + x), c * x), init, xs)
            return carry.sum() + (ys**2).sum()

        return loss

    ours = fl.jit(fl.grad(loss_in(Ours)))(H, XS)
    check(ours, jax.grad(loss_in(Theirs))(as_jax(H), as_jax(XS)))
    assert graphs.operators == []


def test_a_gradient_beside_a_loop_does_not(graphs):
    def loss_in(lib, stop):
        def loss(h, xs):
            carry, _ = lib.scan(lambda c, x: (c * 0.9 + x, None), xs[0], xs)
            held, _ = lib.scan(lambda c, x: (stop(c * h), None), xs[1], xs)
            return (h * carry * held).sum()

        return loss

    ours = fl.jit(fl.grad(loss_in(Ours, fl.stop_gradient)))(H, XS)
    theirs = jax.grad(loss_in(Theirs, jax.lax.stop_gradient))
    check(ours, theirs(as_jax(H), as_jax(XS)))
    assert graphs.operators == ["scan", "scan"]


def test_a_step_that_needs_the_index_unrolls_the_loop(graphs):
    def f(lib):
        return lambda h, xs: lib.fori_loop(1, 4, lambda i, v: v * 0.7 + xs[i] * i, h)

    check(fl.jit(f(Ours))(H, XS), f(Theirs)(as_jax(H), as_jax(XS)))
    assert graphs.operators == []


class Sevenfold(torch.autograd.Function):
    """Has a backward that is not its derivative, to see which one is used."""

    @staticmethod
    def forward(x):
        return x * 2.0

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return cotangents[0] * 7.0


def test_a_custom_backward_in_a_step_is_kept(graphs):
    def f(h, xs):
        step = lambda c, x: (c - fl.grad(lambda v: Sevenfold.apply(v).sum())(c), None)  # noqa: E731
        return fl.scan(step, h, xs)[0]

    assert_close(fl.jit(f)(H, XS), H - 77.0, rtol=1e-12, atol=0)
    assert graphs.operators == []


def test_what_the_compiler_cannot_take_is_unrolled(monkeypatch, graphs):
    def narrow(graph, inputs):
        compiled = graphs(graph, inputs)
        if graphs.operators:
            graphs.operators.clear()
            raise NotImplementedError("no loops here")
        return compiled

    monkeypatch.setattr(_compile, "BACKEND", narrow)
    jitted = fl.debug.assert_max_traces(1)(fl.jit(mixed(Ours)))
    check(jitted(H, XS), mixed(Theirs)(as_jax(H), as_jax(XS)))
    check(jitted(H * 2, XS), mixed(Theirs)(as_jax(H * 2), as_jax(XS)))
    assert jitted.traces == 1


class Holder:
    value: Any = None


def test_an_object_may_be_assigned_to_before_and_after_a_loop():
    def f(h, xs):
        holder = Holder()
        holder.value = h
        holder.value = fl.scan(lambda c, x: (c + x, None), h, xs)[0]
        return holder.value

    assert_close(fl.jit(f)(H, XS), H + XS.sum(0), rtol=1e-12, atol=0)


def test_torch_still_loses_assignments_after_its_operator():
    from torch._higher_order_ops.scan import scan

    def f(h, xs):
        holder = Holder()
        holder.value = h
        holder.value = scan(lambda c, x: (c + x, c * 2), h.clone(), xs)[0]
        return holder.value

    # Once this fails, _operator._mend_dynamo can go.
    result = torch.compile(f, backend="eager", fullgraph=True)(H, XS)
    assert_close(result, H, rtol=0, atol=0)


def test_each_step_prints_once(capsys):
    def step(c, x):
        fl.debug.print("c is {c}", c=c)
        return c * 2, None

    fl.jit(lambda c: fl.scan(step, c, length=3))(torch.tensor(2.5))
    assert capsys.readouterr().out == "c is 2.5\nc is 5.0\nc is 10.0\n"


def test_what_a_loop_of_no_steps_would_compute_is_not_searched_for_nans():
    def f(x):
        return fl.while_loop(lambda v: v < 3, lambda v: fl.debug.nans(v / (v - 5)), x)

    assert_close(fl.jit(f)(torch.tensor(5.0)), torch.tensor(5.0))


def test_a_while_loop_without_a_bound_is_refused_in_a_derivative():
    def f(x):
        return fl.while_loop(lambda v: v < 9, lambda v: v * 3, x)

    jitted = fl.jit(f)
    assert_close(jitted(torch.tensor(0.4)), torch.tensor(10.8))
    assert_close(jitted(torch.tensor(12.0)), torch.tensor(12.0))
    with pytest.raises(ValueError, match=r"max_steps: expected a bound .* derivative"):
        fl.jit(fl.grad(f))(torch.tensor(0.4))
    with pytest.raises(ValueError, match=r"max_steps: expected a bound .* vmap"):
        fl.jit(fl.vmap(f))(torch.tensor([0.4, 2.0]))


def test_a_bound_holds_on_the_operator_too(graphs):
    def f(x):
        return fl.while_loop(lambda v: v < 99, lambda v: v * 3, x, max_steps=2)

    assert_close(fl.jit(f)(torch.tensor(0.5)), torch.tensor(4.5))
    assert graphs.operators == ["while_loop"]
