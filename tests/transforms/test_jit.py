"""What `jit` promises: eager's answers, one trace, donation, clear failures."""

import functools
import inspect
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from functorch_lab import tree
from functorch_lab.transforms import (
    _compile,
    _engine,
    _failure,
    _traced,
    debug,
    disable_jit,
    eval_shape,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jit,
    jvp,
    mean_over_batch,
    stop_gradient,
    value_and_grad,
    vjp,
    vmap,
)

X = torch.tensor([[0.3, -1.7, 2.2], [1.4, 0.6, -0.9]])


def any_(value: Any) -> Any:
    """A value whose type the type checker is not to look at."""
    return value


@pytest.fixture
def eager_backend(monkeypatch):
    """Dynamo without code generation: these tests are about what is traced."""
    monkeypatch.setattr(_compile, "BACKEND", "eager")


def make_step(**options):
    @jit(donate_argnums=(0, 1), **options)
    def step(params, state, x, lr):
        def loss(params):
            return ((x @ params["w"] + params["b"]) ** 2).mean()

        value, grads = value_and_grad(loss)(params)
        new = {k: params[k] - lr * grads[k] for k in params}
        return (
            new,
            {"count": state["count"] + 1, "sum": [state["sum"][0] + value]},
            value,
        )

    return step


def start():
    params = {"w": torch.tensor([1.3, -0.4, 0.8]), "b": torch.tensor(0.35)}
    return params, {"count": torch.tensor(3), "sum": [torch.tensor(0.7)]}


def test_a_donating_step_equals_eager_and_reuses_memory():
    step, results, value = make_step(), [], None
    for _ in range(2):
        params, state = start()
        memory = [leaf.data_ptr() for leaf in tree.leaves((params, state))]
        for i in range(3):
            params, state, value = step(params, state, X + i, 0.1 / (i + 2))
        same = [leaf.data_ptr() for leaf in tree.leaves((params, state))] == memory
        results.append((params, state, value, same))
    with disable_jit():
        params, state = start()
        for i in range(3):
            params, state, value = step(params, state, X + i, 0.1 / (i + 2))
    for compiled in results:
        assert_close(compiled[:3], (params, state, value))
        assert compiled[3]
    assert step.traces == 1


@pytest.mark.usefixtures("eager_backend")
class TestDonation:
    def test_a_donated_tensor_raises_at_any_use(self):
        step, (params, state) = make_step(), start()
        kept = tree.copy(params)
        old = params
        step(params, state, X, 0.1)
        for use in (
            lambda: old["w"] + 1,
            lambda: old["w"].shape,
            lambda: repr(old["b"]),
            lambda: torch.stack([old["b"], X[0, 0]]),
        ):
            with pytest.raises(
                RuntimeError, match=r"params\['[wb]'\] was donated to s"
            ):
                use()
        with pytest.raises(
            RuntimeError, match=r"was donated to step.*Passed as params"
        ):
            step(old, start()[1], X, 0.1)
        assert_close(kept, start()[0])

    def test_eager_voids_donated_tensors_too(self):
        f = jit(lambda a: (a, a.view(-1), a * 2), donate_argnums=0)
        a = X.clone()
        with disable_jit():
            same, view, double = f(a)
        assert_close((same, view, double), (X, X.view(-1), X * 2))
        with pytest.raises(RuntimeError, match="a was donated"):
            a.sum()

    def test_one_tensor_at_two_places_is_refused(self):
        f = jit(lambda a, b: (a + 1, b + 1), donate_argnums=(0,))
        with pytest.raises(ValueError, match="a and b are one tensor"):
            f(X, X)
        g = jit(lambda p: p, donate_argnames="p")
        with pytest.raises(ValueError, match=r"p\[0\] and p\[1\] are one tensor"):
            g([X, X])

    def test_memory_that_others_see_is_left_alone(self):
        f = jit(lambda a, b: (a + 1, b.sum()), donate_argnums=0)
        base = X.clone()
        new, total = f(base[1], base)
        assert_close((new, total, base), (X[1] + 1, X.sum(), X))
        row = X.clone()
        alias = row.detach()
        assert_close(f(row, X)[0], X + 1)
        assert_close(alias, X)
        expanded = torch.tensor(2.5).expand(2, 3)
        assert_close(f(expanded, X)[0], torch.full((2, 3), 3.5))

    def test_numpy_memory_is_left_alone(self):
        f = jit(lambda x: x + 1, donate_argnums=0)
        array = np.array([2.0, 3.0], dtype=np.float32)
        for given in (array, torch.from_numpy(array)):
            assert f(given).tolist() == [3.0, 4.0]
            assert array.tolist() == [2.0, 3.0]

    def test_module_parameters_can_be_donated(self):
        w = torch.nn.Parameter(X.clone())
        seen = w.detach()
        new = jit(lambda w: w * 2, donate_argnums=0)(w)
        assert_close(new, X * 2)
        assert not new.requires_grad
        assert_close(seen, X)

    def test_what_has_no_counterpart_warns(self):
        f = jit(lambda a: a.sum(), donate_argnums=0)
        with pytest.warns(UserWarning, match="a is donated, but no part of the result"):
            f(X.clone())

    def test_by_name_and_by_position(self):
        f = jit(lambda a, *, b: (a + b, b), donate_argnames=("a", "b"))
        a, b = X.clone(), X[0].clone()
        f(a=a, b=b)
        for leaf, name in ((a, "a"), (b, "b")):
            with pytest.raises(RuntimeError, match=f"jit: {name} was donated"):
                leaf.sum()


SWAPS: dict[str, Callable[..., Any]] = {
    "plain": lambda a, b: (b, a),
    "clones": lambda a, b: (b.clone(), a.clone()),
    "transposed": lambda a, b: (b.T, a.T.clone()),
    "views": lambda a, b: (b.view(-1).view(3, 3), a[:]),
    "casts": lambda a, b: (b.double().float(), a.float()),
    "shifted": lambda a, b: (a.flip(0), b.roll(1, 1) + a),
    "products": lambda a, b: (a @ b, b @ a + a.T),
    "one of two": lambda a, b: (b.clone(), a + b),
    "read again": lambda a, b: (a + 1, b.clone(), a, b.sum() + a[0], a.view(9)),
}


@pytest.mark.parametrize("name", SWAPS)
def test_donated_values_may_go_anywhere(name):
    """The compiled write-back never reads what it has overwritten."""
    a = torch.arange(2.0, 11.0).reshape(3, 3)
    b = a.flip(0) / 7
    expected = tree.copy(SWAPS[name](a.clone(), b.clone()))
    f = jit(SWAPS[name], donate_argnums=(0, 1))
    assert_close(f(a.clone(), b.clone()), expected)


def test_inductor_still_needs_the_pass_that_protects_the_write_back():
    """Fails when torch is repaired: then `_overwrite.py` can go."""

    def swap(a, b):
        new_a, new_b = b.clone(), a.clone()
        a.copy_(new_a)
        b.copy_(new_b)

    a, b = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])
    torch.compile(swap, fullgraph=True)(a, b)
    assert a.tolist() == b.tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_donated_scalars_are_written(dtype):
    f = jit(lambda s, v: (s * 2 + 1, v * s), donate_argnums=(0, 1))
    s, v = torch.tensor(3, dtype=dtype), torch.tensor([5, 7], dtype=dtype)
    memory = s.data_ptr()
    for expected in ((7, [15, 21]), (15, [105, 147])):
        s, v = f(s, v)
        assert (s.item(), v.tolist()) == expected
    assert s.data_ptr() == memory


def test_torch_still_drops_writes_into_float64_scalars():
    """Fails when torch is repaired: then the view in `_donation.write` can go."""

    def double(s):
        s.copy_(s * 2)

    s = torch.tensor(3.0, dtype=torch.float64)
    torch.compile(double, backend="aot_eager")(s)
    assert s.item() == 3.0


def powers(w, x, *, power):
    return ((w * x) ** power).sum()


class Power:
    def __init__(self):
        self.power = 3.0

    def __call__(self, w, x):
        return powers(w, x, power=self.power)

    def method(self, w, x):
        return self(w, x)


class Slotted:
    __slots__ = ()

    def __call__(self, w, x):
        return powers(w, x, power=3.0)


CALLABLES: dict[str, Callable[..., Any]] = {
    "keyword": functools.partial(powers, power=3.0),
    "positional": functools.partial(lambda p, w, x: powers(w, x, power=p), 3.0),
    "empty": functools.partial(Power()),
    "object": Power(),
    "without a dict": Slotted(),
    "method": Power().method,
}


def transformed(fn: Callable[..., Any], w, x):
    """What every transform makes of a function of `w` and one row of `x`."""
    point = w, x[0]
    return {
        "grad": grad(fn)(*point),
        "value_and_grad": value_and_grad(fn)(*point),
        "vmap": vmap(fn, in_dims=(None, 0))(w, x),
        "mean_over_batch": grad(mean_over_batch(fn))(w, x),
        "jvp": jvp(fn, point, point),
        "vjp": vjp(fn, *point)[1](w[2]),
        "jacrev": jacrev(fn)(*point),
        "jacfwd": jacfwd(fn)(*point),
        "hessian": hessian(fn)(*point),
        "hvp": hvp(fn, point, (x[1],)),
        "jit": jit(fn)(*point),
    }


@pytest.mark.usefixtures("eager_backend")
class TestTraces:
    def test_values_and_numbers_do_not_retrace(self):
        f = jit(lambda x, a, n: x * a + n)
        for a, n in ((0.5, 2), (0.7, 3), (torch.tensor(0.9), 4)):
            assert_close(f(X, a, n), X * a + n)
        assert f.traces == 1

    def test_float_numbers_keep_float64_precision(self):
        x = X.double()
        assert_close(jit(lambda x, a: x * a)(x, 0.1), x * 0.1, rtol=1e-15, atol=0)
        assert jit(lambda x, a: x * a)(X, 0.1).dtype == torch.float32

    def test_closed_over_values_are_never_stale(self):
        scale = [2.0]
        f = jit(lambda x: {"y": x * scale[0]} if scale[0] > 1 else (x, scale[0]))
        assert_close(f(X), {"y": X * 2})
        scale[0] = 5.0
        assert_close(f(X), {"y": X * 5})
        scale[0] = 0.5
        assert_close(f(X), (X, 0.5))
        scale[0] = 2.0
        assert_close(f(X), {"y": X * 2})
        assert f.traces == 3

    def test_statics_are_values(self):
        f = jit(
            lambda x, n, *, mode: x * n if mode == "a" else x + n,
            static_argnums=1,
            static_argnames="mode",
        )
        assert_close(f(X, 3, mode="a"), X * 3)
        assert_close(f(X, 3, mode="b"), X + 3)
        assert_close(f(X, 3.0, mode="a"), X * 3)
        assert_close(f(X, n=2, mode="a"), X * 2)
        assert_close(f(X, 3, mode="a"), X * 3)
        assert f.traces == 4

    def test_statics_that_compare_equal_are_not_confused(self):
        f = jit(lambda x, c: x if isinstance(c[0], int) else -x, static_argnums=1)
        assert_close(f(X, (1,)), X)
        assert_close(f(X, (1.0,)), -X)
        g = jit(lambda x, c: torch.copysign(x, torch.tensor(c)), static_argnums=1)
        assert_close(g(X, 0.0), X.abs())
        assert_close(g(X, -0.0), -X.abs())

    def test_none_numpy_and_parameters_pass(self):
        f = jit(lambda x, mask=None: x if mask is None else x * mask)
        assert_close(f(X, None), X)
        assert_close(f(X), X)
        assert_close(
            f(X, np.array([0.5, 2.5, 3.5], dtype=np.float32)),
            X * torch.tensor([0.5, 2.5, 3.5]),
        )
        w = torch.nn.Parameter(X.clone(), requires_grad=False)
        assert_close(jit(lambda w: w * 2)(w), X * 2)

    def test_torchs_own_autograd_stays_whole(self):
        w = torch.nn.Parameter(X.clone())
        f = jit(lambda w: (w**2).sum())
        with pytest.warns(
            RuntimeWarning, match="w requires grad: expected tensors wit"
        ):
            (f(w) + w.sum()).backward()
        assert_close(w.grad, 2 * X + 1)
        with torch.no_grad():
            assert_close(f(w), (X**2).sum())
        assert f.traces == 1

    def test_methods_and_attributes(self):
        class Model:
            scale = 3.0

            @jit(static_argnums=0)
            def __call__(self, x):
                return x * self.scale

        assert_close(Model()(X), X * 3)
        f = jit(lambda x: x)
        assert "<lambda>" in repr(f)
        assert inspect.unwrap(f) is not f

    def test_partials_and_callable_objects_are_functions(self):
        w, x = torch.tensor([0.7, 1.3, 2.1]), X.abs()
        expected = transformed(lambda w, x: powers(w, x, power=3.0), w, x)
        for fn in CALLABLES.values():
            assert_close(transformed(fn, w, x), expected)

        def run(w, x):
            gradients = [grad(fn)(w, x[0]) for fn in CALLABLES.values()]
            scaled = vmap(functools.partial(powers, w, power=w.sum()))(x)
            return transformed(CALLABLES["keyword"], w, x), gradients, scaled

        results, gradients, scaled = jit(run)(w, x)
        assert_close(results, expected)
        assert_close(gradients, [expected["grad"]] * len(CALLABLES))
        assert_close(scaled, torch.stack([((w * r) ** w.sum()).sum() for r in x]))

    @pytest.mark.parametrize("transform", [grad, vmap, jacrev, mean_over_batch, jit])
    def test_the_attributes_of_an_object_stay_its_own(self, transform):
        def tagged(w):
            return w

        tagged.tag = "kept"  # pyright: ignore[reportFunctionMemberAccess]
        assert transform(tagged).tag == "kept"
        assert "power" not in vars(transform(Power()))
        names = list(inspect.signature(transform(CALLABLES["keyword"])).parameters)
        assert names == ["w", "x", "power"]

    def test_nested_jit_and_transforms_around_jit_are_inlined(self):
        inner = jit(lambda x: x.sin() * x)
        outer = jit(lambda x: inner(x).sum())
        assert_close(outer(X), (X.sin() * X).sum())
        assert inner.traces == 0
        expected = X.cos() * X + X.sin()
        assert_close(grad(lambda x: inner(x).sum())(X), expected)
        assert_close(vmap(grad(inner))(X[0]), expected[0])
        assert_close(jit(grad(outer))(X), expected)

    def test_assert_max_traces_names_the_argument_that_changed(self):
        f = debug.assert_max_traces(1)(
            jit(lambda x, tree: x + sum(v.sum() for v in tree.values()))
        )
        other = X / 3
        f(X, {"a": other})
        f(X + 1, {"a": other})
        for args, match in (
            ((X, {"a": X}), r"tree\['a'\]: .*the same tensor as x"),
            ((X[:1], {"a": other}), r"x: shape \(2, 3\), .* -> shape \(1, 3\)"),
            ((X.double(), {"a": other}), r"x: .*float32.* -> .*float64"),
            (
                (X, {"a": other.T}),
                r"tree\['a'\]: .* -> shape \(3, 2\).*strides \(1, 3\)",
            ),
            ((X, {"b": other}), r"tree\['b'\]: new.*tree\['a'\]: gone"),
        ):
            with pytest.raises(AssertionError, match=match):
                f(*args)
        g = debug.assert_max_traces(1)(jit(lambda x, n: x * n, static_argnums=1))
        g(X, 2)
        with pytest.raises(AssertionError, match="static 1: value 2 -> value 3"):
            g(X, 3)
        box = [2.0]
        h = debug.assert_max_traces(1)(jit(lambda x: x * box[0]))
        h(X)
        box[0] = 3.0
        with pytest.raises(AssertionError, match="a Python value that the function"):
            h(X)


class Sevenfold(torch.autograd.Function):
    """A backward that is deliberately not the derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        return 7 * g * ctx.saved_tensors[0]


class TestCustomFunctions:
    def test_its_own_backward_is_kept(self):
        f = lambda x: Sevenfold.apply(x).sum()  # noqa: E731
        assert_close(jit(grad(f))(X), 7 * X)
        assert_close(grad(f)(X), 7 * X)

    @pytest.mark.parametrize(
        "transform",
        [
            lambda f: vmap(grad(f)),
            lambda f: grad(lambda x: grad(f)(x).sum()),
            lambda f: grad(mean_over_batch(any_(lambda w, x: f(w * x)))),
        ],
    )
    def test_it_is_refused_where_the_compiler_would_drop_it(self, transform):
        f = jit(transform(lambda x: any_(Sevenfold.apply)(x).sum()))
        args = (X[0], X) if "mean" in str(transform.__code__.co_names) else (X,)
        with pytest.raises(
            RuntimeError, match=r"Sevenfold is a torch\.autograd\.Function"
        ):
            any_(f)(*args)

    def test_a_dynamo_that_cannot_trace_the_outer_engine_gets_the_inner(
        self, monkeypatch
    ):
        monkeypatch.setattr(_traced, "note_dynamo", lambda: None)
        monkeypatch.setattr(_engine._dynamo, "takes_autograd", False)
        assert_close(jit(grad(lambda x: (x**2).sum()))(X), 2 * X)
        with pytest.raises(RuntimeError, match="Sevenfold is a"):
            jit(grad(lambda x: any_(Sevenfold.apply)(x).sum()))(X)

    def test_torch_still_drops_it(self):
        """Fails when torch is repaired: then the refusal can go."""
        f = torch.func.grad(lambda x: Sevenfold.apply(x).sum())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            dropped = torch.compile(f, fullgraph=True, backend="eager")(X)
        assert_close(dropped, X.cos())

    def test_the_remedies_work(self):
        def call(x):
            return Sevenfold.apply(x)

        kept: Any = torch.compiler.allow_in_graph(call)
        assert_close(jit(vmap(grad(lambda x: kept(x).sum())))(X), 7 * X)

        def surrogate(x):
            slope = stop_gradient(7 * x)
            return slope * x + stop_gradient(x.sin() - slope * x)

        assert_close(jit(vmap(grad(lambda x: surrogate(x).sum())))(X), 7 * X)


def named_failure(x):
    return x * len(input.__name__) * np.random.rand()


@pytest.mark.usefixtures("eager_backend")
class TestFailures:
    @pytest.mark.parametrize(
        ("call", "kind", "match"),
        [
            (lambda: jit(any_(3)), TypeError, "jit: fn: expected a function"),
            (lambda: jit(lambda x: x, donate_argnums=1), ValueError, "among 1 param"),
            (lambda: jit(lambda x: x, donate_argnums="x"), TypeError, "expected int"),
            (lambda: jit(lambda x: x, static_argnames="y"), ValueError, r"of \['x'\]"),
            (
                lambda: jit(lambda x: x, static_argnums=0, donate_argnames="x"),
                ValueError,
                "not static",
            ),
            (
                lambda: jit(lambda x: x)("text"),
                TypeError,
                "x: expected tensors, numbers",
            ),
            (
                lambda: jit(lambda x, s: x, static_argnums=1)(X, [2]),
                TypeError,
                "static argument 1: expected a hashable value, got list",
            ),
            (
                lambda: jit(lambda x, s: x, static_argnums=1)(X, X),
                TypeError,
                "expected a Python value, got a tensor",
            ),
            (
                lambda: jit(lambda x: x if x.sum() > 0 else -x)(X),
                RuntimeError,
                r"test_jit.py:\d+: .*needs the value of a tensor.*torch.where",
            ),
            (
                lambda: jit(lambda x: x * x.sum().item())(X),
                RuntimeError,
                "needs the value of a tensor",
            ),
            (
                lambda: jit(lambda x: x[x > 0])(X),
                RuntimeError,
                "whose shape depends on",
            ),
            (
                lambda: jit(named_failure)(X),
                RuntimeError,
                r"named_failure: .*test_jit.py:\d+: `return x.*cannot be compiled",
            ),
        ],
    )
    def test_each_names_the_place_and_the_remedy(self, call, kind, match):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(kind, match=match) as caught:
                call()
        assert len(str(caught.value).splitlines()) == 1

    def test_the_functions_own_errors_come_unchanged(self):
        def f(x):
            if x.shape[0] == 2:
                raise KeyError("mine")
            return x @ x

        with pytest.raises(KeyError, match="mine"):
            jit(f)(X)
        with pytest.raises(RuntimeError, match="must have same reduction dim"):
            jit(f)(X[:1])

    def test_torch_random_functions_warn_and_point_to_keys(self):
        with pytest.warns(
            UserWarning, match=r"test_jit.py:\d+: rand draws .* Pass a key"
        ) as caught:
            jit(lambda x: x + torch.rand(3))(X)
        assert caught[0].filename == __file__
        with pytest.warns(UserWarning, match=r"draws from torch's global generator"):
            jit(torch.nn.functional.dropout)(X)

    def test_attention_without_dropout_draws_nothing(self):
        attention = torch.nn.functional.scaled_dot_product_attention
        x = torch.linspace(0.5, 3.5, 30).reshape(1, 2, 5, 3)
        shape = eval_shape(attention, x, x, x).shape
        assert shape == x.shape
        with pytest.warns(UserWarning, match=r"draws from torch's global generator"):
            eval_shape(lambda x: attention(x, x, x, dropout_p=0.5), x)

    def test_after_a_failure_the_function_still_works(self):
        f = jit(lambda x: x if x.ndim == 1 or x.sum() > 0 else -x)
        with pytest.raises(RuntimeError, match="needs the value"):
            f(X)
        assert_close(f(X[0]), X[0])


def test_a_wrong_index_in_compiled_code_is_explained():
    f = jit(lambda table, i: table[i])
    with pytest.raises(RuntimeError, match="jit: <lambda>: expected indices and"):
        f(X, torch.tensor([0, 7]))


NO_COMPILER = """
import warnings, torch, functorch_lab as fl
f = fl.jit(lambda a, x: (a + x, x.sum()), donate_argnums=0)
a = torch.tensor([2.0, 3.0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    b, total = f(a, torch.tensor([0.5, 0.25]))
    fl.jit(lambda x: x + 1)(b)
assert b.tolist() == [2.5, 3.25] and total == 0.75
found = [str(w.message) for w in caught if w.category is RuntimeWarning]
assert len(found) == 1 and "Functions run eagerly" in found[0], found
try:
    a + 1
except RuntimeError as error:
    assert "was donated" in str(error)
else:
    raise SystemExit("a donated tensor was usable")
"""


def test_without_a_compiler_it_runs_eagerly_with_one_warning(tmp_path):
    code = subprocess.run(
        [sys.executable, "-c", NO_COMPILER],
        env={
            "PATH": str(tmp_path),
            "CXX": "no-such-compiler",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert code.returncode == 0, code.stderr


def test_where_torch_compile_itself_refuses_it_runs_eagerly(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(_failure, "_warned", [])
    f = jit(lambda x: x * 2)
    with pytest.warns(RuntimeWarning, match="Functions run eagerly"):
        assert_close(f(X), X * 2)
    assert_close(f(X + 1), X * 2 + 2)


def test_a_device_with_a_young_compiler_is_compared_with_eager(monkeypatch):
    monkeypatch.setattr(_traced, "UNPROVEN", {"cpu"})
    right = jit(lambda a: a * 2, donate_argnums=0)
    assert_close(right(X.clone()), X * 2)

    def wrong_backend(graph, inputs):
        return lambda *args: [
            out * 3 if isinstance(out, torch.Tensor) else out for out in graph(*args)
        ]

    monkeypatch.setattr(_compile, "BACKEND", wrong_backend)
    wrong = jit(lambda a, b: (a + b, a * 2), donate_argnums=0)
    with pytest.warns(RuntimeWarning, match="differs from eager on this device"):
        got = wrong(X.clone(), X)
    assert_close(got, (X * 2, X * 2))
    assert_close(wrong(X.clone(), X), (X * 2, X * 2))


@pytest.mark.usefixtures("eager_backend")
def test_threads_get_their_own_answers():
    f = jit(lambda x, n: (x * n).sum(0))
    wrong = []

    def work(size):
        x = torch.arange(2.0, 2.0 + size)[:, None] * X[0]
        for n in range(2, 6):
            if not torch.equal(f(x, n), (x * n).sum(0)):
                wrong.append((size, n))

    threads = [threading.Thread(target=work, args=(size,)) for size in (2, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert f.traces == 4


def test_eval_shape_computes_nothing():
    out = eval_shape(lambda t, n: {"a": t["x"] @ t["x"].T * n}, {"x": X}, 2.5)
    assert out["a"].device.type == "meta"
    assert out["a"].shape == (2, 2)
    meta = torch.empty(7, 3, device="meta", dtype=torch.float64)
    assert eval_shape(lambda x: x.sum(0), meta).dtype == torch.float64
    with pytest.raises(RuntimeError, match=r"eval_shape: .*needs the value"):
        eval_shape(lambda x: float(x.sum()), X)


class TestDebug:
    def test_print_shows_values_in_eager_and_compiled(self, capfd):
        def f(x):
            debug.print("sum {s} of {n}", s=x.sum(), n=3)
            return x * 2

        f(X[0])
        assert capfd.readouterr().out == f"sum {X[0].sum().item()} of 3\n"
        jit(f)(X[0])
        jit(grad(lambda x: f(x).sum()))(X[0])
        out = capfd.readouterr().out
        assert out.count("sum 0.79999") == 2
        vmap(f)(X)
        assert "sum tensor([0.8000, 1.1000]) of 3" in capfd.readouterr().out
        with pytest.raises(RuntimeError, match="Return the value as aux"):
            jit(vmap(f))(X)

    def test_nans_names_the_first_leaf(self):
        bad = {"a": X, "b": [X, X.log()], "c": X / 0}
        with pytest.raises(FloatingPointError, match=r"nans: grads\['b'\]\[1\]: expec"):
            debug.nans(bad, "grads")
        assert debug.nans({"a": X, "n": torch.tensor(3)})["a"] is X
        f = jit(lambda x: debug.nans({"w": x, "v": [x.log()]}, "t")["v"][0])
        assert_close(f(X.abs()), X.abs().log())
        with pytest.raises(RuntimeError, match=r"nans: t\['v'\]\[0\]: expected finite"):
            f(X)

    def test_assert_max_traces_wants_a_jitted_function(self):
        with pytest.raises(TypeError, match="the result of jit, got builtin"):
            debug.assert_max_traces(1)(any_(len))
        with pytest.raises(ValueError, match="at least 0, got -1"):
            debug.assert_max_traces(-1)
