# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab train`: train a recipe, and say what came of it."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import get_type_hints

from torch import Tensor

from functorch_lab.cli._output import Usage, say
from functorch_lab.cli._words import Option, read
from functorch_lab.recipes.digits import Config, Result, find_device, one_of


def train(dataset: str, /, config: Config = Config()) -> Callable[[], None]:  # noqa: B008
    """Train a classifier with one compiled step, then test it.

    Args:
        dataset: What to train on: digits.
        config: The settings.
    """
    return partial(_train, dataset, config)


def refuse(words: list[str]) -> None:
    """Raise for what is wrong in the words after `train`, where we know better."""
    kinds = get_type_hints(Config)
    options = {
        "--" + f.name.replace("_", "-"): Option(kinds[f.name], f.default)
        for f in fields(Config)
    }
    datasets = read("train", words, options, ["--compile", "--no-compile"])
    if len(datasets) != 1:
        raise Usage(
            "cli.train: dataset: expected one, got "
            f"{' '.join(datasets) or 'none'}. Run: functorch-lab train digits"
        )


def _train(dataset: str, config: Config) -> None:
    from functorch_lab.recipes import digits

    one_of("cli.train: dataset", dataset, ["digits"])
    config.check()
    device = find_device(config.device)
    how = "compiled" if config.compile else "not compiled"
    say(f"{config.model} on {dataset}, {config.epochs} epochs, on {device}, {how}")
    result = digits.train(config)
    say(f"\ntest accuracy {result.accuracy:.4f}\n")
    say("confusion matrix (row: true digit, column: predicted)")
    say(f"{_matrix(result.confusion)}\n\n{_times(result)}")


def _times(result: Result) -> str:
    rows = result.history.epochs
    text = f"{rows[-1]['step']} steps in {rows[-1]['seconds']:.1f} s"
    if len(rows) > 1:
        first, last = rows[0]["seconds"], rows[-1]["seconds"]
        each = 1e3 * (last - first) / (len(rows) - 1)
        text += f" (first epoch {first:.1f} s, then {each:.0f} ms each)"
    return f"{text}; with data and test {result.seconds:.1f} s"


def _matrix(counts: Tensor) -> str:
    header = "    " + "".join(f"{j:4d}" for j in range(counts.shape[1]))
    lines = [
        f"{i:4d}" + "".join(f"{n:4d}" if n else "   ." for n in row)
        for i, row in enumerate(counts.long().tolist())
    ]
    return "\n".join([header, *lines])
