# SPDX-License-Identifier: Apache-2.0
"""Rows of models of the library transformers, padded, each sample with its mask."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from per_sample_cases._row import Row, curved, of_module


def _losses(call: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Of the logits, padding left out.

    The models' own losses are in float32, and means over the tokens of all samples.
    """
    logits = call(**inputs).logits
    if logits.ndim == 3:
        logits = logits * inputs["attention_mask"][..., None]
    return curved(logits)


def _row(name: str, **expected: Any) -> Row:
    def make(dtype: torch.dtype) -> Any:
        # Here, because importing transformers takes seconds.
        from huggingface_models import MODELS, batch

        inputs = {n: x for n, x in batch(name).items() if n != "labels"}
        build = lambda: MODELS[name](layers=1)  # noqa: E731
        row = of_module("", name, build, inputs, losses=_losses, axis="kept")
        return row.make(dtype)

    return Row("Hugging Face", name, make, **expected)


def _rows() -> Iterator[Row]:
    for name in ("gpt2", "bert", "llama", "vit"):
        yield _row(name)


ROWS = list(_rows())
