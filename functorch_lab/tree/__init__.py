# SPDX-License-Identifier: Apache-2.0
"""Algebra of trees: nested dicts, lists, tuples, named tuples and `tree.dataclass`.

Dict leaves come in the order of their sorted keys, always. `None` is not allowed in a
tree; a hole is the empty tuple `()`.
"""

from functorch_lab.tree._arithmetic import (
    add,
    add_scaled,
    clip,
    mul,
    norm,
    scale,
    sub,
    vdot,
    where,
)
from functorch_lab.tree._at import at
from functorch_lab.tree._compare import allclose, check_same_structure, diff, equal
from functorch_lab.tree._convert import cast, copy, ones_like, to, zeros_like
from functorch_lab.tree._dataclass import dataclass, static
from functorch_lab.tree._describe import describe, nbytes, size
from functorch_lab.tree._flatten import flatten, leaves, map, structure, unflatten
from functorch_lab.tree._partition import combine, partition
from functorch_lab.tree._paths import map_with_path, paths, select
from functorch_lab.tree._stack import ravel, stack, unstack
from functorch_lab.tree._state_dict import from_state_dict, to_state_dict

__all__ = [
    "add",
    "add_scaled",
    "allclose",
    "at",
    "cast",
    "check_same_structure",
    "clip",
    "combine",
    "copy",
    "dataclass",
    "describe",
    "diff",
    "equal",
    "flatten",
    "from_state_dict",
    "leaves",
    "map",
    "map_with_path",
    "mul",
    "nbytes",
    "norm",
    "ones_like",
    "partition",
    "paths",
    "ravel",
    "scale",
    "select",
    "size",
    "stack",
    "static",
    "structure",
    "sub",
    "to",
    "to_state_dict",
    "unflatten",
    "unstack",
    "vdot",
    "where",
    "zeros_like",
]
