# SPDX-License-Identifier: Apache-2.0
"""What decides a run, and where it came from: config.json in its folder."""

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from functorch_lab.train._files import write_json

CONFIG = "config.json"
FORMAT = 1
_KINDS = {"config": dict, "command": list, "started": str, "versions": dict}


def as_json(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON makes of a config, so that it compares equal when it is read again.

    Raises:
        TypeError: If JSON can't hold it.
    """
    try:
        return json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: config: expected finite numbers, strings, lists and dicts, got "
            f"something else ({error}). Convert it, e.g. paths and dtypes with str()."
        ) from error


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the config, and who runs it with what."""
    try:
        own = metadata.version("functorch-lab")
    except metadata.PackageNotFoundError:  # run from a source tree
        own = "source"
    versions = {
        "functorch-lab": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": _devices(),
    }
    whole = {
        "format": FORMAT,
        "config": config,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }
    write_json(folder / CONFIG, whole)


def read_config(where: str, folder: Path) -> dict[str, Any]:
    """What `config.json` says.

    Raises:
        ValueError: If there is none, or it is not ours.
        OSError: If it can't be read.
    """
    expected = f"{where}: path: expected the folder of a run, got {folder}"
    try:
        if not folder.exists():
            raise ValueError(f"{expected}, which does not exist. {_nearby(folder)}")
        if not (folder / CONFIG).is_file():
            what = f"which has no {CONFIG}" if folder.is_dir() else "which is a file"
            raise ValueError(
                f"{expected}, {what}. Give the folder that training wrote."
            )
        data = (folder / CONFIG).read_bytes()
    except OSError as error:
        raise OSError(
            f"{expected}, which can't be read ({error.strerror or error}). Check the "
            "path and its permissions."
        ) from error
    try:
        found = json.loads(data)
        known = found["format"] == FORMAT
        known = known and all(isinstance(found[k], kind) for k, kind in _KINDS.items())
    except (ValueError, KeyError, TypeError):
        known, found = False, {}
    if not known:
        raise ValueError(
            f"{expected}, whose {CONFIG} is not one of a run of this version. Give the "
            "folder that training wrote."
        )
    return found


def check_same(
    where: str, folder: Path, wanted: dict[str, Any], found: dict[str, Any]
) -> None:
    """Refuse a config that is not the run's.

    Raises:
        ValueError: If they differ, with every difference.
    """
    nothing = object()
    differences = []
    for name in dict.fromkeys([*found, *wanted]):
        old, new = found.get(name, nothing), wanted.get(name, nothing)
        if old != new:
            words = ["none" if v is nothing else json.dumps(v) for v in (old, new)]
            differences.append(f"{name}: {words[0]} there, {words[1]} now")
    if differences:
        raise ValueError(
            f"{where}: config: expected that of the run in {folder}: "
            f"{'; '.join(differences)}. Resume with the same, or start a new run."
        )


def _devices() -> str:
    found = [f"CPU with {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        found += [torch.cuda.get_device_name(i) for i in range(count)]
    if torch.backends.mps.is_available():
        found.append("MPS")
    return ", ".join(found)


def _nearby(folder: Path) -> str:
    near = sorted(p.parent.name for p in folder.parent.glob(f"*/{CONFIG}"))
    return f"Beside it: {', '.join(near)}." if near else "Check the path."
