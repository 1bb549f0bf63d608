# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: made for one configuration, and opened again only for it."""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from functorch_lab.train._files import write_json
from functorch_lab.train._save import save

_WHERE = "train.open_run"
FORMAT = 1
CONFIG = "config.json"
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
            OSError: If the folder can't be written to.
        """
        numbers = {name: float(value) for name, value in metrics.items()}
        with told("train.Run.write_result", self.folder):
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
    often as costs a twentieth of the time, at Ctrl-C or SIGTERM, and at the end.

    Args:
        path: The folder; it and its parents are made.
        config: What decides the run, as JSON values: it can be resumed with the same
            only.
        resume: Go on with the run that is there, from its last good checkpoint, or from
            its beginning if it has none yet.
        checkpoint_every: Write a checkpoint after so many steps too.
        keep: How many of the newest checkpoints are kept; the best is kept besides,
            where `fit` has `early_stopping`.

    Returns:
        The run, for `fit(run_dir=...)`.

    Raises:
        TypeError: If the config is not made of JSON values, or `checkpoint_every` or
            `keep` is not an int.
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
    folder = Path(path)
    wanted = _as_json(config)
    if resume:
        _check_same(folder, wanted, read_config(_WHERE, folder)["config"])
        _check_writable(folder)
    else:
        _check_free(folder)
        with told(_WHERE, folder):
            folder.mkdir(parents=True, exist_ok=True)
        _check_writable(folder)
        with told(_WHERE, folder):
            write_json(folder / CONFIG, _description(wanted))
    return Run(folder, wanted, resume, checkpoint_every, keep)


def as_run(run_dir: "Run | str | os.PathLike[str] | None") -> Run | None:
    """What `fit` was given, as a run."""
    return run_dir if isinstance(run_dir, Run | None) else open_run(run_dir)


@contextmanager
def told(where: str, folder: Path, remedy: str = "") -> Iterator[None]:
    """Says of an OSError which folder, and what to do."""
    try:
        yield
    except OSError as error:
        # What `save` has worded stands on the system's own error.
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise OSError(
            f"{where}: path: expected a folder to write to, got {folder} "
            f"({cause.strerror or cause}). "
            f"{remedy or 'Make room, or give another folder.'}"
        ) from error


def read_config(where: str, folder: Path) -> dict[str, Any]:
    """What `config.json` says.

    Raises:
        ValueError: If there is none, or it is not ours.
    """
    expected = f"{where}: path: expected the folder of a run, got {folder}"
    if not folder.exists():
        raise ValueError(f"{expected}, which does not exist. {_nearby(folder)}")
    if not (folder / CONFIG).is_file():
        what = f"which has no {CONFIG}" if folder.is_dir() else "which is a file"
        raise ValueError(f"{expected}, {what}. Give the folder that training wrote.")
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        known = found["format"] == FORMAT and isinstance(found["config"], dict)
    except (ValueError, KeyError, TypeError, OSError):
        known = False
        found = {}
    if not known:
        raise ValueError(
            f"{expected}, whose {CONFIG} is not one of a run of this version. Give the "
            "folder that training wrote."
        )
    return found


def _nearby(folder: Path) -> str:
    near = sorted(p.parent.name for p in folder.parent.glob(f"*/{CONFIG}"))
    return f"Beside it: {', '.join(near)}." if near else "Check the path."


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
    others = sorted(p.name for p in folder.iterdir())
    if others:
        raise ValueError(
            f"{expected}, which holds {', '.join(others[:3])}"
            f"{', ...' if others[3:] else ''}. Give another folder."
        )


def _check_same(folder: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    nothing = object()
    differences = []
    for name in dict.fromkeys([*found, *wanted]):
        old, new = found.get(name, nothing), wanted.get(name, nothing)
        if old != new:
            words = ["none" if v is nothing else json.dumps(v) for v in (old, new)]
            differences.append(f"{name}: {words[0]} there, {words[1]} now")
    if differences:
        raise ValueError(
            f"{_WHERE}: config: expected that of the run in {folder}: "
            f"{'; '.join(differences)}. Resume with the same, or start a new run."
        )


def _check_writable(folder: Path) -> None:
    with told(_WHERE, folder), tempfile.TemporaryFile(dir=folder):
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


def _as_json(config: Mapping[str, Any] | None) -> dict[str, Any]:
    # What JSON makes of it, so that it compares equal when it is read again.
    try:
        return json.loads(json.dumps(dict(config or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{_WHERE}: config: expected numbers, strings, lists and dicts, got "
            f"something else ({error}). Convert it, e.g. paths and dtypes with str()."
        ) from error


def _description(config: dict[str, Any]) -> dict[str, Any]:
    try:
        own = metadata.version("functorch-lab")
    except metadata.PackageNotFoundError:  # run from a source tree
        own = "source"
    versions = {
        "functorch-lab": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return {
        "format": FORMAT,
        "config": config,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }
