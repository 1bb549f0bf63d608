# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab predict`: what a trained run makes of images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

import functorch_lab as fl
from functorch_lab.cli._images import INK, read_images
from functorch_lab.cli._output import Usage, note, say, table
from functorch_lab.recipes import digits


def predict(
    run: Path, images: tuple[Path, ...] = (), /, *, invert: bool = False
) -> Callable[[], None]:
    """Classify images by the best parameters of a run of the recipe digits.

    Args:
        run: The folder of the run.
        images: PNG files of 8 x 8 pixels, dark ink on light ground, in colour or grey;
            or CSV files with an image per row: 64 numbers from 0 (ground) to 16 (ink),
            row by row. A first line with names is passed over.
        invert: The PNG files show light ink on dark ground.
    """
    return partial(_predict, run, images, invert)


def _predict(run: Path, files: tuple[Path, ...], invert: bool) -> None:
    if not files:
        raise Usage(
            "cli.predict: images: expected PNG or CSV files, got none. "
            f"Run: functorch-lab predict {run} IMAGE.png"
        )
    record = fl.train.read_run(run)
    _check_recipe(record)
    names, images = read_images(files, invert=invert)
    shares, classes = _predict_digits(record, images.float()).max(-1)
    rows = [
        [name, str(digit), f"{share:.4f}"]
        for name, digit, share in zip(
            names, classes.tolist(), shares.tolist(), strict=True
        )
    ]
    say(table([["image", "digit", "probability"], *rows]))
    inked = int((images.mean((1, 2)) > INK / 2).sum())
    if inked:
        note(
            f"note: {inked} of {len(names)} images are more ink than ground. Digits "
            "that are light on dark need --invert."
        )


def _check_recipe(record: fl.train.RunRecord) -> None:
    recipe = record.config.get("recipe")
    if recipe != "digits":
        raise Usage(
            f"cli.predict: run: expected one of the recipe digits, got "
            f"{recipe or 'one of no recipe'} in {record.folder}. Train one: "
            "functorch-lab train digits --out DIR"
        )


def _predict_digits(record: fl.train.RunRecord, images: Tensor) -> Tensor:
    params = record.params("best")
    settings = {k: v for k, v in record.config.items() if k != "recipe"}
    try:
        # Where it was trained need not be here.
        config = digits.Config(**{**settings, "device": "auto"})
        config.check()
        return digits.predict(params, config, images)
    except (TypeError, ValueError) as error:
        raise Usage(
            "cli.predict: run: expected the settings that the parameters were trained "
            f"with, got others in {record.folder} ({error}). Train it again."
        ) from error
