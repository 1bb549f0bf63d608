# SPDX-License-Identifier: Apache-2.0
"""Convolutions in factored form, against one backward pass for each sample."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.grad import conv2d_weight

import functorch_lab as fl
from functorch_lab.per_sample import Direct, _blocks, _convolution_pair
from functorch_lab.per_sample._convolution_pair import _WAYS, ConvPair, Route
from per_sample_cases._oracle import norms as lengths
from per_sample_cases._oracle import one_by_one

SAMPLES = 5


class Case(NamedTuple):
    """A convolution, the shape of its weight, and the shape of one sample."""

    name: str
    weight: tuple[int, ...]
    sample: tuple[int, ...]
    options: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        options = ", ".join(f"{k} {v}" for k, v in self.options.items())
        return f"{self.name} {self.weight} of {self.sample} {options}"

    def function(self) -> Callable[..., Tensor]:
        return getattr(F, self.name)

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
        generator = torch.Generator().manual_seed(sum(self.weight) + len(self.name))

        def draw(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            return values.to(dtype)

        channels = self.weight[0]
        if "transpose" in self.name:
            channels = self.weight[1] * self.options.get("groups", 1)
        params = {"weight": draw(*self.weight), "bias": draw(channels)}
        return params, draw(SAMPLES, *self.sample)

    def loss(self, params: Any, x: Tensor) -> Tensor:
        y = self.function()(x, params["weight"], params["bias"], **self.options)
        return measure(y)


def measure(y: Tensor) -> Tensor:
    """A scalar to which no two outputs contribute alike."""
    scale = torch.linspace(0.4, 1.7, y.numel(), dtype=y.dtype).reshape(y.shape)
    return ((y + 0.3).square() * scale).sum()


def assert_right(actual: Tensor, wanted: Tensor, limit: float = 1e-12) -> None:
    assert actual.shape == wanted.shape
    assert (actual - wanted).norm() <= limit * wanted.norm()


CASES = [
    Case("conv1d", (5, 3, 2), (3, 7)),
    Case("conv1d", (6, 2, 3), (4, 11), {"groups": 2, "stride": 3, "padding": 2}),
    Case("conv1d", (2, 3, 3), (3, 7), {"dilation": 2, "padding": "valid"}),
    Case("conv1d", (2, 3, 4), (3, 7), {"padding": "same"}),
    Case("conv1d", (3, 2, 2), (5, 2, 7), {"padding": 1}),
    Case("conv2d", (5, 3, 3, 2), (3, 7, 5)),
    Case("conv2d", (5, 3, 3, 2), (2, 3, 7, 5), {"stride": (2, 1), "padding": (1, 0)}),
    Case("conv2d", (6, 1, 3, 2), (3, 7, 5), {"groups": 3, "padding": (2, 1)}),
    Case("conv2d", (4, 3, 2, 3), (2, 6, 5, 7), {"groups": 2, "stride": 2}),
    Case("conv2d", (2, 3, 4, 3), (3, 7, 5), {"padding": "same", "dilation": (1, 2)}),
    Case("conv2d", (2, 3, 2, 2), (3, 8, 7), {"stride": 3, "padding": 1}),
    Case("conv1d", (2, 3, 4), (3, 11), {"stride": 2, "padding": 3, "dilation": 3}),
    Case("conv1d", (2, 3, 5), (3, 7), {"stride": 2, "padding": 4, "dilation": 2}),
    Case("conv1d", (2, 3, 3), (3, 7), {"stride": 5, "padding": 6, "dilation": 4}),
    Case("conv2d", (5, 3, 1, 1), (3, 5, 7), {"stride": 2}),
    Case("conv2d", (5, 3, 7, 5), (3, 7, 5)),
    Case("conv3d", (2, 3, 2, 3, 2), (3, 5, 7, 3), {"padding": (1, 0, 1)}),
    Case("conv3d", (4, 1, 2, 1, 3), (2, 3, 5, 7), {"groups": 2, "padding": "same"}),
    Case("conv_transpose1d", (3, 2, 5), (3, 7)),
    Case(
        "conv_transpose1d",
        (3, 2, 3),
        (3, 5),
        {"stride": 3, "padding": 1, "output_padding": 2},
    ),
    # More padding than a stride: the output ends where no patch does.
    Case("conv_transpose1d", (3, 2, 3), (3, 5), {"dilation": 3, "output_padding": 2}),
    Case("conv_transpose2d", (6, 2, 3, 2), (2, 6, 3, 5), {"groups": 3, "stride": 2}),
    Case(
        "conv_transpose2d",
        (3, 2, 3, 2),
        (3, 3, 5),
        {"stride": (2, 3), "padding": (1, 0), "output_padding": (0, 2), "dilation": 2},
    ),
    Case("conv_transpose3d", (2, 3, 2, 3, 2), (2, 3, 2, 5), {"stride": (1, 2, 3)}),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@every_case
def test_norms_and_gradients(case: Case) -> None:
    params, x = case.inputs()
    wanted = one_by_one(case.loss, params, x)
    grads = fl.per_sample.grads(case.loss)(params, x)
    for name, leaf in wanted.items():
        assert_right(grads[name], leaf)
    assert_right(fl.per_sample.norms(case.loss)(params, x), lengths(wanted))


def pair_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[ConvPair, Tensor]:
    """The weight's factor before it is formed, and its gradients."""
    monkeypatch.setattr(ConvPair, "route", lambda self: "pixels")
    params, x = case.inputs()
    (pair,) = fl.per_sample.factors(case.loss)(params, x)["weight"].uses
    assert isinstance(pair, ConvPair)
    return pair, one_by_one(case.loss, params, x)["weight"]


@every_case
def test_contractions(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, wanted = pair_of(case, monkeypatch)
    square = wanted.flatten(1).square().sum(1)
    for way in _WAYS.values():
        assert_right(way(pair), square)
    assert_right(pair.materialize(), wanted)
    assert_right(pair.dense().materialize(), wanted)
    weights = torch.linspace(-0.7, 1.9, SAMPLES, dtype=torch.float64)
    total = torch.einsum("b,b...->...", weights, wanted)
    assert_right(pair.weighted_sum(weights), total)
    assert_right(pair.weighted_sum(None), wanted.sum(0))
    tensor = wanted[2] + 0.3 * wanted[0].flip(0)
    assert_right(pair.inner(tensor), (wanted * tensor).flatten(1).sum(1))
    mask = torch.tensor([True, False, True, True, False])
    kept = torch.where(mask, square, 0.0)
    assert_right(pair.masked(mask).squared_norm(), kept)


@every_case
def test_onednn(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_convolution_pair, "_MANY", 1)
    params, x = case.inputs(torch.float32)
    monkeypatch.setattr(ConvPair, "route", lambda self: "pixels")
    (pair,) = fl.per_sample.factors(case.loss)(params, x)["weight"].uses
    exact = {name: leaf.double() for name, leaf in params.items()}
    wanted = one_by_one(case.loss, exact, x.double())["weight"].float()
    assert_right(pair.materialize(), wanted, 1e-6)


def test_few_samples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[5]
    pair, wanted = pair_of(case, monkeypatch)
    seen = []

    def spy(part: ConvPair) -> Tensor:
        seen.append(part.signal.shape[0])
        return way(part)

    way = _WAYS["pixels"]
    monkeypatch.setitem(_WAYS, "pixels", spy)
    square = wanted.flatten(1).square().sum(1)
    assert_right(pair.squared_norm(), square)
    monkeypatch.setattr(_convolution_pair, "_CACHED", 1)
    assert_right(pair.squared_norm(), square)
    assert_right(pair.materialize(), wanted)
    monkeypatch.setattr(_blocks, "NUMBERS", 1)
    assert_right(pair.squared_norm(), square)
    assert seen == [5, 2, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("case", "route", "kind"),
    [
        (Case("conv2d", (9, 11, 3, 3), (11, 4, 3), {"padding": 1}), "pixels", ConvPair),
        (Case("conv2d", (7, 5, 3, 2), (5, 3, 7), {"stride": 2}), "patches", ConvPair),
        (Case("conv1d", (2, 3, 3), (3, 31)), "gradients", Direct),
        (Case("conv1d", (7, 5, 9), (5, 26)), "gradients", ConvPair),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_cheapest_route(
    case: Case, route: Route, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, x = case.inputs()
    (use,) = fl.per_sample.factors(case.loss)(params, x)["weight"].uses
    assert type(use) is kind
    pair, wanted = pair_of(case, monkeypatch)
    monkeypatch.undo()
    costs = pair.costs()
    assert pair.route() == route
    assert costs[route].products == min(cost.products for cost in costs.values())
    assert_right(use.squared_norm(), wanted.flatten(1).square().sum(1))


def test_a_signal_that_hardly_varies_keeps_its_digits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case("conv2d", (6, 2, 3, 2), (3, 4, 5, 4), {"groups": 2})
    params, x = case.inputs(torch.float32)
    monkeypatch.setattr(ConvPair, "route", lambda self: "pixels")
    (pair,) = fl.per_sample.factors(case.loss)(params, x)["weight"].uses
    response = pair.response - pair.response.mean((1, 3, 4), keepdim=True)
    pair = pair.replace(signal=50.0 + pair.signal, response=response)
    wanted = [
        conv2d_weight(x, (6, 2, 3, 2), d, groups=2)
        for x, d in zip(pair.signal.double(), pair.response.double(), strict=True)
    ]
    square = torch.stack(wanted).flatten(1).square().sum(1)
    assert_right(pair.squared_norm().double(), square, 1e-5)


def draws(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def assert_factored(loss: Callable[..., Tensor], params: Any, *batch: Tensor) -> None:
    """Norms and gradients are right, and no gradient comes from `vmap(grad)`."""
    wanted = one_by_one(loss, params, *batch)
    grads = fl.per_sample.grads(loss, method="factored")(params, *batch)
    for name, leaf in wanted.items():
        assert_right(grads[name], leaf)
    assert_right(fl.per_sample.norms(loss)(params, *batch), lengths(wanted))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(2, 1), "same"], ids=str)
def test_modules_with_every_padding_mode(mode: Any, padding: Any) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(
        4, 6, (3, 2), padding=padding, padding_mode=mode, groups=2, dtype=torch.float64
    )
    params = {name: p.detach() for name, p in module.named_parameters()}
    (x,) = draws((SAMPLES, 4, 5, 7))
    assert_factored(lambda p, x: measure(functional_call(module, p, x)), params, x)


CALLS: dict[str, Callable[..., Tensor]] = {
    "by name": lambda w, b, x: F.conv1d(input=x, bias=b, stride=(2,), weight=w),
    "by place": lambda w, b, x: torch.conv1d(x, w, b, 2, (1,), 1, 1),
    "without bias": lambda w, b, x: torch.conv1d(x, w) + b[:, None],
    "bias alone": lambda w, b, x: F.conv1d(x, 0.7 * w.detach(), b) + w.sum(),
    "weight and input": lambda w, b, x: F.conv1d(w, w, b) * x.sum(),
    "a part, in another order": lambda w, b, x: F.conv1d(
        x[:2], w[1:, 1:].flip(2), b[1:]
    ),
    "a part, transposed": lambda w, b, x: F.conv1d(x[:2], w[1:, :2].mT, b[1:]),
    "groups of a part": lambda w, b, x: F.conv1d(x[:2], w[2:, :1], b[2:], groups=2),
    "groups within": lambda w, b, x: F.conv1d(x[:2], w[1:5, :1], b[1:5], groups=2),
    "groups apart": lambda w, b, x: F.conv1d(x[:2], w[::3, :1], b[::3], groups=2),
    "twice": lambda w, b, x: F.conv1d(F.conv1d(x, w, b).sin()[:3], w, b, dilation=2),
    "by a transposed one": lambda w, b, x: F.conv_transpose1d(F.conv1d(x, w), w),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls(call: Callable[..., Tensor]) -> None:
    weight, bias, x = draws((6, 3, 2), (6,), (SAMPLES, 3, 7))

    def loss(params: Any, x: Tensor) -> Tensor:
        return (
            measure(call(params["weight"], params["bias"], x)) + 0.1 * params["bias"][0]
        )

    params = {"weight": weight, "bias": bias}
    wanted = one_by_one(loss, params, x)
    grads = fl.per_sample.grads(loss)(params, x)
    for name, leaf in wanted.items():
        assert_right(grads[name], leaf)
    assert_right(fl.per_sample.norms(loss)(params, x), lengths(wanted))


def test_half_precision_is_summed_in_single() -> None:
    case = Case("conv2d", (3, 2, 3, 2), (2, 7, 5), {"padding": 1})
    params, x = case.inputs(torch.bfloat16)
    factor = fl.per_sample.factors(case.loss)(params, x)["weight"]
    assert factor.materialize().dtype == factor.squared_norm().dtype == torch.float32
    assert factor.weighted_sum(torch.ones(SAMPLES)).dtype == torch.float32
    assert factor.inner(params["weight"]).dtype == torch.float32


def test_under_vmap() -> None:
    case = Case("conv2d", (9, 11, 3, 3), (11, 4, 3), {"padding": 1})
    params, x = case.inputs()
    function = fl.per_sample.value_and_grad(case.loss)
    several = [params, fl.tree.scale(params, 0.7)]
    (_, norms), means = fl.vmap(function, in_dims=(0, None))(fl.tree.stack(several), x)
    for i, one in enumerate(several):
        wanted = one_by_one(case.loss, one, x)
        assert_right(norms[i], lengths(wanted))
        assert_right(means["weight"][i], wanted["weight"].mean(0))


def test_derivative_of_norms() -> None:
    case = Case("conv2d", (9, 11, 3, 3), (11, 4, 3), {"padding": 1})
    params, x = case.inputs()
    wanted = fl.grad(lambda p: norms_by_hand(case.loss)(p, x).sum())(params)
    found = fl.grad(lambda p: fl.per_sample.norms(case.loss)(p, x).sum())(params)
    for name, leaf in wanted.items():
        assert_right(found[name], leaf)


def norms_by_hand(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The definition, with torch's own transforms."""

    def function(params: Any, x: Tensor) -> Tensor:
        return lengths(torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x))

    return function


def test_compiled() -> None:
    case = Case("conv2d", (9, 11, 3, 3), (11, 4, 3), {"padding": 1})
    params, x = case.inputs(torch.float32)
    exact = {name: leaf.double() for name, leaf in params.items()}
    wanted = one_by_one(case.loss, exact, x.double())
    function = fl.jit(fl.per_sample.value_and_grad(case.loss))
    (_, norms), mean = function(params, x)
    assert_right(norms.double(), lengths(wanted), 1e-6)
    assert_right(mean["weight"].double(), wanted["weight"].mean(0), 1e-6)
