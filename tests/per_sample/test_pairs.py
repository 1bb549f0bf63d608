# SPDX-License-Identifier: Apache-2.0
"""Products of two uses of one leaf against whole gradients, however each lies in it."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from functorch_lab.per_sample import (
    DensePair,
    Direct,
    IndexPair,
    Unused,
    _blocks,
    _cross,
    _pairs,
)
from functorch_lab.per_sample._frame import Frame

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

USES = {
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
    "direct": direct(37),
    "unused": Unused(torch.zeros(B, dtype=torch.float64), LEAF),
}
PAIRS = list(itertools.combinations_with_replacement(USES, 2))
SMALL = [1, 60, 2**24]


@pytest.mark.parametrize("numbers", SMALL)
def test_inner_products_of_each_sample(numbers, monkeypatch):
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    for one, two in PAIRS:
        for a, b in ((USES[one], USES[two]), (USES[two], USES[one])):
            expected = torch.stack(
                [(gradient(a, i) * gradient(b, i)).sum() for i in range(B)]
            )
            assert_close(
                _pairs.inner(a, b),
                expected,
                rtol=1e-12,
                atol=1e-12,
                msg=lambda text, one=one, two=two: f"{one}, {two}: {text}",
            )


OTHERS = 2


def other(use, seed: int):
    """A use of the same kind, frame and positions, of other samples."""
    if isinstance(use, DensePair):
        return dense(use.frame, use.left.shape[2], seed, OTHERS)
    if isinstance(use, IndexPair):
        return index(use.frame, use.index.shape[1], seed, OTHERS)
    if isinstance(use, Direct):
        return direct(seed, OTHERS)
    return Unused(torch.zeros(OTHERS, dtype=torch.float64), LEAF)


@pytest.mark.parametrize("numbers", SMALL)
def test_inner_products_between_samples(numbers, monkeypatch):
    monkeypatch.setattr(_blocks, "NUMBERS", numbers)
    for one, two in itertools.product(USES, USES):
        a, b = USES[one], other(USES[two], 41)
        rows = torch.stack([gradient(a, i).flatten() for i in range(B)])
        columns = torch.stack([gradient(b, i).flatten() for i in range(OTHERS)])
        assert_close(
            _cross.cross(a, b),
            rows @ columns.T,
            rtol=1e-12,
            atol=1e-12,
            msg=lambda text, one=one, two=two: f"{one}, {two}: {text}",
        )


@pytest.mark.parametrize("name", USES)
def test_inner_products_of_a_use_with_itself(name):
    use = USES[name]
    rows = torch.stack([gradient(use, i).flatten() for i in range(B)])
    assert_close(_cross.cross(use, use), rows @ rows.T, rtol=1e-12, atol=1e-12)
