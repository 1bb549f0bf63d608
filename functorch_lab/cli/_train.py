# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab train`: train a recipe, keep the run, and say what came of it."""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import functorch_lab as fl
from functorch_lab.cli._findings import FINDINGS
from functorch_lab.cli._output import Usage, need, say
from functorch_lab.cli._page import write_report
from functorch_lab.recipes import diabetes, digits, text
from functorch_lab.recipes.settings import find_device, one_of

RECIPES: Mapping[str, ModuleType] = {
    "digits": digits,
    "diabetes": diabetes,
    "text": text,
}


@dataclass(frozen=True)
class Keep:
    """Whether, and where, a run is kept."""

    out: Path | None = None
    """Keep the run in this folder, a new one: settings, logs, checkpoints, a report."""
    resume: bool = False
    """Go on with the run in the folder --out where it stopped."""


def train() -> Callable[[], None]:
    """Train a recipe with one compiled step, then test it."""
    names = ", ".join(RECIPES)
    raise Usage(
        f"cli.train: recipe: expected one of {names}, got none. "
        "Run: functorch-lab train digits"
    )


def commands() -> dict[str, Callable[..., Callable[[], None]]]:
    """A function for each recipe, whose arguments are the recipe's settings."""
    return {name: _command(name, recipe) for name, recipe in RECIPES.items()}


def check_recipe(words: list[str]) -> None:
    """Refuse what is no recipe, as the first word after `train`."""
    if words[0] not in ("--help", "-h"):
        one_of("cli.train: recipe", words[0], RECIPES)


def _command(name: str, recipe: ModuleType) -> Callable[..., Callable[[], None]]:
    def command(config: Any, keep: Keep) -> Callable[[], None]:
        return partial(_train, name, recipe, config, keep)

    # What tyro reads, as if each recipe had a function written out.
    command.__doc__ = (inspect.getdoc(recipe) or name).split("\n\n")[0]
    command.__annotations__ = {"config": recipe.Config, "keep": Keep}
    command.__defaults__ = (recipe.Config(), Keep())
    return command


def _train(name: str, recipe: ModuleType, config: Any, keep: Keep) -> None:
    world = os.environ.get("WORLD_SIZE", "1")
    if world not in ("", "1"):
        raise Usage(
            f"cli.train: WORLD_SIZE: expected 1 process, got {world}, as torchrun sets "
            "it. Training on several devices is not there yet: run it without torchrun."
        )
    if keep.resume and keep.out is None:
        raise Usage(
            "cli.train: --resume: expected --out DIR with it, got none. Say which run "
            "to go on with."
        )
    config.check()
    if keep.out is not None:
        need("matplotlib", "draws the figures of a run")
    device = find_device(f"recipes.{name}", config.device)
    how = "compiled" if config.compile else "not compiled"
    what = f"{config.model} on {name}" if hasattr(config, "model") else name
    say(f"{what}, {_length(config)}, on {device}, {how}")
    result = recipe.train(config, run_dir=keep.out, resume=keep.resume)
    say(f"\n{FINDINGS[name](result)}\n\n{_times(result, config)}")
    if keep.out is not None:
        report = write_report(fl.train.read_run(keep.out))
        say(f"run in {keep.out}, its report in {report}")


def _length(config: Any) -> str:
    unit = "epochs" if hasattr(config, "epochs") else "steps"
    return f"{getattr(config, unit)} {unit}"


def _times(result: Any, config: Any) -> str:
    rows = result.history.epochs
    planned = getattr(config, "epochs", 0)
    stopped = f"stopped early, after {len(rows)} of {planned} epochs\n"
    text = f"{rows[-1]['step']} steps in {rows[-1]['seconds']:.1f} s"
    if len(rows) > 1:
        first, last = rows[0]["seconds"], rows[-1]["seconds"]
        each = 1e3 * (last - first) / (len(rows) - 1)
        text += f" (first epoch {first:.1f} s, then {each:.0f} ms each)"
    text += f"; with data and test {result.seconds:.1f} s"
    return stopped + text if len(rows) < planned else text
