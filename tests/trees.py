# SPDX-License-Identifier: Apache-2.0
"""Random trees for the property tests, and one fixed tree with every container."""

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

from functorch_lab import tree


class Pair(NamedTuple):
    right: Any
    left: Any


@tree.dataclass
class Node:
    weight: Any
    bias: Any


SIZES = st.lists(st.sampled_from([2, 3, 5, 7]), max_size=3).map(tuple)


def tensors(dtype=torch.float64):
    """Tensors whose entries are distinct, and neither zero nor one."""

    def make(shape, start):
        count = torch.Size(shape).numel()
        values = torch.arange(count, dtype=torch.float64) * 0.37 + start
        return values.reshape(shape).to(dtype)

    return st.builds(make, SIZES, st.floats(1.5, 9.0))


KEYS = st.text(alphabet="abcxyz", min_size=1, max_size=3)


def containers(children, extra=True):
    kinds = [
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(KEYS, children, max_size=3),
        st.dictionaries(KEYS, children, max_size=3).map(OrderedDict),
        st.dictionaries(KEYS, children, max_size=3).map(lambda d: defaultdict(list, d)),
        st.builds(Pair, children, children),
    ]
    if extra:
        kinds.append(st.builds(Node, children, children))
    return st.one_of(kinds)


def trees(dtype=torch.float64, extra=True, leaves=None):
    """Trees; `extra` adds the containers that jax does not know."""
    leaves = tensors(dtype) if leaves is None else leaves
    return st.recursive(leaves, lambda kids: containers(kids, extra), max_leaves=7)


def zoo():
    """One tree with every kind of container, empty ones too, and unsorted keys."""

    def leaf(*shape, start):
        count = torch.Size(shape).numel()
        return (torch.arange(count) * 0.37 + start).reshape(shape)

    return {
        "b": [leaf(2, start=2.0), leaf(3, start=3.0)],
        "a": Pair(leaf(2, 3, start=-4.0), (leaf(5, start=5.0),)),
        "empty": {},
        "hole": (),
        "o": OrderedDict(z=leaf(2, start=6.0), y=leaf(start=7.0)),
        "d": defaultdict(list, {"q": leaf(3, start=-8.0), "p": [leaf(2, start=9.0)]}),
        "n": Node(leaf(3, 2, start=1.5), {"w": leaf(7, start=-2.5)}),
    }
