# SPDX-License-Identifier: Apache-2.0
"""Layers whose params are computed from others.

The params are `{"base": ..., NAME: ...}`: a tree like the params of the layer inside,
and one of its structure that has more tensors where a leaf is computed, and the hole
`()` everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from functorch_lab import random, tree
from functorch_lab.nn._stateful import AnyPart, as_layer
from functorch_lab.types import Layer, StatefulLayer

Where: TypeAlias = str | Callable[[str, Tensor], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Reparametrized:
    """The `apply` of such a layer, from which `merge` reads how params are computed.

    Attributes:
        function: the public function that made the layer.
        name: under which the params have what belongs to the computed leaves.
        inner: `apply` of the layer inside.
        leaf: `leaf(before, more)`, one computed leaf; `None` if `more` does not fit.
    """

    function: str
    name: str
    inner: Callable[..., Any]
    leaf: Callable[[Tensor, Any], Tensor | None]

    def __call__(
        self,
        params: Any,
        /,
        *inputs: Any,
        key: Tensor | None = None,
        train: bool = False,
        **named: Any,
    ) -> Any:
        """The layer inside with the computed params; its state is one of the inputs."""
        computed = self.computed(params)
        return self.inner(computed, *inputs, key=key, train=train, **named)

    def computed(self, params: Any) -> Any:
        """The params of the layer inside.

        Raises:
            ValueError: `params` are not those of this layer.
        """
        keys = {"base", self.name}
        if not isinstance(params, dict) or set(params) != keys:
            kind = type(params).__name__
            got = f"a dict with {sorted(params)}" if isinstance(params, dict) else kind
            raise ValueError(
                f"nn.{self.function}: params: expected a dict with {sorted(keys)}, "
                f"got {got}. Pass the params that this layer's init made."
            )
        base = params["base"]

        def computed(before: Tensor, more: Any) -> Tensor:
            if isinstance(more, tuple) and len(more) == 0:
                return before
            after = self.leaf(before, more)
            if after is None:
                raise self._misfit(base, before, more)
            return after

        try:
            return tree.map(computed, base, params[self.name])
        except ValueError as error:
            what, _, difference = str(error).partition("trees differ ")
            if what != "tree.map: ":
                raise
            raise ValueError(
                f"nn.{self.function}: params: params['base'] and params[{self.name!r}] "
                f"differ {difference}"
            ) from None

    def _misfit(self, base: Any, before: Tensor, more: Any) -> ValueError:
        leaves = zip(tree.paths(base), tree.leaves(base), strict=True)
        path = next(path for path, leaf in leaves if leaf is before)
        return ValueError(
            f"nn.{self.function}: params[{self.name!r}]{path}: expected what init made "
            f"for a leaf of shape {tuple(before.shape)}, got {shapes(more)}. Pass the "
            "params that this layer's init made."
        )


def reparametrized(
    layer: AnyPart, apply: Reparametrized, start: Callable[[Tensor, Any], Any]
) -> Layer | StatefulLayer:
    """The layer of this `apply`; `start(key, base)` makes what goes with the base."""

    def begin(key: Tensor, base: Any) -> dict[str, Any]:
        return {"base": base, apply.name: start(key, base)}

    if isinstance(layer, StatefulLayer):

        def init_stateful(key: Tensor, base: Any = None) -> tuple[Any, Any]:
            base_key, own_key = random.split(key).unbind()
            made = layer.init(base_key) if base is None else base
            if not isinstance(made, tuple | list) or len(made) != 2:
                raise TypeError(
                    f"nn.{apply.function}: base: expected a pair (params, state), as "
                    f"the layer is stateful, got {type(made).__name__}. Pass what the "
                    "init of the layer inside returns."
                )
            return begin(own_key, made[0]), made[1]

        return StatefulLayer(init_stateful, apply)
    plain = as_layer(apply.function, "layer", layer)

    def init(key: Tensor, base: Any = None) -> Any:
        base_key, own_key = random.split(key).unbind()
        return begin(own_key, plain.init(base_key) if base is None else base)

    return Layer(init, apply)


def inner_apply(function: str, layer: Any) -> Callable[..., Any]:
    """The `apply` of what is to be reparametrized.

    Raises:
        TypeError: it is no layer.
    """
    if isinstance(layer, StatefulLayer):
        return layer.apply
    return as_layer(function, "layer", layer).apply


def check_where(function: str, where: Any) -> None:
    """A pattern or a predicate.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(where, str) and not callable(where):
        raise TypeError(
            f"nn.{function}: where: expected a pattern or predicate(path, leaf), got "
            f"{type(where).__name__}. Write a pattern such as '*weight'."
        )


def chosen(function: str, where: Where, base: Any) -> list[str]:
    """The paths of the leaves of 2 or more axes among those that `where` chooses.

    Raises:
        ValueError: there are none.
        TypeError: a leaf is no tensor.
    """
    leaves = dict(zip(tree.paths(base), tree.leaves(base), strict=True))
    for path, leaf in leaves.items():
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"nn.{function}: base{path}: expected a tensor, got "
                f"{type(leaf).__name__}. Pass params of the layer inside."
            )
    found = [path for path, leaf in leaves.items() if _matrix(leaf)]
    if isinstance(where, str):
        kept, _ = _partition(where, base)
        named = set(tree.paths(kept))
    else:
        named = {path for path, leaf in leaves.items() if where(path, leaf)}
    both = [path for path in found if path in named]
    if not both:
        raise ValueError(
            f"nn.{function}: where: expected a choice of floating-point leaves of 2 or "
            f"more axes, got {where!r}, which chooses {sorted(named) or 'none'}. "
            + (f"There are {', '.join(found)}." if found else "There is no such leaf.")
        )
    return both


def _partition(pattern: str, base: Any) -> tuple[Any, Any]:
    try:
        return tree.partition(pattern, base)
    except ValueError:  # no match, which is said better with the leaves' shapes
        return (), base


def _matrix(leaf: Tensor) -> bool:
    return leaf.ndim >= 2 and leaf.is_floating_point()


def shapes(more: Any) -> Any:
    """Shapes in place of tensors, for an error."""
    if isinstance(more, dict):
        return {name: shapes(value) for name, value in more.items()}
    return tuple(more.shape) if isinstance(more, Tensor) else type(more).__name__


def merge(layer: Layer | StatefulLayer, params: Any) -> Any:
    """The params of the layer inside `lora` or `weight_norm`, computed once for all.

    With them the layer inside does what the outer one does, without its cost.

    Args:
        layer: a layer that `lora` or `weight_norm` returned.
        params: its params.

    Returns:
        Params of the layer that was given to `lora` or `weight_norm`.

    Raises:
        TypeError: another function made the layer; of a combination merge the parts.
        ValueError: `params` are not those of the layer.

    Example:
        >>> import torch, functorch_lab as fl
        >>> adapted = fl.nn.lora(fl.nn.linear(2, 2, bias=False), rank=1)
        >>> a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])
        >>> base = {"weight": torch.eye(2)}
        >>> fl.nn.merge(adapted, {"base": base, "lora": {"weight": {"a": a, "b": b}}})
        {'weight': tensor([[4., 6.],
                [0., 1.]])}
    """
    apply = getattr(layer, "apply", None)
    if not isinstance(apply, Reparametrized):
        raise TypeError(
            "nn.merge: layer: expected a layer that nn.lora or nn.weight_norm made, "
            f"got another {type(layer).__name__}. Merge the parts of a combination one "
            "by one."
        )
    return apply.computed(params)
