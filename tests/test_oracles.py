# SPDX-License-Identifier: Apache-2.0
"""Each oracle accepts the right answer, rejects wrong ones, and is not our own code."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from oracles import dense_jacobian, finite_difference_gradient, gradient_loop

A = torch.tensor([[0.7, -1.3, 2.1], [0.4, 1.9, -0.6]], dtype=torch.float64)
B = torch.tensor([1.7, -0.8, 0.3], dtype=torch.float64)
N = torch.tensor(3)


def function(leaves: list[Tensor]) -> Tensor:
    a, n, b = leaves
    return (a**n * b).sum()


def gradients(a: Tensor = A, b: Tensor = B) -> list[Tensor]:
    """By hand: of `sum(a**3 * b)`, `3 a**2 b` and the sum of `a**3` over rows."""
    return [3 * a**2 * b, (a**3).sum(0)]


class TestFiniteDifferences:
    got = finite_difference_gradient(function, [A, N, B])

    def test_accepts_the_right_gradient(self) -> None:
        assert_close(self.got, gradients(), rtol=1e-9, atol=1e-9)

    def test_takes_tensors_of_any_strides_and_of_no_axis(self) -> None:
        strided = A.T.contiguous().T
        found = finite_difference_gradient(function, [strided, N, B])
        assert_close(found, self.got, rtol=1e-9, atol=1e-9)
        (found,) = finite_difference_gradient(lambda x: x[0] ** 2, [B[0]])
        assert_close(found, 2 * B[0])

    @pytest.mark.parametrize("index", [(0, 0), (1, 2)])
    def test_rejects_one_wrong_element(self, index: tuple[int, int]) -> None:
        wrong = gradients()
        wrong[0][index] *= 1 + 1e-5
        with pytest.raises(AssertionError, match="Mismatched elements: 1 / 6"):
            assert_close(self.got, wrong, rtol=1e-6, atol=1e-9)

    def test_rejects_a_backward_that_is_not_the_derivative(self) -> None:
        def detached(leaves: list[Tensor]) -> Tensor:
            a, n, b = leaves
            return (a.detach() * a ** (n - 1) * b).sum()

        a = A.clone().requires_grad_()
        (wrong,) = torch.autograd.grad(detached([a, N, B]), a)
        found = finite_difference_gradient(detached, [A, N, B])
        with pytest.raises(AssertionError, match="Mismatched elements: 6 / 6"):
            assert_close(found[0], wrong, rtol=1e-6, atol=1e-9)

    def test_refuses_single_precision(self) -> None:
        with pytest.raises(TypeError, match=r"need float64, got torch\.float32"):
            finite_difference_gradient(function, [A.float(), N, B])


class TestGradientLoop:
    samples = ([A, N, B], [A + 0.3, N, B * 1.7])
    got = gradient_loop(function, samples)
    right = (
        torch.stack([gradients(a, b)[0] for a, _, b in samples]),
        torch.stack([gradients(a, b)[1] for a, _, b in samples]),
    )

    def test_accepts_the_right_gradients(self) -> None:
        assert_close(self.got, list(self.right), rtol=1e-12, atol=0)

    def test_gives_zeros_for_what_is_not_used(self) -> None:
        (first, second) = gradient_loop(lambda leaves: leaves[0].sum(), [[A, B]])
        assert_close((first, second), (torch.ones_like(A)[None], 0 * B[None]))

    def test_leaves_its_input_without_a_graph(self) -> None:
        assert not A.requires_grad
        assert not any(gradient.requires_grad for gradient in self.got)

    @pytest.mark.parametrize(
        "wrong",
        [
            [g.flip(0) for g in right],  # of the other sample
            [g.mean(0).expand_as(g) for g in right],  # of the mean
            [g / 2 for g in right],  # of the mean loss, for each sample
        ],
        ids=["swapped", "averaged", "divided"],
    )
    def test_rejects_wrong_ones(self, wrong: list[Tensor]) -> None:
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            assert_close(self.got, wrong, rtol=1e-6, atol=1e-9)


class TestDenseJacobian:
    got = dense_jacobian(lambda x: torch.outer(B, x**2), A[0])
    #: By hand: the derivative of `b_i x_j**2` by `x_k` is `2 b_i x_j` where j = k.
    right = B[:, None, None] * torch.diag(2 * A[0])

    def test_accepts_the_right_matrix(self) -> None:
        assert_close(self.got, self.right, rtol=1e-12, atol=0)

    def test_gives_zeros_where_nothing_depends(self) -> None:
        got = dense_jacobian(lambda x: torch.stack([x[0], B[0]]), A[0])
        assert_close(got, torch.tensor([[1.0, 0, 0], [0, 0, 0]]).double())

    @pytest.mark.parametrize(
        "wrong",
        [right.transpose(0, 1), right.sum(-1, keepdim=True).expand(3, 3, 3)],
        ids=["transposed", "summed"],
    )
    def test_rejects_wrong_ones(self, wrong: Tensor) -> None:
        with pytest.raises(AssertionError, match="Tensor-likes are not close"):
            assert_close(self.got, wrong, rtol=1e-6, atol=1e-9)


def test_the_oracles_import_nothing_of_ours() -> None:
    module = sys.modules[dense_jacobian.__module__]
    assert module.__file__
    code = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = [node.module for node in ast.walk(code) if isinstance(node, ast.ImportFrom)]
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    assert {str(name).partition(".")[0] for name in names} == {"collections", "torch"}
