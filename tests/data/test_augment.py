# SPDX-License-Identifier: Apache-2.0
"""Augmentations against NumPy and grid_sample, for the amounts that jax draws."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import functorch_lab as fl
from functorch_lab import random
from functorch_lab.data import augment
from oracles import finite_difference_gradient


def at(function: Any, **options: Any) -> Any:
    """An augmentation with its options, as a function of key and image."""
    return lambda key, x: function(key, x, **options)


CASES: dict[str, Any] = {
    "crop": at(augment.crop, size=(3, 5)),
    "crop, padding": at(augment.crop, size=7, padding=2),
    "rotate": at(augment.rotate, degrees=35.0),
    "shift": at(augment.shift, pixels=2),
    "brightness": at(augment.brightness, delta=0.7),
    "contrast": at(augment.contrast, factor=0.6),
    "horizontal_flip": at(augment.horizontal_flip),
}
SEEDS = [2, 3, 5, 7]
every_case = pytest.mark.parametrize("name", CASES)
every_seed = pytest.mark.parametrize("seed", SEEDS)


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        yield jax


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    values = torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.2
    return values.float().to(dtype)


def image(dtype: torch.dtype = torch.float64) -> Tensor:
    return images(2, 5, 7, dtype=dtype)


def drawn(jax: Any, seed: int, low: int, high: tuple[int, int]) -> list[int]:
    """For rows and columns an integer in [low, high) each."""
    key, ends = jax.random.key(seed), np.array(high, np.int32)
    return jax.random.randint(key, (2,), low, ends, "int32").tolist()


def real(jax: Any, seed: int, limit: float) -> float:
    low, high = -limit, limit
    return float(jax.random.uniform(jax.random.key(seed), (), "float64", low, high))


def turned(x: Tensor, angle: float) -> Tensor:
    """By grid_sample: the output at p is the input at the reverse turn of p."""
    _, height, width = x.shape
    half = np.array([(width - 1) / 2, (height - 1) / 2])  # x, y
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) - half
    cos, sin = math.cos(angle), math.sin(angle)
    source = grid @ np.array([[cos, sin], [-sin, cos]])
    place = torch.from_numpy(source / half).unsqueeze(0)
    sample = torch.nn.functional.grid_sample
    return sample(x.unsqueeze(0), place, align_corners=True)[0]


@every_seed
@pytest.mark.parametrize(
    ("size", "padding"),
    [((3, 2), 0), ((2, 7), 0), (5, 1), ((7, 3), 2), ((11, 13), 3), ((5, 7), 0), (1, 0)],
)
def test_crop_is_a_slice_of_the_padded_image(jax, seed, size, padding):
    x = image()
    height, width = size if isinstance(size, tuple) else (size, size)
    padded = np.pad(x.numpy(), [(0, 0), (padding, padding), (padding, padding)])
    ends = (5 + 2 * padding - height + 1, 7 + 2 * padding - width + 1)
    top, left = drawn(jax, seed, 0, ends)
    expected = padded[:, top : top + height, left : left + width]
    got = augment.crop(random.key(seed), x, size=size, padding=padding)
    assert_close(got, torch.from_numpy(expected.copy()), rtol=0, atol=0)


@every_seed
@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_shift_is_a_slice_of_the_padded_image(jax, seed, pixels):
    x = image()
    down, right = drawn(jax, seed, -pixels, (pixels + 1, pixels + 1))
    padded = np.pad(x.numpy(), [(0, 0), (pixels, pixels), (pixels, pixels)])
    top, left = pixels - down, pixels - right
    expected = torch.from_numpy(padded[:, top : top + 5, left : left + 7].copy())
    got = augment.shift(random.key(seed), x, pixels=pixels)
    assert_close(got, expected, rtol=0, atol=0)


@every_seed
@pytest.mark.parametrize("degrees", [15.0, 180.0])
def test_rotate_is_grid_sample(jax, seed, degrees):
    x = image()
    got = augment.rotate(random.key(seed), x, degrees=degrees)
    angle = math.radians(real(jax, seed, degrees))
    assert_close(got, turned(x, angle), rtol=1e-12, atol=1e-13)


@every_seed
def test_rotate_is_scipys_affine_transform(jax, seed):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = image()
    angle = math.radians(real(jax, seed, 70.0))
    cos, sin = math.cos(angle), math.sin(angle)
    matrix, centre = np.array([[cos, sin], [-sin, cos]]), np.array([2.0, 3.0])
    offset = centre - matrix @ centre
    expected = [
        ndimage.affine_transform(channel, matrix, offset, order=1, mode="grid-constant")
        for channel in x.numpy()
    ]
    got = augment.rotate(random.key(seed), x, degrees=70.0)
    assert_close(got, torch.from_numpy(np.stack(expected)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_a_quarter_turn_is_rot90_counter_clockwise(quarters):
    x = images(3, 5, 5)
    angle = torch.tensor(quarters * math.pi / 2, dtype=torch.float64)
    expected = torch.rot90(x, quarters, (1, 2))
    assert_close(augment._rotated(x, angle), expected, rtol=1e-12, atol=1e-13)


def test_a_half_turn_is_two_flips_of_any_shape():
    angle = torch.tensor(math.pi, dtype=torch.float64)
    got = augment._rotated(image(), angle)
    assert_close(got, image().flip(1, 2), rtol=1e-12, atol=1e-13)


def test_the_corners_that_turn_in_are_zero():
    got = augment._rotated(images(2, 7, 7), torch.tensor(math.pi / 4))
    assert (got[:, [0, 0, 6, 6], [0, 6, 0, 6]] == 0).all()
    assert (got[:, 3] > 0).all()


@every_seed
def test_brightness_adds_the_number(jax, seed):
    expected = image() + real(jax, seed, 0.7)
    got = augment.brightness(random.key(seed), image(), delta=0.7)
    assert_close(got, expected, rtol=1e-12, atol=0)


@every_seed
def test_contrast_scales_the_deviation_and_keeps_the_mean(jax, seed):
    x = image().numpy()
    mean = x.mean((1, 2), keepdims=True)
    expected = mean + (1 + real(jax, seed, 0.6)) * (x - mean)
    got = augment.contrast(random.key(seed), image(), factor=0.6)
    assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=0)
    assert_close(got.mean((1, 2)), image().mean((1, 2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_flips_are_jaxs_draws(jax, p):
    flipped = []
    for seed in range(20):
        draw = bool(jax.random.bernoulli(jax.random.key(seed), np.float32(p)))
        expected = image().flip(2) if draw else image()
        got = augment.horizontal_flip(random.key(seed), image(), p=p)
        assert_close(got, expected, rtol=0, atol=0)
        flipped.append(draw)
    assert {True, False} == set(flipped)


NOTHING: dict[str, Any] = {
    "crop": at(augment.crop, size=(5, 7)),
    "rotate": at(augment.rotate, degrees=0.0),
    "shift": at(augment.shift, pixels=0),
    "brightness": at(augment.brightness, delta=0.0),
    "horizontal_flip": at(augment.horizontal_flip, p=0.0),
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_amount_of_zero_changes_nothing(name, dtype):
    x = image(dtype)
    for seed in SEEDS:
        got = NOTHING[name](random.key(seed), x)
        assert_close(got, x, rtol=0, atol=0)


def test_the_other_limits():
    key, x = random.key(3), image()
    assert_close(augment.contrast(key, x, factor=0), x, rtol=1e-12, atol=0)
    assert_close(augment.horizontal_flip(key, x, p=1), x.flip(2), rtol=0, atol=0)
    keys = random.split(random.key(5), 300)
    scales = fl.vmap(at(augment.contrast, factor=1), in_dims=(0, None))(keys, x)
    deviation = (scales - x.mean((1, 2), keepdim=True)) / (x - x.mean((1, 2), True))
    assert 0 <= deviation.min() < 0.02
    assert 1.98 < deviation.max() <= 2


def test_all_places_are_equally_likely():
    # One bright pixel in the middle shows how far the image was moved.
    x = torch.zeros(1, 5, 5)
    x[0, 2, 2] = 1.7
    keys = random.split(random.key(7), 5000)
    for function in (
        at(augment.shift, pixels=2),
        at(augment.crop, size=5, padding=2),
    ):
        moved = fl.vmap(function, in_dims=(0, None))(keys, x)
        counts = (moved[:, 0] > 0).sum(0)
        assert counts.sum() == 5000
        # 200 expected at each of 25 places; 4.5 standard deviations.
        assert (counts - 200).abs().max() < 4.5 * math.sqrt(200)


def test_amounts_fill_their_interval_evenly():
    keys = random.split(random.key(7), 5000)
    zero = torch.zeros(1, 2, 3)
    amounts = fl.vmap(at(augment.brightness, delta=0.7), (0, None))(keys, zero)
    counts = torch.histc(amounts[:, 0, 0, 0], 10, -0.7, 0.7)
    assert counts.sum() == 5000
    assert (counts - 500).abs().max() < 4.5 * math.sqrt(500)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    return random.split(random.key(seed), 3), images(3, 2, 5, 7) + seed


@every_case
def test_vmap_is_a_loop_and_each_image_has_its_own_draw(name):
    keys, x = batch(5)
    pairs = zip(keys, x, strict=True)
    expected = torch.stack([CASES[name](key, each) for key, each in pairs])
    got = fl.vmap(CASES[name])(keys, x)
    assert_close(got, expected, rtol=1e-12, atol=1e-13)
    many = random.split(random.key(2), 30)
    different = fl.vmap(CASES[name], in_dims=(0, None))(many, x[0])
    assert (different != different[0]).any()


@every_case
def test_inputs_stay_and_the_same_key_gives_the_same_image(name):
    keys, x = batch(5)
    before = (keys.clone(), x.clone())
    first = CASES[name](keys[1], x[1])
    assert_close(CASES[name](keys[1], x[1]), first, rtol=0, atol=0)
    assert_close((keys, x), before, rtol=0, atol=0)
    assert first.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@every_case
def test_compiled_equals_eager_and_is_traced_once(name, monkeypatch):
    monkeypatch.setattr("functorch_lab.transforms._compile.BACKEND", "eager")

    def squares(keys, x):
        changed = fl.vmap(CASES[name])(keys, x)
        return (changed * changed).sum(), changed

    function = fl.value_and_grad(squares, argnums=1, has_aux=True)
    jitted = fl.jit(function)
    for seed in SEEDS:
        assert_close(jitted(*batch(seed)), function(*batch(seed)), rtol=1e-12, atol=0)
    assert jitted.traces == 1


@every_case
def test_the_gradient_for_the_image_equals_finite_differences(name):
    weights = images(2, 11, 11)

    def total(x: Tensor) -> Tensor:
        changed = CASES[name](random.key(3), x)
        return (weights[:, : changed.shape[1], : changed.shape[2]] * changed**2).sum()

    (expected,) = finite_difference_gradient(lambda leaves: total(*leaves), [image()])
    assert_close(fl.grad(total)(image()), expected, rtol=1e-6, atol=1e-8)
    keys, x = batch(5)
    loss = lambda x, key: (CASES[name](key, x) ** 2).sum()  # noqa: E731
    per_sample = fl.vmap(fl.grad(loss))(x, keys)
    pairs = zip(x, keys, strict=True)
    looped = torch.stack([fl.grad(loss)(*pair) for pair in pairs])
    assert_close(per_sample, looped, rtol=1e-12, atol=1e-13)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_device_stay_and_half_precision_is_only_the_result(
    name, dtype, device
):
    key = random.key(3, device=device)
    x = image(dtype).to(device)
    got = CASES[name](key, x)
    assert (got.dtype, got.device) == (dtype, x.device)
    expected = CASES[name](key, x.float()).to(dtype)
    assert_close(got, expected, rtol=0, atol=0)


@every_case
def test_float32_is_computed_without_float64(name):
    keys, x = random.split(random.key(3), 2), images(2, 2, 5, 7, dtype=torch.float32)
    graph = make_fx(fl.vmap(CASES[name]), tracing_mode="fake")(keys, x)
    values = [node.meta.get("val") for node in graph.graph.nodes]
    dtypes = {value.dtype for value in values if isinstance(value, Tensor)}
    assert torch.float32 in dtypes
    assert dtypes <= {torch.float32, torch.int32, torch.int64, torch.bool}


@pytest.mark.parametrize(
    ("name", "option", "most"),
    [
        ("rotate", "degrees", 35.0),
        ("brightness", "delta", 0.7),
        ("contrast", "factor", 0.6),
        ("horizontal_flip", "p", 0.3),
    ],
)
def test_amounts_may_be_tensors(name, option, most):
    function: Any = getattr(augment, name)
    for seed in SEEDS:
        key, limit = random.key(seed), torch.tensor(most, dtype=torch.float64)
        expected = function(key, image(torch.float32), **{option: most})
        # p in float64 would draw another number: its own dtype decides.
        limit = limit.float() if option == "p" else limit
        got = function(key, image(torch.float32), **{option: limit})
        assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_the_derivative_for_an_amount():
    u = 2 * random.uniform(random.key(3), (), torch.float64) - 1

    def total(delta: Tensor) -> Tensor:
        return augment.brightness(random.key(3), image(), delta=delta).mean()

    got = fl.grad(total)(torch.tensor(0.7, dtype=torch.float64))
    assert_close(got, u, rtol=1e-12, atol=0)


@every_case
def test_what_is_no_image_is_refused(name):
    function = CASES[name]
    where = re.escape(f"data.augment.{name.partition(',')[0]}: image: expected ")
    key = random.key(3)
    with pytest.raises(TypeError, match=where + r"a floating .* got torch\.uint8\."):
        function(key, torch.full((2, 5, 7), 9, dtype=torch.uint8))
    with pytest.raises(TypeError, match=where + r"a floating point tensor, got list"):
        function(key, [[[0.5]]])
    with pytest.raises(ValueError, match=where + r"shape .*\(3, 2, 5, 7\)\. Map over"):
        function(key, images(3, 2, 5, 7))
    with pytest.raises(ValueError, match=where + r"shape .*\(5, 7\)\. Add the axis"):
        function(key, images(5, 7))
    with pytest.raises(ValueError, match=where + r"shape .*\(2, 0, 7\)\. No axis"):
        function(key, images(2, 0, 7))
    with pytest.raises(ValueError, match=r"key: expected one key, .* Map over a batch"):
        function(random.split(key, 3), image())


@pytest.mark.parametrize(
    ("name", "option", "value", "span"),
    [
        ("crop", "size", 6, "1 .. 5"),
        ("crop", "size", 0, "1 .. 5"),
        ("crop", "size", (5, 8), "1 .. 7"),
        ("crop", "size", (2, 3, 5), r"an int or \(height, width\)"),
        ("shift", "pixels", -1, "0 .. 4"),
        ("shift", "pixels", 5, "0 .. 4"),
        ("rotate", "degrees", -0.5, "0 .. 180"),
        ("rotate", "degrees", 180.5, "0 .. 180"),
        ("rotate", "degrees", math.nan, "0 .. 180"),
        ("brightness", "delta", -0.5, "0 or more"),
        ("brightness", "delta", math.inf, "0 or more"),
        ("contrast", "factor", 1.5, "0 .. 1"),
        ("horizontal_flip", "p", -0.5, "0 .. 1"),
        ("horizontal_flip", "p", 1.5, "0 .. 1"),
        ("rotate", "degrees", torch.tensor([3.0, 5.0]), r"a floating tensor of shape"),
        ("contrast", "factor", torch.tensor(1), r"a floating tensor of shape"),
    ],
)
def test_values_out_of_range_are_refused(name, option, value, span):
    message = rf"data\.augment\.{name}: {option}: expected {span}.*, got "
    with pytest.raises(ValueError, match=message):
        getattr(augment, name)(random.key(3), image(), **{option: value})


def test_padding_makes_room_for_the_crop_and_is_not_negative():
    key = random.key(3)
    with pytest.raises(ValueError, match=r"crop: size: expected 1 \.\. 9, got 10\."):
        augment.crop(key, image(), size=10, padding=2)
    with pytest.raises(ValueError, match=r"crop: padding: expected 0 or more, got -1"):
        augment.crop(key, image(), size=3, padding=-1)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("crop", "size", 2.5),
        ("crop", "size", (3, True)),
        ("shift", "pixels", 1.5),
        ("rotate", "degrees", "15"),
        ("brightness", "delta", None),
        ("contrast", "factor", True),
        ("horizontal_flip", "p", (0.5,)),
    ],
)
def test_values_of_another_kind_are_refused(name, option, value):
    message = rf"data\.augment\.{name}: {option}: expected (an int|a number), got "
    with pytest.raises(TypeError, match=message):
        getattr(augment, name)(random.key(3), image(), **{option: value})
