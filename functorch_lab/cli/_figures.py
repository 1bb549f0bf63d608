# SPDX-License-Identifier: Apache-2.0
"""The figures of a run, each of them drawn if the run has what it shows."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import functorch_lab as fl

# Those that show training, the others show its result.
CURVES = ("loss", "lr", "epochs")
_VALIDATION = "val_"
_WORST = 30

Picture = tuple[bytes, str]


def draw(record: fl.train.RunRecord) -> dict[str, Picture]:
    """PNG and caption of each figure, by name.

    Raises:
        ModuleNotFoundError: If matplotlib is missing.
    """
    return {name: (png(figure), caption) for name, figure, caption in _drawn(record)}


def png(figure: Any, **metadata: str) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata=metadata)
    return buffer.getvalue()


def smoothing(steps: int) -> float:
    """An average over a fiftieth of the steps; few can be read as they are."""
    return max(0.0, 1 - 50 / max(steps, 1))


def measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of what was measured in epochs: no counts, times or settings."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [n for n in names if n not in ("epoch", "step", "seconds", "lr")]


def _drawn(record: fl.train.RunRecord) -> Iterator[tuple[str, Any, str]]:
    logs, tensors = record.logs, record.tensors
    steps = len(logs.get("step", ()))
    if steps and "loss" in logs:
        smooth = smoothing(steps)
        caption = "Loss of each step" + (", and its moving average" if smooth else "")
        yield "loss", fl.plots.curves(logs, "loss", smooth=smooth), f"{caption}."
    if steps and "lr" in logs:
        yield "lr", fl.plots.curves(logs, "lr"), "Learning rate of each step."
    if len(record.epochs) > 1 and set(measured(record.epochs)) - {"loss"}:
        yield "epochs", *_epochs(record)
    if "confusion" in tensors:
        figure = fl.plots.confusion_matrix(tensors["confusion"])
        yield "confusion", figure, "Test samples by true and predicted class."
    if "worst_images" in tensors:
        caption = "The test images with the largest loss: what it is, and was taken for"
        yield "worst", _worst(tensors), f"{caption}; the loss."


def _epochs(record: fl.train.RunRecord) -> tuple[Any, str]:
    # Training and validation of one measure share a panel.
    rows, names = record.epochs, measured(record.epochs)
    measures = list(dict.fromkeys(name.removeprefix(_VALIDATION) for name in names))
    runs = {
        kind: {"epoch": [row["epoch"] for row in rows]}
        | {m: [row.get(prefix + m, math.nan) for row in rows] for m in measures}
        for kind, prefix in (("training", ""), ("validation", _VALIDATION))
    }
    if not any(name.startswith(_VALIDATION) for name in names):
        del runs["validation"]
    shown = runs if len(runs) > 1 else runs["training"]
    figure = fl.plots.curves(shown, measures, x="epoch")
    caption = "What was measured after each epoch."
    if record.best is None:
        return figure, caption
    best = record.best["epoch"]
    for panel in figure.axes:
        panel.axvline(best, color="#262626", linestyle=":", linewidth=1.2)
    return figure, f"{caption} The dotted line marks the best one, {best}."


def _worst(tensors: Mapping[str, Any]) -> Any:
    names = ("worst_labels", "worst_predictions", "worst_losses")
    given = [tensors[name].tolist() for name in names if name in tensors]
    titles = [
        f"{words[0]} as {words[1]}\n{words[2]:.2f}" if len(words) == 3 else ""
        for words in zip(*given, strict=True)
    ]
    images = tensors["worst_images"]
    titles = titles or [""] * len(images)
    shown = min(len(images), _WORST)
    columns = 4 if shown <= 16 else None  # 16 fill a square
    return fl.plots.image_grid(images[:shown], titles=titles[:shown], columns=columns)
