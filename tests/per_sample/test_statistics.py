# SPDX-License-Identifier: Apache-2.0
"""Statistics against one backward pass per sample, and against closed forms."""

import functools

import pytest
import torch
from torch import Tensor

import functorch_lab as fl
from functorch_lab.per_sample import statistics
from per_sample_cases._oracle import one_by_one

SHARES = (0.0, 0.2, 0.5, 0.9, 1.0)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return fl.random.normal(fl.random.key(seed), shape, dtype=dtype)


def loss_fn(params, x, y):
    table = torch.nn.functional.embedding(params["rows"], params["table"])
    hidden = torch.tanh(x @ params["weight"].T + table.sum(0))
    return (hidden @ params["out"] - y).square().mean()


def make_params(seed: int = 1, dtype: torch.dtype = torch.float64):
    return {
        "weight": draw(seed, 5, 3, dtype=dtype),
        "out": draw(seed + 1, 5, 2, dtype=dtype),
        "table": draw(seed + 2, 3, 5, dtype=dtype),
        "rows": torch.tensor([1, 2, 1]),
        "spare": draw(seed + 3, 2, dtype=dtype),
    }


PARAMS = make_params()
X, Y = draw(11, 7, 3), draw(12, 7, 2)
LEAVES = ("out", "spare", "table", "weight")


def loop(params, x, y) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and gradients, by one backward pass for each sample."""
    samples = zip(x, y, strict=True)
    losses = torch.stack([loss_fn(params, *sample) for sample in samples])
    return losses, one_by_one(loss_fn, params, x, y)


def flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([grads[n].flatten(1) for n in LEAVES], 1)


def pairs_mean(g: Tensor) -> Tensor:
    """The mean of `<g_i, g_j>` over i != j: |G|^2 without bias, by its definition."""
    gram = g @ g.T
    return (gram.sum() - gram.diagonal().sum()) / (len(g) * (len(g) - 1))


def close(actual, expected, rtol=1e-11, atol=1e-13):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)


def same(a, b, rtol=1e-11):
    """Equal but for rounding, also of a variance that is zero."""
    pairs = zip(fl.tree.leaves(a), fl.tree.leaves(b), strict=True)
    for one, other in pairs:
        close(one, other, rtol=rtol, atol=1e-11)


def run(tool, params=PARAMS, *batch, **options):
    batch = batch or (X, Y)
    return tool.compute(tool.update(tool.init(params), params, *batch, **options))


def check_against_loop(result, losses, grads):
    g = flat(grads)
    norms, mean = g.norm(dim=1), g.mean(0)
    close(result.samples, len(g))
    close(result.loss_mean, losses.mean())
    close(result.loss_variance, losses.var())
    close(result.norm_mean, norms.mean())
    close(result.norm_variance, norms.var())
    close(result.mean_norm, mean.norm())
    close(result.noise.signal, pairs_mean(g))
    close(result.noise.noise, g.var(0).sum())
    close(result.noise.scale, g.var(0).sum() / pairs_mean(g))
    close(result.diversity, g.square().sum() / g.sum(0).square().sum())
    close(result.cosine, torch.cosine_similarity(g, mean[None]).mean())
    for name in LEAVES:
        leaf, one = result.leaf_noise[name], grads[name].flatten(1)
        close(leaf.signal, pairs_mean(one))
        close(leaf.noise, one.var(0).sum())
        if name != "spare":
            close(leaf.scale, one.var(0).sum() / pairs_mean(one))
    assert result.leaf_noise["rows"] == ()


@pytest.mark.parametrize("method", ["auto", "factored", "vmap", "loop"])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_every_number_of_a_batch_is_that_of_the_loop(method, chunk_size):
    tool = statistics(loss_fn, method=method, chunk_size=chunk_size)
    result = run(tool)
    check_against_loop(result, *loop(PARAMS, X, Y))
    assert result.gsnr == ()


def test_gsnr_of_each_parameter_is_that_of_the_loop():
    result = run(statistics(loss_fn, gsnr=True, gsnr_floor=0.0, chunk_size=2))
    _, grads = loop(PARAMS, X, Y)
    for name in ("weight", "out"):
        g = grads[name]
        variance = g.var(0)
        expected = (g.mean(0).square() - variance / len(g)) / variance
        close(result.gsnr[name], expected, rtol=1e-9)
    assert not result.gsnr["spare"].any()  # neither signal nor noise
    assert result.gsnr["rows"] == ()


def test_gsnr_keeps_its_digits_in_float32():
    x = 1000 + draw(9, 50, 3)
    tool = statistics(lambda w, x: (w @ x).sum(), gsnr=True, gsnr_floor=0.0)
    x32 = x.float()
    result = run(tool, torch.zeros(2, 3), x32)
    x = x32.double()
    expected = (x.mean(0).square() - x.var(0) / len(x)) / x.var(0)
    close(result.gsnr, expected.float().expand(2, 3), rtol=1e-3)
    close(result.noise.noise, 2 * x.var(0).sum(), rtol=1e-3)


def test_gsnr_takes_no_variance_below_the_floor():
    # Gradients are x: constant, nearly constant, and varying.
    x = torch.tensor([[2.0, 3.0, 0.0], [2.0, 3.001, 4.0]], dtype=torch.float64)
    params = torch.zeros(3, dtype=torch.float64)
    tool = statistics(lambda w, x: w @ x, gsnr=True, gsnr_floor=0.1)
    variance = x.var(0)
    signal = x.mean(0).square() - variance / 2
    floor = 0.1 * variance.mean()
    close(run(tool, params, x).gsnr, signal / variance.clamp(min=floor))
    plain = statistics(lambda w, x: w @ x, gsnr=True, gsnr_floor=0.0)
    assert run(plain, params, x).gsnr[0] == float("inf")


@pytest.mark.parametrize("gsnr", [False, True])
def test_batches_at_the_same_params_are_one_batch(gsnr):
    tool = statistics(loss_fn, gsnr=gsnr, quantiles=SHARES)
    state = tool.init(PARAMS)
    for part in (slice(0, 1), slice(1, 4), slice(4, 7)):
        state = tool.update(state, PARAMS, X[part], Y[part])
    whole = run(tool)
    same(tool.compute(state), whole)
    torch.testing.assert_close(
        tool.compute(state).norm_quantiles, whole.norm_quantiles, rtol=0, atol=0
    )


@pytest.mark.parametrize("decay", [None, 0.8])
def test_merge_is_associative_and_commutative_with_a_neutral_element(decay):
    tool = statistics(loss_fn, gsnr=True, decay=decay)
    empty = tool.init(PARAMS)
    a, b, c = [
        tool.update(empty, PARAMS, X[part], Y[part])
        for part in (slice(0, 2), slice(2, 3), slice(3, 7))
    ]
    left = tool.compute(tool.merge(tool.merge(a, b), c))
    same(tool.compute(tool.merge(a, tool.merge(b, c))), left)
    same(tool.compute(tool.merge(c, tool.merge(b, a))), left)
    same(tool.compute(tool.merge(empty, a)), tool.compute(a))
    same(tool.compute(tool.merge(a, empty)), tool.compute(a))
    if decay is None:
        same(left, run(tool))


@pytest.mark.parametrize("decay", [None, 0.8])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_masked_samples_are_as_if_they_were_not_there(decay, chunk_size):
    tool = statistics(loss_fn, gsnr=True, decay=decay, chunk_size=chunk_size)
    mask = torch.tensor([True, False, True, True, False, False, True])
    kept = statistics(loss_fn, gsnr=True, decay=decay)
    expected = run(kept, PARAMS, X[mask], Y[mask])
    spoilt = torch.where(mask[:, None], X, float("nan"))
    same(run(tool, PARAMS, spoilt, Y, mask=mask), expected)


def test_an_update_of_masked_samples_alone_changes_nothing():
    tool = statistics(loss_fn, gsnr=True)
    state = tool.update(tool.init(PARAMS), PARAMS, X, Y)
    none = torch.zeros(7, dtype=torch.bool)
    after = tool.update(state, PARAMS, 2 * X, Y, mask=none)
    fl.tree.map(lambda a, b: close(a, b, rtol=0, atol=0), after, state)


def test_decay_adds_numerators_and_denominators_of_batches_with_their_own_params():
    decay, sizes, expected = 0.8, (2, 5, 1), {}
    tool = statistics(loss_fn, gsnr=True, gsnr_floor=0.0, decay=decay)
    state = tool.init(PARAMS)
    for number, size in enumerate(sizes):
        params = make_params(30 + 5 * number)
        x, y = draw(50 + number, size, 3), draw(60 + number, size, 2)
        state = tool.update(state, params, x, y)
        losses, grads = loop(params, x, y)
        g = flat(grads)
        mean, gaps = g.mean(0), g - g.mean(0)
        out = grads["out"]
        out_noise = (out - out.mean(0)).square().sum(0)
        sums = {
            "n": float(size),
            "free": size - 1.0,
            "loss": losses.sum(),
            "loss_squares": (losses - losses.mean()).square().sum(),
            "norm": g.norm(dim=1).sum(),
            "noise": gaps.square().sum(),
            "signal": (g @ g.T).fill_diagonal_(0.0).sum() / size,
            "lengths": g.square().sum(),
            "length": g.sum(0).square().sum(),
            "mean_square": size * mean.square().sum(),
            "cosine": torch.cosine_similarity(g, mean[None]).sum(),
            "out_noise": out_noise,
            "out_signal": (size - 1) * out.mean(0).square() - out_noise / size,
        }
        expected = {k: decay * expected.get(k, 0.0) + v for k, v in sums.items()}
    result, e = tool.compute(state), expected
    close(result.samples, e["n"])
    close(result.loss_mean, e["loss"] / e["n"])
    close(result.loss_variance, e["loss_squares"] / e["free"])
    close(result.norm_mean, e["norm"] / e["n"])
    close(result.noise.noise, e["noise"] / e["free"])
    close(result.noise.signal, e["signal"] / e["free"])
    close(result.noise.scale, e["noise"] / e["signal"])
    close(result.diversity, e["lengths"] / e["length"])
    close(result.mean_norm, (e["mean_square"] / e["n"]).sqrt())
    close(result.cosine, e["cosine"] / e["n"])
    close(result.gsnr["out"], e["out_signal"] / e["out_noise"], rtol=1e-9)


def linear(params, x):
    return params @ x  # its gradient is x


MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
DEVIATION = torch.tensor([2.0, 0.7, 3.0], dtype=torch.float64)


def test_the_ratio_of_sums_converges_where_the_mean_of_ratios_does_not():
    x = MEAN + DEVIATION * draw(5, 4000, 5, 3)
    truth = DEVIATION.square().sum() / MEAN.square().sum()  # 35.5
    tool = statistics(linear, decay=1.0, gsnr=True)
    params = torch.zeros(3, dtype=torch.float64)
    states = fl.vmap(lambda x: tool.update(tool.init(params), params, x))(x)
    one_by_one = fl.vmap(tool.compute)(states).noise
    result = tool.compute(fl.tree.map(lambda leaf: leaf.sum(0), states))
    close(result.noise.scale, truth, rtol=0.15)
    close(result.noise.noise, DEVIATION.square().sum(), rtol=0.03)
    close(result.gsnr, (MEAN / DEVIATION).square(), rtol=0.3)
    assert (one_by_one.signal < 0).double().mean() > 0.2  # as they are, not clamped
    close(one_by_one.signal.mean(), result.noise.signal)
    assert abs(one_by_one.scale.mean() / truth - 1) > 0.5


def test_many_samples_in_one_batch_have_the_numbers_of_their_distribution():
    tool = statistics(linear, gsnr=True)
    mean = 4 * MEAN
    x = mean + DEVIATION * draw(6, 30_000, 3)
    result = run(tool, torch.zeros(3, dtype=torch.float64), x)
    signal, noise = mean.square().sum(), DEVIATION.square().sum()
    close(result.noise.scale, noise / signal, rtol=0.05)
    close(result.gsnr, (mean / DEVIATION).square(), rtol=0.1)
    close(len(x) * result.diversity, 1 + noise / signal, rtol=0.05)


def test_opposite_gradients_have_a_signal_below_zero():
    x = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    result = run(statistics(linear), torch.zeros(2), x)
    close(result.noise.signal, -25.0)  # <g_1, g_2>
    close(result.noise.noise, 50.0)
    close(result.noise.scale, -2.0)
    close(result.cosine, 0.0)


def test_zero_gradients_have_cosine_zero():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    result = run(statistics(linear, quantiles=(0.0, 1.0)), x[1], x)
    close(result.cosine, 2 / 3)
    close(result.norm_quantiles, [0.0, 5.0], rtol=0.011)


def test_a_single_sample_has_no_variance_and_none_has_no_mean():
    tool = statistics(loss_fn, gsnr=True)
    one = run(tool, PARAMS, X[:1], Y[:1])
    assert one.loss_mean.isfinite()
    assert one.norm_quantiles.isfinite().all()
    for value in (one.loss_variance, one.norm_variance, one.noise.signal):
        assert value.isnan()
    assert one.gsnr["weight"].isnan().all()
    none = tool.compute(tool.init(PARAMS))
    close(none.samples, 0.0)
    for value in (none.loss_mean, none.norm_mean, none.norm_quantiles, none.diversity):
        assert value.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_have_the_stated_relative_error(dtype):
    norms = torch.exp(6 * draw(7, 501, dtype=dtype))
    shares = (0.0, 0.013, 0.25, 0.5, 0.77, 0.95, 1.0)
    tool = statistics(lambda w, x: w * x, quantiles=shares)
    params = torch.zeros((), dtype=dtype)
    state = functools.reduce(
        lambda state, part: tool.update(state, params, part),
        norms.split(200),
        tool.init(params),
    )
    found = tool.compute(state).norm_quantiles
    wanted = torch.tensor(shares, dtype=torch.float64)
    expected = torch.quantile(norms.double(), wanted, interpolation="lower")
    torch.testing.assert_close(found, expected, rtol=0.011, atol=0)


def test_norms_beyond_the_bins_are_zero_and_infinite():
    x = torch.tensor([1e-30, 1e-25, 2.0, 1e25, 1e30], dtype=torch.float64)
    tool = statistics(lambda w, x: w * x, quantiles=(0.0, 0.25, 0.5, 0.75, 1.0))
    found = run(tool, torch.zeros((), dtype=torch.float64), x).norm_quantiles
    infinite = float("inf")
    expected = torch.tensor([0.0, 0.0, 2.0, infinite, infinite], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0.011, atol=0)


def test_all_four_functions_compile_once_while_data_change(monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")
    tool = statistics(
        lambda params, x: torch.tanh(params["w"] @ x + params["b"]).sum(),
        gsnr=True,
    )

    def step(state, params, x, mask):
        state = tool.update(state, params, x, mask=mask)
        state = tool.merge(tool.init(params), state)
        return state, tool.compute(state)

    compiled = fl.jit(step)
    fast = slow = tool.init({"w": draw(1, 5, 3), "b": draw(2, 5)})
    for seed in (10, 20):
        params = {"w": draw(seed, 5, 3), "b": draw(seed + 1, 5)}
        data = params, draw(seed + 2, 7, 3), draw(seed + 3, 7) > -0.5
        fast, result = compiled(fast, *data)
        slow, expected = step(slow, *data)
        same(result, expected)
    assert compiled.traces == 1
    same(fast, slow)


def test_models_are_mapped():
    tool = statistics(loss_fn, gsnr=True)
    models = [make_params(1), make_params(20)]
    mapped = fl.vmap(lambda params: run(tool, params))(fl.tree.stack(models))
    for found, params in zip(fl.tree.unstack(mapped), models, strict=True):
        same(found, run(tool, params))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_are_wider_than_the_params(dtype):
    params = make_params(dtype=dtype)
    x, y = X.to(dtype), Y.to(dtype)
    tool = statistics(loss_fn, gsnr=True)
    state = tool.update(tool.init(params), params, x, y)
    kinds = {leaf.dtype for leaf in fl.tree.leaves(state)}
    assert kinds == {torch.float32, torch.float64}
    result = tool.compute(state)
    wide = fl.tree.map(lambda p: p.double() if p.is_floating_point() else p, params)
    exact = run(statistics(loss_fn), wide, x.double(), y.double())
    rtol = 1e-5 if dtype == torch.float32 else 0.05
    close(result.noise.noise, exact.noise.noise, rtol=rtol)
    close(result.norm_mean, exact.norm_mean, rtol=rtol)


def test_wrt_leaves_the_others_out():
    result = run(statistics(loss_fn, wrt="out"))
    _, grads = loop(PARAMS, X, Y)
    close(result.norm_mean, grads["out"].flatten(1).norm(dim=1).mean())
    assert result.leaf_noise["weight"] == ()


def test_keys_reach_the_samples_and_aux_comes_back():
    def noisy(params, x, *, key):
        x = x + fl.random.normal(key, x.shape, dtype=x.dtype)
        return params @ x, x

    keys = fl.random.split(fl.random.key(3), 7)
    params = draw(4, 3)
    tool = statistics(noisy, has_aux=True, chunk_size=3)
    state, aux = tool.update(tool.init(params), params, X, keys=keys)
    moved = torch.stack(
        [
            x + fl.random.normal(k, (3,), dtype=x.dtype)
            for x, k in zip(X, keys, strict=True)
        ]
    )
    close(aux, moved)
    close(tool.compute(state).norm_mean, moved.norm(dim=1).mean())


def test_a_kept_batch_axis():
    def batched(params, x, y):
        return loss_fn(params, x, y)  # the mean over a batch of one

    same(run(statistics(batched, keep_batch_axis=True)), run(statistics(loss_fn)))


def test_inputs_stay_as_they_are():
    tool = statistics(loss_fn, gsnr=True)
    state = tool.update(tool.init(PARAMS), PARAMS, X, Y)
    before = fl.tree.copy((state, PARAMS, X, Y))
    tool.update(state, PARAMS, X, Y)
    tool.merge(state, state)
    tool.compute(state)
    assert fl.tree.equal((state, PARAMS, X, Y), before)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"decay": 0.0}, ValueError, r"decay: expected a number in \(0, 1\] or None"),
        ({"decay": 1.5}, ValueError, r"decay: expected a number in \(0, 1\] or None"),
        ({"gsnr_floor": -1.0}, ValueError, "gsnr_floor: expected a number of at least"),
        (
            {"quantiles": (0.5, 5)},
            ValueError,
            r"quantiles: expected shares in \[0, 1\]",
        ),
        ({"quantiles": 0.5}, TypeError, "quantiles: expected a sequence of numbers"),
        ({"method": "hooks"}, ValueError, "per_sample.statistics: method: expected"),
    ],
    ids=["decay-0", "decay-above", "floor", "share", "no-sequence", "method"],
)
def test_options_that_mean_nothing_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        statistics(loss_fn, **options)


def test_states_of_another_kind_are_refused():
    tool, other = statistics(loss_fn), statistics(loss_fn, decay=0.9)
    with pytest.raises(
        TypeError, match=r"statistics.update: state: expected what init"
    ):
        tool.update(other.init(PARAMS), PARAMS, X, Y)
    with pytest.raises(
        TypeError, match=r"statistics.compute: state: expected what init"
    ):
        tool.compute(PARAMS)
    grown = statistics(loss_fn, gsnr=True)
    with pytest.raises(ValueError, match=r"statistics.merge: b and a differ at"):
        tool.merge(tool.init(PARAMS), grown.init(PARAMS))
    small = {**PARAMS, "out": PARAMS["out"][:, :1]}
    with pytest.raises(ValueError, match=r"update: params and state differ at .*'out'"):
        tool.update(tool.init(PARAMS), small, X, Y)
