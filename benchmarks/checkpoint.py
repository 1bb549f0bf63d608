# SPDX-License-Identifier: Apache-2.0
"""What does a checkpoint of 100 MB cost beside a raw write and read of its bytes?

A training state with Adam's moments. Every side is as durable: a temporary name, fsync,
rename. Reads come from the page cache. Run: python benchmarks/checkpoint.py
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from interleave import report, seconds_per_call
from safetensors.torch import load_file, save_file

import functorch_lab as fl

SIZE = 100_000_000  # bytes


def state(layers: int) -> fl.train.TrainState:
    """A training state of about SIZE bytes: parameters and two moments."""
    width = int((SIZE / (layers * 3 * 4)) ** 0.5)
    key = fl.random.key(0)
    params = {
        f"layer{i}": {
            "weight": fl.random.normal(fl.random.fold_in(key, i), (width, width)),
            "bias": torch.zeros(width),
        }
        for i in range(layers)
    }
    return fl.train.init(params, fl.optim.adam(lr=1e-3), key=key)


def durable(path: Path, write: Callable[[Path], object]) -> None:
    """What any side has to do that is to survive a power cut, as train.save does."""
    part = path.with_suffix(".part")
    write(part)
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def raw_read(path: Path) -> None:
    memory = torch.empty(path.stat().st_size, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.readinto(memory.numpy())


def main() -> None:
    """Check that all sides read back what was saved, time them, write the record."""
    rows = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        for layers in (5, 50, 500):
            rows |= measured(Path(name), layers)
    report("checkpoint", __doc__.splitlines()[0], rows, ours="functorch_lab")


def measured(folder: Path, layers: int) -> dict[str, dict[str, float]]:
    """The two rows, save and restore, of a state of so many layers."""
    saved = state(layers)
    flat = fl.tree.to_state_dict(saved)
    ours, raw = folder / "ours.safetensors", folder / "raw"
    theirs, torchs = folder / "theirs.safetensors", folder / "torch.pt"
    fl.train.save(ours, saved)
    # The same bytes, header and all, in one piece of memory.
    data = ours.read_bytes()
    save = {
        "functorch_lab": lambda: fl.train.save(ours, saved),
        "raw write": lambda: durable(raw, lambda path: path.write_bytes(data)),
        "safetensors.torch.save_file": lambda: durable(
            theirs, lambda path: save_file(flat, path)
        ),
        "torch.save": lambda: durable(torchs, lambda path: torch.save(flat, path)),
    }
    for call in save.values():
        call()
    load = {
        "functorch_lab": lambda: fl.train.restore(ours, saved),
        "functorch_lab, no like": lambda: fl.train.restore(ours),
        "raw read": lambda: raw_read(raw),
        # The default maps the file: nothing is read before it is used.
        "safetensors load_file, pread": lambda: load_file(theirs, backend="pread"),
        "torch.load": lambda: torch.load(torchs, weights_only=True),
    }
    assert raw.read_bytes() == data
    for name, call in load.items():
        found = call()
        if found is not None:
            found = found if isinstance(found, dict) else fl.tree.to_state_dict(found)
            assert fl.tree.equal(dict(found), flat), name
    size = f"{len(data) / 1e6:.0f} MB in {len(flat)} tensors"
    return {
        f"save {size}": seconds_per_call(save, blocks=15, calls=1),
        f"restore {size}": seconds_per_call(load, blocks=15, calls=1),
    }


if __name__ == "__main__":
    main()
