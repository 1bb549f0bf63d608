# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab doctor`: what is installed here, and whether it works."""

import platform
import re
import time
import warnings
from collections.abc import Callable
from importlib import metadata

import torch

from functorch_lab import __version__
from functorch_lab.cli._output import one_line, say
from functorch_lab.transforms import jit

_LAB = ("tyro", "rich", "matplotlib", "scikit-learn", "safetensors", "jupytext")
_RUNTIME = ("torch", "optree", "jaxtyping", "beartype")


def doctor() -> Callable[[], None]:
    """Say what is installed, which devices are there, and if the compiler works."""
    return _doctor


def _doctor() -> None:
    say(f"functorch-lab {__version__}, Python {platform.python_version()}")
    say(f"{platform.platform()}, {torch.get_num_threads()} threads")
    for name in (*_RUNTIME, *_LAB):
        say(f"  {name:<14}{_version(name) or 'missing'}")
    say("extras")
    for extra, names in _extras().items():
        missing = [name for name in names if _version(name) is None]
        how = f"pip install 'functorch-lab[{extra}]'"
        state = f"missing: {', '.join(missing)}. Run: {how}" if missing else "complete"
        say(f"  {f'[{extra}]':<10}{state}")
    say("devices")
    for device in _devices():
        say(f"  {device}")
    say(f"compiler\n  {_compiler()}")


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, as the installed package declares them."""
    try:
        declared = metadata.requires("functorch-lab") or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return {"lab": list(_LAB)}
    found: dict[str, list[str]] = {}
    for line in declared:
        match = re.match(r"""([\w.-]+).*; *extra == ["'](\w+)["']""", line)
        if match and match[1] != "functorch-lab":
            found.setdefault(match[2], []).append(match[1])
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            found.append(f"cuda:{i}  {torch.cuda.get_device_name(i)}")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _compiler() -> str:
    """Compile one small function and time it."""
    x = torch.linspace(0.5, 2.5, 7)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            compiled = jit(lambda x: x.sin() * 3 + x)
            began = time.perf_counter()
            y = compiled(x)
            first = time.perf_counter() - began
            began = time.perf_counter()
            for _ in range(100):
                compiled(x)
            each = (time.perf_counter() - began) / 100
        except Exception as error:  # the compiler's own errors have no common class
            return f"fails: {one_line(str(error)):.200}. {_COMPILER_REMEDY}"
    if not torch.allclose(y, x.sin() * 3 + x):
        return "gives wrong results. Train with --no-compile, and report it."
    eager = [str(w.message) for w in caught if "compil" in str(w.message)]
    if eager:
        return f"does not work: {one_line(eager[0]):.200}. {_COMPILER_REMEDY}"
    return f"works: first call {first:.1f} s, then {1e6 * each:.0f} us per call"


_COMPILER_REMEDY = "Install a C++ compiler (g++ or clang), or train with --no-compile."
