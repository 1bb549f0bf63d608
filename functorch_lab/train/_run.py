# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: made for one configuration, and opened again only for it."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from functorch_lab.train._config import (
    CONFIG,
    as_json,
    check_same,
    read_config,
    write_config,
)
from functorch_lab.train._files import sync_folder, write_json
from functorch_lab.train._save import save

_WHERE = "train.open_run"
METRICS = "metrics.jsonl"
RESULT = "result"


@dataclass(frozen=True)
class Run:
    """A folder that `fit` writes to, as `open_run` gives it.

    Attributes:
        folder: Where it is.
        config: What the run was opened with.
        resume: Whether it goes on where it was stopped.
        checkpoint_every: Steps between checkpoints within an epoch, or None.
        keep: How many of the newest checkpoints are kept, besides the best.
    """

    folder: Path
    config: dict[str, Any]
    resume: bool
    checkpoint_every: int | None
    keep: int

    def write_result(self, metrics: Mapping[str, float], **tensors: Tensor) -> None:
        """Write what came of the run, for `read_run` and the report.

        Args:
            metrics: Numbers by name, such as the accuracy on the test set.
            tensors: What else the report can show: `confusion` (classes, classes), with
                a row per true class; `worst_images` (n, h, w), `worst_labels` (n,),
                `worst_predictions` (n,), `worst_losses` (n,).

        Raises:
            TypeError: If a metric is not a number, or one of the tensors is none.
            OSError: If the folder can't be written to.
        """
        where = "train.Run.write_result"
        numbers = {}
        for name, value in metrics.items():
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(
                    f"{where}: metrics: expected a number for {name}, got {value!r}. "
                    "Give tensors by name."
                ) from error
        with told(where, self.folder):
            if tensors:
                save(self.folder / f"{RESULT}.safetensors", tensors)
            write_json(self.folder / f"{RESULT}.json", numbers)


def open_run(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    keep: int = 2,
) -> Run:
    """Open the folder of a run: a new one, or with `resume` one to go on with.

    The folder gets `config.json` here; from `fit` `metrics.jsonl`, one line per step
    and per epoch, and `checkpoints/`. Checkpoints are written at the ends of epochs, as
    often as costs a fiftieth of the time, at Ctrl-C or SIGTERM, and at the end.

    Args:
        path: The folder; it and its parents are made.
        config: What decides the run, as JSON values: it can be resumed with the same
            only. None with `resume`: that of the run.
        resume: Go on with the run that is there, from its last good checkpoint, or from
            its beginning if it has none yet.
        checkpoint_every: Write a checkpoint after so many steps too.
        keep: How many of the newest checkpoints are kept; the best is kept besides,
            where `fit` has `early_stopping`.

    Returns:
        The run, for `fit(run_dir=...)`.

    Raises:
        TypeError: If `path` is not a path, the config is not made of JSON values, or
            `checkpoint_every` or `keep` is not an int.
        ValueError: If the folder holds another run or other files; with `resume`, if
            there is no run, or its config differs (every difference is listed);
            `checkpoint_every` or `keep` < 1. Nothing is changed then.
        OSError: If the folder can't be made or written to.

    Example:
        >>> import tempfile
        >>> from functorch_lab import train
        >>> folder = tempfile.mkdtemp()
        >>> run = train.open_run(folder, config={"lr": 0.25})
        >>> train.open_run(folder, config={"lr": 0.5}, resume=True)
        Traceback (most recent call last):
        ValueError: train.open_run: config: expected that of the run in ...: lr: ...
    """
    for name, value in (("checkpoint_every", checkpoint_every), ("keep", keep)):
        _check_count(name, value)
    folder = as_folder(_WHERE, path)
    wanted = as_json(_WHERE, config or {})
    if resume:
        found = read_config(_WHERE, folder)["config"]
        if config is not None:
            check_same(_WHERE, folder, wanted, found)
        _check_writable(folder)
        return Run(folder, found, resume, checkpoint_every, keep)
    with told(f"{_WHERE}: path", folder):
        _check_free(folder)
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_folder(made.parent)
    _check_writable(folder)
    with told(f"{_WHERE}: path", folder):
        write_config(folder, wanted)
    return Run(folder, wanted, resume, checkpoint_every, keep)


def as_run(run_dir: "Run | str | os.PathLike[str] | None") -> Run | None:
    """What `fit` was given, as a run."""
    return run_dir if isinstance(run_dir, Run | None) else open_run(run_dir)


def as_folder(where: str, path: object) -> Path:
    """What is given as a folder, as a path.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"{where}: path: expected a path, got {path!r}. Give the name of a folder."
        )
    return Path(path)


@contextmanager
def told(where: str, folder: Path, remedy: str = "") -> Iterator[None]:
    """Says of an OSError which folder, and what to do."""
    try:
        yield
    except OSError as error:
        # What `save` has worded stands on the system's own error.
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise OSError(
            f"{where}: expected a folder to write to, got {folder} "
            f"({cause.strerror or cause}). "
            f"{remedy or 'Make room, or give another folder.'}"
        ) from error


def _check_free(folder: Path) -> None:
    if not folder.exists():
        return
    expected = f"{_WHERE}: path: expected a new or empty folder, got {folder}"
    if not folder.is_dir():
        raise ValueError(f"{expected}, which is a file. Give another path.")
    if (folder / CONFIG).exists():
        raise ValueError(
            f"{expected}, which holds a run. Go on with it by resume=True (--resume), "
            "or give another folder."
        )
    # Who was killed while the config was written had no run yet.
    leftover = f".{CONFIG}.part"
    others = sorted(p.name for p in folder.iterdir() if p.name != leftover)
    if others:
        raise ValueError(
            f"{expected}, which holds {', '.join(others[:3])}"
            f"{', ...' if others[3:] else ''}. Give another folder."
        )


def _check_writable(folder: Path) -> None:
    with told(f"{_WHERE}: path", folder), tempfile.TemporaryFile(dir=folder):
        pass


def _check_count(name: str, value: object) -> None:
    if value is None and name == "checkpoint_every":
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{_WHERE}: {name}: expected an int, got {value!r}. Give a whole number."
        )
    if value < 1:
        raise ValueError(
            f"{_WHERE}: {name}: expected at least 1, got {value}. Give a whole number."
        )
