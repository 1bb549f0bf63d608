# SPDX-License-Identifier: Apache-2.0
"""Settings are checked against their types, and told in one line."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import torch

from functorch_lab.recipes import settings
from functorch_lab.recipes.settings import Count, Device, NotNegative, Positive, Share


@dataclass
class Config:
    size: Annotated[int, settings.up_to(7)] = 5
    times: Count | None = None
    lr: Positive = 0.5
    decay: NotNegative = 0.0
    part: Share = 0.25
    seed: int = 3
    kind: Literal["red", "green"] = "red"
    name: str = "mine"
    device: Device = "auto"
    compile: bool = True


@pytest.mark.parametrize(
    "change",
    [
        *({"size": 1}, {"size": 7}, {"times": 2}, {"lr": 3}, {"decay": 0}),
        *({"part": 0}, {"part": 1.0}, {"seed": -2}, {"kind": "green"}),
        *({"device": "cpu"}, {"compile": False}),
    ],
)
def test_takes_what_is_in_range(change: dict[str, Any]) -> None:
    settings.check("recipes.x", Config(**change))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"size": 8},
            ValueError,
            r"size: expected 1 \.\. 7 \(the number .*, got 8\. G",
        ),
        ({"size": 0}, ValueError, r"size: expected 1 \.\. 7 .*, got 0\. Give e\.g\. 5"),
        ({"size": 2.0}, TypeError, "size: expected a whole number, got 2.0"),
        ({"size": None}, TypeError, "size: expected a whole number, got None"),
        ({"times": 0}, ValueError, "times: expected at least 1, got 0"),
        ({"times": True}, TypeError, "times: expected a whole number, got True"),
        ({"lr": 0}, ValueError, "lr: expected a finite number > 0, got 0"),
        ({"lr": float("inf")}, ValueError, "lr: expected a finite number > 0, got inf"),
        ({"lr": "2"}, TypeError, "lr: expected a number, got '2'. Give e.g. 0.5"),
        ({"decay": -0.1}, ValueError, "decay: expected a finite number >= 0, got -0.1"),
        ({"part": 1.01}, ValueError, r"part: expected a share in \[0, 1\], got 1.01"),
        ({"part": float("nan")}, ValueError, r"expected a share in .*, got nan"),
        ({"seed": 1.5}, TypeError, "seed: expected a whole number, got 1.5"),
        (
            {"kind": "gren"},
            ValueError,
            "kind: expected one of red, green, got gren. Did",
        ),
        ({"kind": "blue"}, ValueError, "got blue. Choose one that is listed"),
        ({"name": 5}, TypeError, "name: expected a str, got 5"),
        ({"device": "metal"}, ValueError, "got metal. Did you mean mps"),
        ({"compile": 1}, TypeError, "compile: expected True or False, got 1"),
    ],
)
def test_refuses_the_others(
    change: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^recipes.x: .*{text}"):
        settings.check("recipes.x", Config(**change))


def test_finds_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert settings.find_device("recipes.x", "auto") == torch.device("cuda")
    assert settings.find_device("recipes.x", "cpu") == torch.device("cpu")
    text = r"^recipes.x: device: expected one that is present \(cuda, cpu\), got mps"
    with pytest.raises(ValueError, match=text):
        settings.find_device("recipes.x", "mps")
