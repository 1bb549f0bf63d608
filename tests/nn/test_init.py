# SPDX-License-Identifier: Apache-2.0
# pyright: reportArgumentType=false, reportCallIssue=false
"""Initializers against torch.nn.init and jax.nn.initializers.

Against torch: bounds, moments and the whole distribution; against jax: the numbers.
"""

import math

import jax
import numpy as np
import pytest
import torch
from torch import nn as torch_nn
from torch.func import vmap

from functorch_lab import nn, random
from parity import same_distribution

KEY = random.key(11)
SHAPE = (40, 30, 3, 5)

# Each entry: ours and torch's.
CASES = {
    "uniform": (
        nn.init.uniform(-0.3, 0.7),
        lambda t: torch_nn.init.uniform_(t, -0.3, 0.7),
    ),
    "normal": (nn.init.normal(0.4, 1.3), lambda t: torch_nn.init.normal_(t, 0.4, 1.3)),
    "trunc_normal": (
        nn.init.trunc_normal(0.4, 1.3, -0.9, 1.1),
        lambda t: torch_nn.init.trunc_normal_(t, 0.4, 1.3, -0.9, 1.1),
    ),
    "xavier_uniform": (
        nn.init.xavier_uniform(1.7),
        lambda t: torch_nn.init.xavier_uniform_(t, 1.7),
    ),
    "xavier_normal": (
        nn.init.xavier_normal(0.6),
        lambda t: torch_nn.init.xavier_normal_(t, 0.6),
    ),
    "kaiming_uniform": (nn.init.kaiming_uniform(), torch_nn.init.kaiming_uniform_),
    "kaiming_uniform, options": (
        nn.init.kaiming_uniform(0.7, "fan_out"),
        lambda t: torch_nn.init.kaiming_uniform_(t, 0.7, "fan_out"),
    ),
    "kaiming_normal": (
        nn.init.kaiming_normal(mode="fan_out", nonlinearity="tanh"),
        lambda t: torch_nn.init.kaiming_normal_(t, 0, "fan_out", "tanh"),
    ),
    "orthogonal": (
        nn.init.orthogonal(1.7),
        lambda t: torch_nn.init.orthogonal_(t, 1.7),
    ),
    "constant": (nn.init.constant(0.3), lambda t: torch_nn.init.constant_(t, 0.3)),
    "zeros": (nn.init.zeros(), torch_nn.init.zeros_),
    "ones": (nn.init.ones(), torch_nn.init.ones_),
}


@pytest.mark.parametrize("name", CASES)
def test_distribution_is_that_of_torch(name):
    ours, torchs = CASES[name]
    torch.manual_seed(0)
    expected = torchs(torch.empty(SHAPE))
    actual = ours(KEY, SHAPE)
    assert actual.shape == SHAPE
    if name in {"constant", "zeros", "ones"}:
        torch.testing.assert_close(actual, expected)
    else:
        endless = ("normal", "xavier_normal", "kaiming_normal", "orthogonal")
        normal = name in endless
        same_distribution(actual, expected, None if normal else 0.01)


@pytest.mark.parametrize("name", CASES)
def test_dtype_device_and_key(name, device):
    ours, _ = CASES[name]
    key = random.key(5, device=device)
    other = torch.float64 if name == "orthogonal" else torch.float16
    if (other, device.type) != (torch.float64, "mps"):
        made = ours(key, (7, 3), other)
        assert (made.dtype, made.device.type) == (other, device.type)
    torch.testing.assert_close(ours(key, (7, 3)), ours(key, (7, 3)))
    if name not in {"constant", "zeros", "ones"}:
        assert not torch.equal(ours(KEY, (7, 3)), ours(random.key(12), (7, 3)))
    keys = random.split(random.key(3), 2)
    many = vmap(lambda k: ours(k, (7, 3)))(keys)
    torch.testing.assert_close(many, torch.stack([ours(k, (7, 3)) for k in keys]))


def jax_numbers(initializer, shape, dtype):
    with jax.enable_x64(True):
        values = initializer(jax.random.key(11), shape, str(dtype).split(".")[1])
        return torch.from_numpy(np.array(values))


MODES = ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
NUMBERS = {
    f"variance_scaling, {mode}, {distribution}": (
        nn.init.variance_scaling(1.7, mode, distribution),
        jax.nn.initializers.variance_scaling(
            1.7, mode, distribution, in_axis=1, out_axis=0
        ),
    )
    for mode, distribution in [
        ("fan_in", "uniform"),
        ("fan_out", "normal"),
        ("fan_avg", "truncated_normal"),
        ("fan_geo_avg", "uniform"),
    ]
}
AXES = {"in_axis": 1, "out_axis": 0}
NUMBERS |= {
    "truncated_normal": (
        nn.init.truncated_normal(0.3, -0.7, 1.9),
        jax.nn.initializers.truncated_normal(0.3, lower=-0.7, upper=1.9),
    ),
    "truncated_normal, defaults": (
        nn.init.truncated_normal(),
        jax.nn.initializers.truncated_normal(),
    ),
    "xavier_uniform": (
        nn.init.xavier_uniform(),
        jax.nn.initializers.glorot_uniform(**AXES),
    ),
    "kaiming_uniform": (
        nn.init.kaiming_uniform(),
        jax.nn.initializers.he_uniform(**AXES),
    ),
    # What docs/names.md says of JAX's own names.
    "lecun_uniform": (
        nn.init.kaiming_uniform(nonlinearity="linear"),
        jax.nn.initializers.lecun_uniform(**AXES),
    ),
    "lecun_normal": (
        nn.init.variance_scaling(1, "fan_in", "truncated_normal"),
        jax.nn.initializers.lecun_normal(**AXES),
    ),
    "he_normal": (
        nn.init.variance_scaling(2, "fan_in", "truncated_normal"),
        jax.nn.initializers.he_normal(**AXES),
    ),
    "glorot_normal": (
        nn.init.variance_scaling(1, "fan_avg", "truncated_normal"),
        jax.nn.initializers.glorot_normal(**AXES),
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_jax(name):
    (ours, jaxs), shape = NUMBERS[name], (5, 3, 2, 7)
    double = ours(KEY, shape, torch.float64)
    expected = jax_numbers(jaxs, shape, torch.float64)
    torch.testing.assert_close(double, expected, rtol=1e-12, atol=1e-14)
    single = ours(KEY, shape, torch.float32)
    expected = jax_numbers(jaxs, shape, torch.float32)
    torch.testing.assert_close(single, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 3), (5, 2, 3, 7), (2, 3, 7, 5, 1)])
def test_fans_are_those_of_torch(shape):
    fan_in, fan_out = torch_nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    fans = [fan_in, fan_out, (fan_in + fan_out) / 2, math.sqrt(fan_in * fan_out)]
    first = random.uniform(KEY, shape, torch.float64, -1.0)
    for mode, fan in zip(MODES, fans, strict=True):
        drawn = nn.init.variance_scaling(3.1, mode, "uniform")(
            KEY, shape, torch.float64
        )
        expected = first * math.sqrt(3 * 3.1 / fan)
        torch.testing.assert_close(drawn, expected, rtol=1e-14, atol=0)


def test_truncation_does_not_take_from_the_variance():
    shape = (700, 900)
    drawn = nn.init.variance_scaling(1.7, "fan_out", "truncated_normal")(KEY, shape)
    std = math.sqrt(1.7 / 700)
    # The standard error of the deviation is below that of a normal number.
    assert abs(drawn.std() / std - 1) < 4 / math.sqrt(2 * drawn.numel())
    assert abs(drawn.mean()) < 4 * std / math.sqrt(drawn.numel())
    # Cut off at twice the deviation before truncation.
    assert 1.99 < drawn.abs().max() / (std / 0.87962566103423978) <= 2


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (7, 7), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_eye_is_that_of_torch(shape, dtype):
    expected = torch_nn.init.eye_(torch.empty(shape, dtype=dtype))
    exact(nn.init.eye()(KEY, shape, dtype), expected)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((3, 5, 7), 1),
        ((5, 3, 2), 1),
        ((6, 2, 3, 5), 3),
        ((6, 5, 2, 3), 3),
        ((10, 3, 2, 5, 3), 2),
        ((6, 1, 3, 2, 7), 6),
        ((0, 3, 2), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dirac_is_that_of_torch(shape, groups, dtype):
    expected = torch_nn.init.dirac_(torch.empty(shape, dtype=dtype), groups)
    exact(nn.init.dirac(groups)(KEY, shape, dtype), expected)


def exact(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_dirac_passes_the_input_on():
    layer = nn.conv2d(
        6, 6, 3, padding="same", groups=3, bias=False, weight_init=nn.init.dirac(3)
    )
    image = torch.linspace(-1.3, 1.9, 6 * 5 * 7).reshape(6, 5, 7)
    exact(layer.apply(layer.init(KEY), image), image)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(7, 5), (10, 300)], ids=str)
def test_sparse_has_the_zeros_of_torch(sparsity, shape):
    ours = nn.init.sparse(sparsity, 1.3)(KEY, shape)
    torchs = torch_nn.init.sparse_(torch.empty(shape), sparsity, 1.3)
    exact((ours == 0).sum(0), (torchs == 0).sum(0))


def test_sparse_zeros_are_anywhere_and_the_rest_is_normal():
    shape = (10, 3000)
    ours = nn.init.sparse(0.3, 1.3)(KEY, shape)
    # Each row has a binomial number of zeros.
    deviation = math.sqrt(3000 * 0.3 * 0.7)
    assert ((ours == 0).sum(1) - 900).abs().max() < 4 * deviation
    torch.manual_seed(0)
    rest = ours[ours != 0]
    same_distribution(rest, 1.3 * torch.randn(len(rest)), None)
    # Two columns rarely agree about their zeros: 10 choose 3 are 120 sets.
    agree = ((ours[:, ::2] == 0) == (ours[:, 1::2] == 0)).all(0).float().mean()
    assert abs(agree - 1 / 120) < 4 * math.sqrt(1 / 120 / 1500)


STRUCTURED = {
    "eye": (nn.init.eye(), (3, 5)),
    "dirac": (nn.init.dirac(2), (6, 2, 3)),
    "sparse": (nn.init.sparse(0.4), (5, 3)),
    "truncated_normal": (nn.init.truncated_normal(), (5, 3)),
    "variance_scaling": (nn.init.variance_scaling(2, "fan_out", "uniform"), (5, 3)),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_dtype_device_vmap_and_compilation(name, device):
    initializer, shape = STRUCTURED[name]
    half = initializer(random.key(5, device=device), shape, torch.float16)
    assert (half.dtype, half.device.type) == (torch.float16, device.type)
    keys = random.split(random.key(3), 2)
    each = torch.stack([initializer(k, shape) for k in keys])
    assert torch.equal(each[0], each[1]) == (name in {"eye", "dirac"})
    torch.testing.assert_close(vmap(lambda k: initializer(k, shape))(keys), each)
    compiled = torch.compile(
        lambda k: initializer(k, shape), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(keys[0]), each[0])


def test_every_initializer_of_torch_is_here():
    torchs = {n[:-1] for n in dir(torch_nn.init) if n.endswith("_") and n[0] != "_"}
    assert torchs
    assert torchs <= set(nn.init.__all__)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 3, 2), (5, 5)])
def test_orthogonal_rows_or_columns(shape):
    rows = nn.init.orthogonal(gain=1.5)(KEY, shape).reshape(shape[0], -1)
    short = rows if rows.shape[0] <= rows.shape[1] else rows.T
    torch.testing.assert_close(short @ short.T, 2.25 * torch.eye(len(short)))


def test_orthogonal_is_uniform_over_rotations():
    keys = random.split(random.key(0), 2000)
    q = vmap(lambda k: nn.init.orthogonal()(k, (2, 2)))(keys)
    # Without the signs of R the first entry would always have one sign.
    angle = torch.atan2(q[:, 1, 0], q[:, 0, 0])
    same_distribution(angle, torch.linspace(-math.pi, math.pi, 2000))
    assert abs((torch.linalg.det(q) > 0).float().mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    "name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
)
def test_gains_are_those_of_torch(name):
    assert nn.init.calculate_gain(name) == torch_nn.init.calculate_gain(name)
    slope = 0.3 if name == "leaky_relu" else None
    expected = torch_nn.init.calculate_gain(name, slope)
    assert nn.init.calculate_gain(name, slope) == expected


@pytest.mark.parametrize(
    ("layer", "module", "fan_in"),
    [
        (nn.linear(50, 400), torch_nn.Linear(50, 400), 50),
        (nn.conv2d(6, 402, 3, groups=3), torch_nn.Conv2d(6, 402, 3, groups=3), 18),
    ],
)  # fmt: skip
def test_layers_start_as_those_of_torch(layer, module, fan_in):
    torch.manual_seed(1)
    module.reset_parameters()
    params, bound = layer.init(KEY), 1 / math.sqrt(fan_in)
    for name, within in [("weight", 0.01), ("bias", 0.05)]:
        ours, torchs = params[name], getattr(module, name).detach()
        assert ours.abs().max() <= bound
        same_distribution(ours, torchs, within)
        sigma = bound / math.sqrt(3)
        n = ours.numel()
        assert abs(ours.mean()) < 4 * sigma / math.sqrt(n)
        # The standard error of the deviation of uniform numbers is sigma sqrt(0.2/n).
        assert abs(ours.std() - sigma) < 4 * sigma * math.sqrt(0.2 / n)


def test_layers_take_initializers():
    layer = nn.linear(3, 5, weight_init=nn.init.ones(), bias_init=nn.init.constant(0.3))
    expected = {"weight": torch.ones(5, 3), "bias": torch.full((5,), 0.3)}
    torch.testing.assert_close(layer.init(KEY), expected)
    layer = nn.conv2d(2, 5, 3, weight_init=nn.init.zeros(), bias=False)
    torch.testing.assert_close(layer.init(KEY), {"weight": torch.zeros(5, 2, 3, 3)})


def test_weight_and_bias_are_independent():
    params = nn.linear(1, 50).init(KEY)
    assert not torch.equal(params["weight"].flatten(), params["bias"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.init.kaiming_normal()(KEY, (3,)), r"at least 2 axes.* got \(3,\)"),
        (lambda: nn.init.orthogonal()(KEY, (3,)), "orthogonal: .*at least 2 axes"),
        (lambda: nn.init.kaiming_normal(mode="out"), "kaiming_normal: .* got 'out'"),
        (lambda: nn.init.xavier_normal(nn.init.calculate_gain("no")), "got 'no'"),
        (lambda: nn.init.trunc_normal(a=1.0, b=-1.0), "a below b, got .*a=1.0, b=-1"),
        (lambda: nn.init.trunc_normal(std=0.0), "trunc_normal: std: .* got 0.0"),
        (lambda: nn.init.truncated_normal(-0.3), "truncated_normal: std: .* got -0.3"),
        (
            lambda: nn.init.truncated_normal(0.3, 2.0, -2.0),
            "lower, upper: expected lower below upper, got lower=2.0, upper=-2.0",
        ),
        (lambda: nn.init.uniform(0.7, 0.3), "uniform: a, b: .* got a=0.7, b=0.3"),
        (lambda: nn.init.normal(std=-0.3), "normal: std: .* at least 0, got -0.3"),
        (
            lambda: nn.init.variance_scaling(0.0, "fan_in", "normal"),
            "variance_scaling: scale: .* above 0, got 0.0",
        ),
        (
            lambda: nn.init.variance_scaling(2.0, "fan", "normal"),
            r"variance_scaling: mode: expected one of \['fan_in', .* got 'fan'",
        ),
        (
            lambda: nn.init.variance_scaling(2.0, "fan_in", "gauss"),
            "variance_scaling: distribution: .*'truncated_normal'.* got 'gauss'",
        ),
        (lambda: nn.init.xavier_normal()(KEY, (2, 0)), r"xavier_normal: .* \(2, 0\)"),
        (lambda: nn.init.eye()(KEY, (2, 3, 5)), r"eye: shape: expected 2 axes, .*3, 5"),
        (lambda: nn.init.dirac()(KEY, (2, 3)), r"dirac: .* 3 to 5 axes, .* \(2, 3\)"),
        (lambda: nn.init.dirac(3)(KEY, (5, 2, 7)), "divisible by groups=3, got .*7"),
        (lambda: nn.init.dirac(0), "dirac: groups: expected at least 1, got 0"),
        (lambda: nn.init.sparse(0.3)(KEY, (3,)), "sparse: shape: expected 2 axes"),
        (lambda: nn.init.sparse(1.3), r"sparse: sparsity: .* \[0, 1\], got 1.3"),
        (lambda: nn.init.sparse(0.3, -1.3), "sparse: std: .* got -1.3"),
    ],
)
def test_errors_say_what_was_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("draw", "shape"),
    [
        (nn.init.constant(0.3), (3,)),
        (nn.init.zeros(), (3,)),
        (nn.init.eye(), (3, 2)),
        (nn.init.dirac(), (3, 2, 5)),
    ],
    ids=["constant", "zeros", "eye", "dirac"],
)
def test_a_seed_is_no_key_where_nothing_is_drawn_either(draw, shape):
    with pytest.raises(
        TypeError, match=r"nn.init.*: key: expected a key, got int. Make"
    ):
        draw(0, shape)
    with pytest.raises(TypeError, match="key: expected a key, got int"):
        nn.batch_norm(3, spatial_dims=0, affine=False).init(0)
