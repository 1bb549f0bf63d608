# SPDX-License-Identifier: Apache-2.0
"""Products of two uses of one leaf against whole gradients, however each lies in it."""

import itertools
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from functorch_lab.per_sample import (
    DensePair,
    Direct,
    IndexPair,
    Unused,
    _blocks,
    _cross,
    _pairs,
)
from functorch_lab.per_sample._convolution_pair import ConvPair
from functorch_lab.per_sample._frame import Frame
from functorch_lab.per_sample._patches import Geometry

B = 3
LEAF = (6, 7)


def draw(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).double()


def frame(
    groups, rows, columns, *, leaf=LEAF, shape=None, start=None, size=None
) -> Frame:
    shape = shape or leaf
    start = start or (0,) * len(shape)
    return Frame(leaf, shape, start, size or shape, groups, rows, columns)


def dense(where: Frame, positions: int, seed: int = 0, samples: int = B) -> DensePair:
    groups, rows, columns = where.dims()
    return DensePair(
        draw(samples, groups, positions, rows, seed=seed),
        draw(samples, groups, positions, columns, seed=seed + 1),
        where,
    )


def index(where: Frame, positions: int, seed: int = 0, samples: int = B) -> IndexPair:
    _, rows, columns = where.dims()
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(rows, (samples, positions), generator=generator)
    return IndexPair(found, draw(samples, positions, columns, seed=seed + 1), where)


def direct(seed: int = 0, samples: int = B) -> Direct:
    return Direct(draw(samples, *LEAF, seed=seed))


def convolution(where: Frame, positions: int, seed: int, samples: int = B) -> ConvPair:
    """Of kernel 7 on one channel for each group, in two images."""
    groups, rows, _ = where.dims()
    geometry = Geometry((7,), (2,), (3,), (1,), (1,), groups)
    length = 2 * (positions - 1) + 7 - 3 - 1
    return ConvPair(
        draw(samples, 2, groups, length, seed=seed),
        draw(samples, 2, groups * rows, positions, seed=seed + 1),
        geometry,
        where,
    )


def gradient(use, sample: int) -> torch.Tensor:
    """One sample's gradient as the definition has it, entry by entry of its box."""
    if isinstance(use, Unused):
        return torch.zeros(LEAF, dtype=torch.float64)
    if isinstance(use, Direct):
        return use.value[sample]
    where = use.frame
    if isinstance(use, DensePair):
        matrices = torch.zeros(where.dims(), dtype=torch.float64)
        for group, position in itertools.product(*map(range, use.left.shape[1:3])):
            left, right = use.left[sample, group], use.right[sample, group]
            matrices[group] += torch.outer(left[position], right[position])
    elif isinstance(use, ConvPair):
        matrices = torch.zeros(where.dims(), dtype=torch.float64)
        signal = torch.nn.functional.pad(use.signal[sample], (3, 1))
        response = use.response[sample].unflatten(1, where.dims()[:2])
        images, _, _, positions = response.shape
        for image, t, k in itertools.product(*map(range, (images, positions, 7))):
            seen = signal[image, :, 2 * t + k]
            matrices[:, :, k] += response[image, :, :, t] * seen[:, None]
    else:
        matrices = torch.zeros(where.dims(), dtype=torch.float64)
        for row, value in zip(use.index[sample], use.values[sample], strict=True):
            matrices[0, row] += value
    leaf = torch.zeros(where.shape, dtype=torch.float64)
    bounds = zip(where.start, where.size, strict=True)
    box = leaf[tuple(slice(begin, begin + some) for begin, some in bounds)]
    order = [*where.groups, *where.rows, *where.columns]
    order += [axis for axis in range(len(where.shape)) if axis not in order]
    box = box.permute(order)
    box.copy_(matrices.reshape(box.shape))
    return leaf.reshape(where.leaf)


WHOLE = frame((), (0,), (1,))
TURNED = frame((), (1,), (0,))
TOP = frame((), (0,), (1,), start=(1, 0), size=(3, 7))
LEFT = frame((), (1,), (0,), start=(0, 2), size=(6, 3))
LOW = frame((), (0,), (1,), start=(4, 1), size=(2, 4))
SPLIT = frame((), (1,), (0, 2), shape=(2, 3, 7))
GROUPED = frame((0,), (1,), (2,), shape=(2, 3, 7))
FLIPPED = frame((0,), (2,), (1,), shape=(2, 3, 7))
ONE_GROUP = frame((0,), (1,), (2,), shape=(2, 3, 7), start=(1, 0, 0), size=(1, 3, 7))
BELOW = frame((), (0,), (1,), start=(2, 0), size=(4, 7))
ROW = frame((), (), (1,), start=(2, 0), size=(1, 7))

USES: dict[str, Any] = {
    "dense": dense(WHOLE, 2, 1),
    "dense, one position": dense(WHOLE, 1, 3),
    "dense, many positions": dense(WHOLE, 29, 5),
    "transposed": dense(TURNED, 2, 7),
    "rows 1 to 3": dense(TOP, 5, 9),
    "columns 2 to 4, transposed": dense(LEFT, 3, 11),
    "rows 4 and 5, columns 1 to 4": dense(LOW, 2, 13),
    "rows and columns mixed": dense(SPLIT, 2, 15),
    "groups": dense(GROUPED, 2, 17),
    "groups, transposed": dense(FLIPPED, 11, 19),
    "group 1": dense(ONE_GROUP, 2, 21),
    "one row": dense(ROW, 2, 23),
    "index": index(WHOLE, 5, 25),
    "index, many positions": index(WHOLE, 31, 27),
    "index in columns": index(TURNED, 5, 29),
    "index in rows 2 to 5": index(BELOW, 5, 31),
    "index in two axes": index(frame((), (0, 1), (2,), shape=(2, 3, 7)), 4, 33),
    "index in two axes, of a part": index(
        frame((), (1, 0), (2,), shape=(2, 3, 7), start=(0, 1, 2), size=(2, 2, 5)),
        4,
        35,
    ),
    "convolution": convolution(WHOLE, 3, 43),
    "convolution, many positions": convolution(WHOLE, 31, 45),
    "convolution in groups": convolution(GROUPED, 5, 47),
    "direct": direct(37),
    "unused": Unused(torch.zeros(B, dtype=torch.float64), LEAF),
}
SMALL = [20, 2**24]


def gradients(use, samples: int = B) -> torch.Tensor:
    """One flat row for each sample."""
    return torch.stack([gradient(use, i).flatten() for i in range(samples)])


@pytest.fixture(scope="module")
def known() -> dict[str, torch.Tensor]:
    return {name: gradients(use) for name, use in USES.items()}


def named(*names: str):
    return lambda text: f"{', '.join(names)}: {text}"


@pytest.mark.parametrize("numbers", SMALL)
def test_inner_products_of_each_sample(numbers, known, monkeypatch):
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    for one, two in itertools.product(USES, USES):
        found = _pairs.inner(USES[one], USES[two])
        expected = (known[one] * known[two]).sum(1)
        assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=named(one, two))


OTHERS = 2


def other(use: Any, seed: int) -> Any:
    """A use of the same kind, frame and positions, of other samples."""
    if isinstance(use, DensePair):
        return dense(use.frame, use.left.shape[2], seed, OTHERS)
    if isinstance(use, IndexPair):
        return index(use.frame, use.index.shape[1], seed, OTHERS)
    if isinstance(use, ConvPair):
        return convolution(use.frame, use.response.shape[3], seed, OTHERS)
    if isinstance(use, Direct):
        return direct(seed, OTHERS)
    return Unused(torch.zeros(OTHERS, dtype=torch.float64), LEAF)


@pytest.mark.parametrize("numbers", SMALL)
def test_inner_products_between_samples(numbers, known, monkeypatch):
    others = {name: other(use, 41) for name, use in USES.items()}
    columns = {name: gradients(use, OTHERS).T for name, use in others.items()}
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    for one, two in itertools.product(USES, USES):
        found = _cross.cross(USES[one], others[two])
        expected = known[one] @ columns[two]
        assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=named(one, two))


@pytest.mark.parametrize("numbers", SMALL)
@pytest.mark.parametrize("name", USES)
def test_inner_products_of_a_use_with_itself(name, numbers, known, monkeypatch):
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    found = _cross.cross(USES[name], USES[name])
    assert_close(found, known[name] @ known[name].T, rtol=1e-12, atol=1e-12)


def test_parts_of_one_leaf_are_cut_and_not_formed(monkeypatch):
    def formed(use):
        raise AssertionError(use)

    for kind in (DensePair, IndexPair, ConvPair):
        monkeypatch.setattr(kind, "materialize", formed)
    framed = {
        name: use
        for name, use in USES.items()
        if isinstance(use, DensePair | IndexPair) and "group" not in name
    }
    del framed["rows and columns mixed"], framed["index in two axes, of a part"]
    split = framed.pop("index in two axes")
    for name in ("dense", "transposed", "index", "dense, many positions"):
        _pairs.inner(framed[name], split)
    turned = framed.pop("index in columns")
    for a, b in itertools.combinations(framed.values(), 2):
        _pairs.inner(a, b)
        _cross.cross(a, b)
    with pytest.raises(AssertionError, match="IndexPair"):
        _pairs.inner(framed["index"], turned)


def test_parts_without_a_common_entry_cost_nothing(monkeypatch):
    def multiplied(*args):
        raise AssertionError

    monkeypatch.setattr(_pairs, "_framed", multiplied)
    monkeypatch.setattr(_cross, "_framed", multiplied)
    a, b = USES["rows 1 to 3"], USES["rows 4 and 5, columns 1 to 4"]
    assert_close(_pairs.inner(a, b), torch.zeros(B).double())
    assert_close(_cross.cross(a, b), torch.zeros(B, B).double())


def largest(function, *args) -> int:
    """The numbers of the largest tensor that an operation makes."""
    sizes = [0]

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not func.is_view:
                sizes.append(result.numel())
            return result

    with Sizes():
        function(*args)
    return max(sizes)


@pytest.mark.parametrize("positions", [2, 40])
def test_memory_is_bounded(positions, monkeypatch):
    shape, samples = (31, 37), 13
    where = frame((), (0,), (1,), leaf=shape)
    monkeypatch.setattr(_blocks, "NUMBERS", 2500)
    uses = [
        dense(where, positions, 51, samples),
        index(where, positions, 53, samples),
        dense(frame((), (1,), (0,), leaf=shape), positions, 55, samples),
    ]
    inputs = samples * positions * 37
    for a, b in itertools.product(uses, uses):
        limit = max(2500, inputs, samples**2 * positions)
        assert largest(_pairs.inner, a, b) <= max(2500, inputs)
        assert largest(_cross.cross, a, b) <= limit
    assert samples * 31 * 37 > 5000
