# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: pairs of pure functions, parameter trees, keys, and `typed`."""

from functorch_lab.types._typed import set_checking, typed
from functorch_lab.types._vocabulary import (
    NAMESPACE,
    GradientTransformation,
    Key,
    Layer,
    Params,
    StatefulLayer,
)

__all__ = [
    "NAMESPACE",
    "GradientTransformation",
    "Key",
    "Layer",
    "Params",
    "StatefulLayer",
    "set_checking",
    "typed",
]
