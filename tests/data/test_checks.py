# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set is said in one line, with the index."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from functorch_lab import data


def samples() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1.5, 2.5, 21).reshape(7, 3)
    return x, torch.tensor([4, 1, 3, 2, 4, 1, 2])


def check(x: Any, y: Any, **options: Any) -> None:
    data.check_classification(x, y, **({"num_classes": 5, "features": 3} | options))


def test_accepts_a_good_data_set() -> None:
    x, y = samples()
    check(x, y)
    check(x, y.to(torch.int32), features=None)
    check(x.reshape(7, 3, 1), y, features=(3, 1))


def test_names_the_first_value_that_is_not_finite() -> None:
    x, y = samples()
    x[5, 1], x[3, 2] = math.inf, math.nan
    with pytest.raises(
        ValueError, match=r"x: expected finite.*got nan at index \(3, 2"
    ):
        check(x, y)
    with pytest.raises(ValueError, match=r"\(2 in all\)"):
        check(x, y)


@pytest.mark.parametrize("label", [5, -2])
def test_names_the_first_label_out_of_range(label: int) -> None:
    x, y = samples()
    y[6], y[2] = label, label
    text = f"y: expected labels in 0 .. 4, got {label} at index 2"
    with pytest.raises(ValueError, match=re.escape(text)):
        check(x, y)


def test_refuses_integer_images() -> None:
    _, y = samples()
    with pytest.raises(TypeError, match=r"x: expected a floating .* torch\.uint8"):
        check(torch.full((7, 3), 9, dtype=torch.uint8), y)


def test_refuses_labels_of_another_kind() -> None:
    x, y = samples()
    for wrong in (y.float(), y > 2, [4, 1]):
        with pytest.raises(TypeError, match="y: expected integer labels, got"):
            check(x, wrong)


def test_refuses_other_shapes() -> None:
    x, y = samples()
    with pytest.raises(ValueError, match=r"samples of shape \(2,\), got \(3,\)"):
        check(x, y, features=2)
    with pytest.raises(ValueError, match=r"shape \(7,\), got \(6,\)"):
        check(x, y[1:])
    with pytest.raises(ValueError, match=r"shape \(7,\), got \(7, 1\)"):
        check(x, y[:, None])


def test_refuses_an_empty_data_set() -> None:
    x, y = samples()
    with pytest.raises(ValueError, match="got an empty data set"):
        check(x[:0], y[:0])
