# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: written so that a kill at any moment loses none.

A checkpoint is a safetensors file with the state, and a manifest beside it, which is
written after it: what has no manifest was never finished.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from functorch_lab.train import _format
from functorch_lab.train._files import write_json
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
        best: The best state; written if it is not there yet.
        position: What the manifest says besides.
        keep: How many of the newest stay.
    """
    inside = folder / FOLDER
    inside.mkdir(exist_ok=True)
    if position.best is not None and not _manifest(inside, "best", position.best):
        _write(inside, "best", position.best, best, {})
    _write(inside, "step", position.taken, state, asdict(position))
    _keep_only(inside, _steps(inside, "step")[-keep:])


def forget_after(folder: Path, taken: int) -> None:
    """Remove what a resumed run will write again: unfinished or damaged files."""
    inside = folder / FOLDER
    for unfinished in inside.glob(".*.part"):
        unfinished.unlink()
    _keep_only(inside, [step for step in _steps(inside, "step") if step <= taken])


def _keep_only(inside: Path, steps: list[int]) -> None:
    manifests = [_manifest(inside, "step", step) or {} for step in steps]
    bests = [manifest.get("best") for manifest in manifests]
    for kind, kept in (("step", steps), ("best", bests)):
        for step in set(_steps(inside, kind)) - set(kept):
            _path(inside, kind, step, "json").unlink(missing_ok=True)
            _path(inside, kind, step, "safetensors").unlink(missing_ok=True)


def newest(folder: Path, where: str) -> tuple[Position, Path] | None:
    """The newest checkpoint that is whole; of others it is said that they are not.

    Raises:
        ValueError: If there are checkpoints, and all are damaged.
    """
    inside = folder / FOLDER
    steps = _steps(inside, "step")
    reasons = []
    for step in reversed(steps):
        try:
            return _read(inside, step), _path(inside, "step", step, "safetensors")
        except (ValueError, OSError) as error:
            reasons.append(f"step {step}: {error}")
            _log.warning(
                "%s: the checkpoint of step %d in %s is damaged (%s); looking for the "
                "one before",
                *(where, step, folder, error),
            )
    if steps:
        raise ValueError(
            f"{where}: run_dir: expected a whole checkpoint in {inside}, got only "
            f"damaged ones ({'; '.join(reasons)}). Start a new run in another folder."
        )
    return None


def best_path(folder: Path, step: int) -> Path:
    """Where the best state is."""
    return _path(folder / FOLDER, "best", step, "safetensors")


def _write(
    inside: Path, kind: str, step: int, tree: Any, fields: dict[str, Any]
) -> None:
    path = _path(inside, kind, step, "safetensors")
    save(path, tree)
    manifest = {**fields, "file": path.name, "bytes": path.stat().st_size}
    manifest["sha256_of_header"] = _header_digest(path)
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
            if _format.read(file, spec) is None:
                raise ValueError(f"{name} in {path.name} is not as it was written")


def _header_digest(path: Path) -> str:
    # The header holds a checksum of each tensor, so that its own stands for all.
    with path.open("rb") as file:
        length = file.read(8)
        header = length + file.read(int.from_bytes(length, "little"))
    return hashlib.sha256(header).hexdigest()


def _manifest(inside: Path, kind: str, step: int) -> dict[str, Any] | None:
    """The manifest, or None if there is none that is whole."""
    try:
        found = json.loads(_path(inside, kind, step, "json").read_text("utf-8"))
        digest = found.pop("sha256_of_manifest")
    except (ValueError, KeyError, AttributeError, OSError):
        return None
    return found if digest == _digest(found) else None


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _path(inside: Path, kind: str, step: int, end: str) -> Path:
    return inside / f"{kind}-{step:08d}.{end}"


def _steps(inside: Path, kind: str) -> list[int]:
    names = [
        path.stem.removeprefix(f"{kind}-") for path in inside.glob(f"{kind}-*.json")
    ]
    return sorted(int(name) for name in names if name.isdigit())
