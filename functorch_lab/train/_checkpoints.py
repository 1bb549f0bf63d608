# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: written so that a kill at any moment loses none.

A checkpoint is a safetensors file with the state, and a manifest beside it, which is
written after it and removed before it: what has no manifest is not finished, or no
longer kept. The bytes of the log that belong to it are on the disk before.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from functorch_lab.train import _format
from functorch_lab.train._files import sync_folder, write_json
from functorch_lab.train._save import save

FOLDER = "checkpoints"
_log = logging.getLogger("functorch_lab.train")


@dataclass
class Position:
    """Where a run is, beside its state.

    Attributes:
        start: Steps taken when the run began.
        taken: Steps taken, those included.
        first: Steps taken when this epoch began, or the run, if that is later.
        origin: The step at which the order of this epoch starts; None before it does.
        seconds: Spent so far.
        best: The `taken` of the best state, None if there is none yet.
        stopped: Whether a callback or early stopping has ended training.
        finished: Whether there was nothing left to do.
        log_bytes: Length of the log that belongs to it.
        log_checksum: CRC-32 of these bytes.
    """

    start: int
    taken: int
    first: int
    origin: int | None = None
    seconds: float = 0.0
    best: int | None = None
    stopped: bool = False
    finished: bool = False
    log_bytes: int = 0
    log_checksum: int = 0


def write(
    folder: Path, state: Any, best: Any, position: Position, *, keep: int
) -> None:
    """Write a checkpoint, then remove those that are no longer kept.

    Args:
        folder: The run's.
        state: The training state.
        best: The best state.
        position: What the manifest says besides.
        keep: How many of the newest stay.
    """
    inside = folder / FOLDER
    inside.mkdir(exist_ok=True)
    if not _steps(inside, "step"):
        sync_folder(folder)  # for its name, and the log's
    if position.best is not None:
        _write(inside, "best", position.best, best, {})
    _write(inside, "step", position.taken, state, asdict(position))
    _keep_only(inside, _steps(inside, "step")[-keep:])


def forget_after(folder: Path, taken: int, where: str, *, keep: int) -> None:
    """Remove what a kill has left: unfinished, damaged and older checkpoints.

    Args:
        folder: The run's.
        taken: Steps taken at the checkpoint that the run goes on from.
        where: Who says that there was an unfinished one.
        keep: How many of the newest stay.
    """
    inside = folder / FOLDER
    finished = _steps(inside, "step")
    unfinished = list(inside.glob(".*.part"))
    unfinished += [
        _path(inside, "step", step, "safetensors")
        for step in _steps(inside, "step", "safetensors")
        if step not in finished and step > taken
    ]
    if unfinished:
        names = ", ".join(sorted(path.name for path in unfinished))
        _log.warning(
            "%s: a checkpoint in %s was interrupted while it was written (%s); going "
            "on from step %d",
            *(where, inside, names, taken),
        )
    for path in unfinished:
        path.unlink()
    _keep_only(inside, [step for step in finished if step <= taken][-keep:])


def _keep_only(inside: Path, steps: list[int]) -> None:
    manifests = [_manifest(inside, "step", step) or {} for step in steps]
    bests = [manifest.get("best") for manifest in manifests]
    for end in ("json", "safetensors"):
        for kind, kept in (("step", steps), ("best", bests)):
            for step in set(_steps(inside, kind, end)) - set(kept):
                _path(inside, kind, step, end).unlink(missing_ok=True)


def newest(folder: Path, where: str) -> tuple[Position, Path] | None:
    """The newest checkpoint that is whole; of others it is said that they are not.

    Raises:
        ValueError: If there are checkpoints, and all are damaged.
        OSError: If one is there, but can't be read.
    """
    inside = folder / FOLDER
    steps = _steps(inside, "step")
    reasons = []
    for step in reversed(steps):
        try:
            return _read(inside, step), _path(inside, "step", step, "safetensors")
        except (ValueError, FileNotFoundError) as error:
            if step not in _steps(inside, "step"):
                # The run is being trained: it has a newer one, and removed this.
                return newest(folder, where)
            reasons.append(f"step {step}: {error}")
            _log.warning(
                "%s: the checkpoint of step %d in %s is damaged (%s); looking for the "
                "one before",
                *(where, step, folder, error),
            )
        except OSError as error:
            raise OSError(
                f"{where}: run_dir: expected to read the checkpoint of step {step} in "
                f"{inside}, got {error.strerror or error}. Make it readable, or remove "
                "it to go on from the one before."
            ) from error
    if steps:
        raise ValueError(
            f"{where}: run_dir: expected a whole checkpoint in {inside}, got only "
            f"damaged ones ({'; '.join(reasons)}). Put a copy of one "
            "back, or start a new run in another folder."
        )
    return None


def step_path(folder: Path, step: int) -> Path:
    """Where the state of a checkpoint is."""
    return _path(folder / FOLDER, "step", step, "safetensors")


def best_path(folder: Path, step: int) -> Path:
    """Where the best state is."""
    return _path(folder / FOLDER, "best", step, "safetensors")


def _write(
    inside: Path, kind: str, step: int, tree: Any, fields: dict[str, Any]
) -> None:
    path = _path(inside, kind, step, "safetensors")
    former = _manifest(inside, kind, step)
    manifest = former
    # The same number of steps is the same state: at an epoch's end it may be there.
    if manifest is None:
        save(path, tree)
        manifest = {"file": path.name, "bytes": path.stat().st_size}
        manifest["sha256_of_header"] = _header_digest(path)
    manifest = {**manifest, **fields}
    if manifest != former:
        manifest["sha256_of_manifest"] = _digest(manifest)
        write_json(_path(inside, kind, step, "json"), manifest)


def _read(inside: Path, step: int) -> Position:
    manifest = _manifest(inside, "step", step)
    path = _path(inside, "step", step, "safetensors")
    if manifest is None:
        raise ValueError("its manifest is not as it was written")
    _check_file(path, manifest)
    position = Position(**{k: manifest[k] for k in Position.__dataclass_fields__})
    if position.best is not None:
        best = _manifest(inside, "best", position.best)
        if best is None:
            raise ValueError("the best state that belongs to it is missing")
        _check_file(_path(inside, "best", position.best, "safetensors"), best)
    return position


def _check_file(path: Path, manifest: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != manifest["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes instead of {manifest['bytes']}")
    if _header_digest(path) != manifest["sha256_of_header"]:
        raise ValueError(f"the header of {path.name} is not as it was written")
    with path.open("rb") as file:
        for name, spec in _format.read_header(file).specs.items():
            if _format.read(file, spec, Lock()) is None:
                raise ValueError(f"{name} in {path.name} is not as it was written")


def _header_digest(path: Path) -> str:
    # The header holds a checksum of each tensor, so that its own stands for all.
    with path.open("rb") as file:
        first = file.read(8)
        # A flipped bit must not ask for more memory than there is.
        length = min(int.from_bytes(first, "little"), path.stat().st_size)
        header = first + file.read(length)
    return hashlib.sha256(header).hexdigest()


def _manifest(inside: Path, kind: str, step: int) -> dict[str, Any] | None:
    """The manifest, or None if there is none that is whole."""
    try:
        found = json.loads(_path(inside, kind, step, "json").read_text("utf-8"))
        digest = found.pop("sha256_of_manifest")
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
        return None
    return found if digest == _digest(found) else None


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _path(inside: Path, kind: str, step: int, end: str) -> Path:
    return inside / f"{kind}-{step:08d}.{end}"


def _steps(inside: Path, kind: str, end: str = "json") -> list[int]:
    names = [
        path.stem.removeprefix(f"{kind}-") for path in inside.glob(f"{kind}-*.{end}")
    ]
    return sorted(int(name) for name in names if name.isdigit())
