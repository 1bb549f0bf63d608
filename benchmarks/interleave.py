# SPDX-License-Identifier: Apache-2.0
"""Timing by alternating blocks of calls in one process, and the record of a run.

Block by block, not call by call: one runtime's spinning threads slow the other's next
call. The medians over blocks are compared, so that a burst of other work on the
machine hits all sides alike.
"""

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def keep_memory() -> None:
    """Has glibc keep what is freed, for all sides.

    What one side frees at the end of the heap goes back to the system otherwise, and
    the other side, next, pays for pages that it would have kept if it ran alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def seconds_per_call(
    sides: Mapping[str, Callable[[], object]], *, blocks: int = 15, calls: int = 50
) -> dict[str, float]:
    """Median over blocks of the time of one call, for each side.

    A side's call must wait for its own result.
    """
    for call in sides.values():
        for _ in range(max(3, calls // 5)):
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(blocks):
        for name, call in sides.items():
            began = time.perf_counter()
            for _ in range(calls):
                call()
            times[name].append((time.perf_counter() - began) / calls)
    return {name: statistics.median(values) for name, values in times.items()}


def report(
    name: str, question: str, rows: Mapping[str, Mapping[str, float]], ours: str
) -> None:
    """Prints each row as ratios of ours to the others, and writes results/NAME.json."""
    print(question)
    for row, times in rows.items():
        print(f"  {row}")
        for side, value in times.items():
            ratio = times[ours] / value
            note = "" if side == ours else f"   ours / this: {ratio:.2f}"
            note += "  (we lose)" if ratio > 1 else ""
            print(f"    {side:34s} {value * 1e6:12.1f} us{note}")
    record = {
        "question": question,
        "machine": machine(),
        "seconds per call": rows,
        "ratio of ours": {
            row: {side: times[ours] / value for side, value in times.items()}
            for row, times in rows.items()
        },
    }
    write(name, record)


def write(name: str, record: Mapping[str, object]) -> None:
    """The record of a run as results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(Path(__file__).parent.parent)}")


def machine() -> dict[str, object]:
    """What the figures depend on."""
    packages = ("torch", "jax", "jaxlib", "optax", "functorch-lab")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
