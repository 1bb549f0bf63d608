# SPDX-License-Identifier: Apache-2.0
"""Lesson 1: each number it names, against NumPy, torch.autograd or a closed form."""

import ast
import math
import re

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from course import run


def lesson():
    return run("gradients").variables


def value_after(label):
    """What the lesson printed behind a label, as Python reads it."""
    found = re.findall(rf"^{re.escape(label)} *(.*)$", run("gradients").printed, re.M)
    assert len(found) == 1, (label, found)
    return ast.literal_eval(found[0])


def both(function):
    """The gradient of a function of (x, y) at (2, 3), by torch.autograd."""
    point = [torch.tensor(v, requires_grad=True) for v in (2.0, 3.0)]
    return [d.item() for d in torch.autograd.grad(function(*point), point)]


def test_the_parts_of_the_table_are_numpys():
    table = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert value_after("second row:") == table[1].tolist()
    assert value_after("third column:") == table[:, 2].tolist()
    assert value_after("last two columns:") == table[:, 1:3].tolist()
    assert value_after("below each other:") == np.concatenate([table, table], 0).shape
    assert value_after("side by side:") == np.concatenate([table, table], 1).shape
    assert value_after("permuted:") == table.T.tolist()


def test_arithmetic_and_reductions_are_numpys():
    table = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    row, weights = np.array([10.0, 20.0, 30.0]), np.array([1.0, -1.0, 2.0])
    assert value_after("table * 2:") == (2 * table).tolist()
    assert value_after("table + row:") == (table + row).tolist()
    assert value_after("sum of columns:") == table.sum(0).tolist()
    assert value_after("mean of each row:") == table.mean(1).tolist()
    assert value_after("table @ weights:") == (table @ weights).tolist()
    assert f"sum of all:       {table.sum()}  largest: {table.max()}" in (
        run("gradients").printed
    )
    assert f"dot product:      {row @ weights} {row @ weights}" in (
        run("gradients").printed
    )


def test_from_numpy_shares_its_memory_and_tensor_copies():
    variables = lesson()
    assert np.shares_memory(variables["array"], variables["shared"].numpy())
    assert variables["shared"].tolist() == [100.0, 2.0, 3.0]
    assert variables["copied"].tolist() == [1.0, 2.0, 3.0]
    assert variables["shared"].dtype == torch.float64


def test_the_device_is_one_that_is_there():
    moved = lesson()["moved"]
    assert moved.device.type == lesson()["device"].type
    assert (moved.device.type == "cuda") == torch.cuda.is_available()
    assert moved.sum().item() == 21


def test_finite_differences_approach_four_and_drown_in_rounding():
    printed = run("gradients").printed
    slopes = [float(s) for s in re.findall(r"^h = .* slope = (.*)$", printed, re.M)]
    assert slopes[:3] == [5.0, 4.1, 4.01]  # 4 + h, exactly
    assert abs(slopes[3] - 4) < abs(slopes[2] - 4) < abs(slopes[4] - 4)
    assert slopes[5] == 0
    assert np.float32(2) + np.float32(1e-8) == np.float32(2)
    errors = lesson()["errors"]
    assert 1e-5 < lesson()["steps"][errors.argmin()] < 1e-2
    assert errors.min() < 1e-3
    assert errors[:5].min() > 0.1
    assert errors[-1] == 1


def test_the_gradients_of_f_and_g():
    variables = lesson()
    assert [d.item() for d in variables["grad_f"]] == both(lambda x, y: x**2 + y)
    assert [d.item() for d in variables["grad_g"]] == both(lambda x, y: x * (y + 3))
    assert [d.item() for d in variables["grad_f"]] == [4, 1]
    assert [d.item() for d in variables["grad_g"]] == [6, 2]
    assert variables["value_g"] == 12
    assert "f = x² + y:    value 7.0  gradient [4.0, 1.0]" in run("gradients").printed
    assert "slope of x² at 2: 4.0" in run("gradients").printed


def test_the_gradient_is_the_steepest_way_and_keeps_off_the_contours():
    functions = {"grad_f": lambda x, y: x**2 + y, "grad_g": lambda x, y: x * (y + 3)}
    angles = np.linspace(0, 2 * np.pi, 721)
    h = 1e-6
    for name, function in functions.items():
        dx, dy = (d.item() for d in lesson()[name])
        rise = (function(2 + h * np.cos(angles), 3 + h * np.sin(angles))) / h
        rise = rise - function(2, 3) / h
        best = angles[rise.argmax()]
        np.testing.assert_allclose(best, math.atan2(dy, dx), atol=0.01)
        np.testing.assert_allclose(rise.max(), math.hypot(dx, dy), rtol=1e-4)
        across = best + np.pi / 2
        level = function(2 + h * np.cos(across), 3 + h * np.sin(across)) / h
        np.testing.assert_allclose(level - function(2, 3) / h, 0, atol=0.05)


def test_backward_twice_gives_the_sum():
    variables = lesson()
    assert value_after("after f.backward():") == [4, 1]
    assert value_after("after g.backward() as well:") == [10, 3]
    assert value_after("g.backward() after the reset:") == [6, 2]
    assert value_after("fl.grad of g:") == [6, 2]
    total = both(lambda x, y: x**2 + y + x * (y + 3))
    assert variables["after_both"] == total == [10, 3]


def test_the_gradient_of_a_tree_is_a_tree_of_areas():
    slopes = lesson()["slopes"]  # reused: the last assignment is the box's
    length, width, height = 2.0, 3.0, 5.0
    assert set(slopes) == {"base", "height"}
    assert slopes["base"].tolist() == [width * height, length * height]
    assert slopes["height"].item() == length * width
    assert "volume: 30.0" in run("gradients").printed


def test_the_gradient_of_a_gradient():
    printed = run("gradients").printed
    for line in ("x³   at 5: 125.0", "3x²  at 5: 75.0", "6x   at 5: 30.0"):
        assert line in printed


def test_a_gradient_of_three_numbers_is_refused_and_mapped():
    assert "expected a 0-d tensor as result, got shape (3,)" in run("gradients").printed
    assert value_after("slopes of x³ at 1, 2, 3:") == [3 * x**2 for x in (1, 2, 3)]


def test_the_waves_slopes_are_the_closed_form():
    variables = lesson()
    x = torch.linspace(0, 5, 101, dtype=torch.float64)
    first = torch.sin(2 * x) + 2 * x * torch.cos(2 * x)
    second = 4 * torch.cos(2 * x) - 4 * x * torch.sin(2 * x)
    for name, expected in (("slope", first), ("second", second)):
        found = variables[name].double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def test_vmap_of_the_dot_product_is_the_matrix_product():
    table, columns = np.arange(1.0, 7.0).reshape(2, 3), lesson()["columns"].numpy()
    assert value_after("matrix-vector:") == (table @ [1.0, -1.0, 2.0]).tolist()
    assert value_after("matrix-matrix:") == (table @ columns).tolist()
    assert value_after("with @:") == (table @ columns).tolist()


def test_bytes_and_digits():
    numbers = 1000 * 3 * 224 * 224
    printed = run("gradients").printed
    for name, size in (("float64", 8), ("float32", 4), ("bfloat16", 2)):
        line = re.findall(rf"torch\.{name} +(\d+) MB", printed)
        assert line == [f"{numbers * size / 1e6:.0f}"]
    assert "1/3 is 0.3339844" in printed  # 171/512: seven bits behind the first
    assert round(171 / 512, 7) == 0.3339844
    assert "OutOfMemoryError: CUDA out of memory." in printed


def test_parts_add_up_to_the_gradient_at_once():
    data = np.linspace(-1, 1, 300)
    expected = (2 * data * (2 * data - 1)).sum()  # of (s d - 1)² by s, at s = 2
    np.testing.assert_allclose(sum(lesson()["parts"]), expected, rtol=1e-5)
    assert f"at once {expected:.3f}, in 4 parts {expected:.3f}" in (
        run("gradients").printed
    )
    assert len(lesson()["parts"]) == 4


class Largest(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operation made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel() * result.element_size())
        return result


def test_chunks_make_smaller_tables():
    variables, data = lesson(), lesson()["data"]
    distances = torch.cdist(data.double(), data.double()).max(1).values
    torch.testing.assert_close(variables["in_chunks"].double(), distances)
    sizes = {}
    for chunk in (None, 10):
        with Largest() as largest:
            variables["fl"].vmap(variables["farthest"], chunk_size=chunk)(data)
        sizes[chunk] = largest.size
    assert sizes == {None: 120000, 10: 12000}
    assert "the same: True, with 12000 in place of 120000 bytes" in (
        run("gradients").printed
    )


def test_a_slice_keeps_the_whole():
    assert "a slice keeps 1200 bytes, its clone 12" in run("gradients").printed
    assert lesson()["first"].data_ptr() == lesson()["data"].data_ptr()


def test_nothing_is_recorded_outside_grad():
    variables = lesson()
    leaves = [*variables["grad_g"], variables["value_g"], variables["at_once"]]
    assert all(leaf.grad_fn is None and not leaf.requires_grad for leaf in leaves)


def test_exercise_1_the_tangent():
    line = lesson()["tangent"](torch.sin, torch.tensor(0.5))
    x = np.array([0.5, 0.7, 2.0], np.float32)
    expected = math.sin(0.5) + math.cos(0.5) * (x - 0.5)
    np.testing.assert_allclose([line(v).item() for v in x], expected, rtol=1e-6)


def test_exercise_2_the_roots():
    roots = lesson()["roots"]
    found = roots(torch.sin, torch.tensor([3.0, 6.0]), 10)
    np.testing.assert_allclose(found.numpy(), [np.pi, 2 * np.pi], rtol=1e-6)
    assert f"the cube root of 2 is {2 ** (1 / 3):.5f}" in run("gradients").printed


def test_exercise_3_the_polynomial_of_the_sine():
    found = lesson()["taylor"](torch.sin, torch.tensor(0.0), 5)
    expected = [0, 1, 0, -1 / 6, 0, 1 / 120]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert f"e is about {163 / 60:.4f}, from 6 coefficients" in run("gradients").printed
