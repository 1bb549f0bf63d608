# SPDX-License-Identifier: Apache-2.0
"""The vocabulary, and `typed`: checks in eager mode, nothing while compiling."""

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import beartype
import beartype.roar
import optree
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.testing import assert_close

from functorch_lab import types
from functorch_lab.types import Key, Params, typed

MATRIX = torch.tensor([[2.0, 3.0, 5.0], [7.0, -2.0, 4.0]])
VECTOR = torch.tensor([3.0, -5.0, 2.0])


@typed
def affine(
    x: Float[Tensor, "*batch c"], w: Float[Tensor, "c"], *, shift: float = 0.5
) -> Float[Tensor, "*batch"]:
    """A weighted sum."""
    return x @ w + shift


@typed
def layer(params: Params, key: Key | None = None, *rest: Float[Tensor, "n"]) -> Tensor:
    return torch.tensor(float(len(rest)))


@typed
def wrong(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return x[1:]


@pytest.fixture(autouse=True)
def checking() -> Iterator[None]:
    before = types.set_checking(True)
    yield
    types.set_checking(before)


def test_typed_returns_what_the_function_returns():
    assert_close(affine(MATRIX, VECTOR), MATRIX @ VECTOR + 0.5)
    assert_close(affine(VECTOR, w=VECTOR, shift=2), VECTOR @ VECTOR + 2)


def test_typed_keeps_signature_name_and_docs():
    assert list(inspect.signature(affine).parameters) == ["x", "w", "shift"]
    assert affine.__name__ == "affine"
    assert affine.__doc__ == "A weighted sum."
    assert inspect.unwrap(affine) is not affine
    assert affine.__code__ is not layer.__code__


ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "axis of another size": (
        lambda: affine(MATRIX, VECTOR[:2]),
        ValueError,
        r"^affine: w: expected Float\[Tensor, 'c'\] with c = 3, got float32 \(2,\)\. "
        r"Check its axes\.$",
    ),
    "too many axes": (
        lambda: affine(MATRIX, MATRIX),
        ValueError,
        r"^affine: w: expected .* got float32 \(2, 3\)\. Check its axes\.$",
    ),
    "dtype": (
        lambda: affine(MATRIX, VECTOR.int()),
        ValueError,
        r"^affine: w: expected .*, got int32 \(3,\)\. Convert its dtype\.$",
    ),
    "kind": (
        lambda: affine(MATRIX, [3.0]),  # type: ignore[arg-type]
        TypeError,
        r"^affine: w: expected .*, got a list\. Pass a torch\.Tensor\.$",
    ),
    "none": (
        lambda: affine(None, VECTOR),  # type: ignore[arg-type]
        TypeError,
        r"^affine: x: expected Float\[Tensor, '\*batch c'\], got None\. ",
    ),
    "no tensor annotation": (
        lambda: affine(MATRIX, VECTOR, shift="far"),  # type: ignore[arg-type]
        TypeError,
        r"^affine: shift: expected float, got 'far'\. Pass a value of that kind\.$",
    ),
    "optional": (
        lambda: layer((), VECTOR),
        ValueError,
        r"^layer: key: expected Int\[Tensor, '2'\] \| None, got float32 \(3,\)\. ",
    ),
    "one of many": (
        lambda: layer((), None, VECTOR, MATRIX),
        ValueError,
        r"^layer: rest\[1\]: expected Float\[Tensor, 'n'\] with n = 3, got .* \(2, 3\)",
    ),
    "params": (
        lambda: layer("weights.pt"),
        TypeError,
        r"^layer: params: expected a tree of tensors, got 'weights\.pt'\. ",
    ),
    "result": (
        lambda: wrong(VECTOR),
        ValueError,
        r"^wrong: return value: expected Float\[Tensor, 'n'\], got float32 \(2,\)\. ",
    ),
    "python's own": (
        lambda: affine(MATRIX),  # type: ignore[call-arg]
        TypeError,
        r"^affine\(\) missing 1 required positional argument: 'w'$",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case):
    call, kind, message = ERRORS[case]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    if case not in ("python's own", "result"):
        cause = caught.value.__cause__
        assert isinstance(cause, beartype.roar.BeartypeDoorHintViolation)


def test_functions_of_the_package_are_named_by_their_public_address():
    def apply(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return x

    apply.__module__ = "functorch_lab.nn._linear"
    apply.__qualname__ = "linear.<locals>.apply"
    with pytest.raises(ValueError, match=r"^nn\.linear\.apply: x: expected"):
        typed(apply)(MATRIX)


def test_an_inner_function_binds_its_own_axes():
    @typed
    def inner(x: Float[Tensor, "c"]) -> Float[Tensor, "c"]:
        return x

    @typed
    def outer(x: Float[Tensor, "r c"]) -> Float[Tensor, "r"]:
        return inner(x[:, 0])

    assert_close(outer(MATRIX), MATRIX[:, 0])
    with pytest.raises(ValueError, match=r"^\S*inner: x: expected"):
        inner(MATRIX)


def test_string_annotations_are_resolved_also_local_ones():
    class Local: ...

    def function(
        x: "Float[Tensor, 'n']", y: "Float[Tensor, 'n']", z: "Local"
    ) -> Tensor:
        return x + y if isinstance(z, Local) else y

    assert_close(typed(function)(VECTOR, VECTOR, Local()), 2 * VECTOR)

    with pytest.raises(ValueError, match=r"y: .* with n = 3, got float32 \(2,\)"):
        typed(function)(VECTOR, VECTOR[:2], Local())


def test_transforms_show_per_sample_shapes():
    def loss(x: Tensor, w: Tensor) -> Tensor:
        return affine(x, w) ** 2

    @typed
    def strict(x: Float[Tensor, "3"], w: Float[Tensor, "3"]) -> Float[Tensor, ""]:
        return loss(x, w)

    grads = torch.func.vmap(torch.func.grad(strict), (0, None))(MATRIX, VECTOR)
    expected = 2 * (MATRIX @ VECTOR + 0.5)[:, None] * VECTOR
    assert_close(grads, expected)
    with pytest.raises(ValueError, match=r"strict: x: .* got float32 \(2,\)"):
        torch.func.vmap(strict, (1, None))(MATRIX, VECTOR)


def test_typed_functions_compile_without_a_break():
    def per_sample(x: Tensor, w: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda x, w: affine(x, w, shift=2.0))
        return torch.func.vmap(gradient, (0, None))(x, w) * affine(w, w)

    compiled = torch.compile(per_sample, fullgraph=True, backend="eager")
    assert_close(compiled(MATRIX, VECTOR), per_sample(MATRIX, VECTOR))
    direct = torch.compile(affine, fullgraph=True, backend="eager")
    assert_close(direct(MATRIX, VECTOR), affine(MATRIX, VECTOR))


def test_typed_functions_do_not_share_a_recompile_limit():
    def make(factor: float) -> Any:
        @typed
        def scaled(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
            return factor * x

        return scaled

    limit = torch._dynamo.config.recompile_limit
    for factor in range(2, limit + 5):
        compiled = torch.compile(make(factor), fullgraph=True, backend="eager")
        assert_close(compiled(VECTOR), factor * VECTOR)


def test_fake_tensors_are_checked_too():
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(MATRIX)
        assert affine(fake, fake[0]).shape == (2,)
        with pytest.raises(ValueError, match=r"w: .* with c = 3, got float32 \(2,\)"):
            affine(fake, fake[:, 0])


def test_checking_is_turned_off_and_on():
    assert types.set_checking(False) is True
    assert wrong(VECTOR).shape == (2,)
    assert types.set_checking(True) is False
    with pytest.raises(ValueError, match="return value"):
        wrong(VECTOR)


@pytest.mark.parametrize(("setting", "size"), [("0", 3), ("1", 2)])
def test_the_environment_turns_checking_off_and_imports_stay_lazy(setting, size):
    # Checked or not, annotations of tensors alone need neither beartype nor jax.
    code = f"""
import sys, torch
before = set(sys.modules)
from functorch_lab import types
from jaxtyping import Float
from torch import Tensor
@types.typed
def f(x: Float[Tensor, "n n"]): return x
f(torch.ones(2, {size}))
heavy = {{"beartype", "jax"}} & (set(sys.modules) - before)
assert not heavy, heavy
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"FUNCTORCH_LAB_TYPECHECK": setting, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (VECTOR, True),
        ((), True),
        ({"a": [VECTOR, (MATRIX,)], "b": Pair(VECTOR, ())}, True),
        ({"a": [VECTOR, 3.0]}, False),
        ({"a": None}, False),
        (Pair(VECTOR, "abc"), False),
        ("abc", False),
        (None, False),
        (torch.nn.Linear(2, 3), False),
    ],
)
def test_params_are_validated_by_beartype_leaf_by_leaf(value, valid):
    @beartype.beartype
    def function(params: Params) -> None: ...

    assert isinstance(value, Params) is valid
    if valid:
        function(value)
    else:
        with pytest.raises(
            beartype.roar.BeartypeCallHintParamViolation, match="Params"
        ):
            function(value)


def test_keys_are_integer_tensors_of_shape_two():
    kind: Any = Key
    assert isinstance(torch.tensor([3, 5], dtype=torch.int32), kind)
    assert not isinstance(torch.tensor([3.0, 5.0]), kind)
    assert not isinstance(torch.tensor([3, 5, 7]), kind)


PAIRS = [types.Layer, types.StatefulLayer, types.GradientTransformation]


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_are_frozen_and_are_leaves(pair):
    made = pair(len, max)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        made.init = max
    assert made != pair(len, max)
    assert {made: 2}[made] == 2
    assert optree.tree_leaves(made, namespace="functorch_lab") == [made]


def test_a_layer_is_closed_over_by_a_compiled_function():
    double = types.Layer(lambda key: {"w": VECTOR}, lambda params, x: params["w"] * x)
    step = torch.compile(
        lambda p, x: double.apply(p, x).sum(), fullgraph=True, backend="eager"
    )
    assert_close(step(double.init(None), VECTOR), VECTOR @ VECTOR)


def test_integer_annotations_refuse_floats():
    @typed
    def pick(index: Int[Tensor, ""]) -> Tensor:
        return VECTOR[index]

    assert_close(pick(torch.tensor(2)), VECTOR[2])
    with pytest.raises(
        ValueError, match=r"index: expected Int\[Tensor, ''\], got float32"
    ):
        pick(torch.tensor(2.0))
