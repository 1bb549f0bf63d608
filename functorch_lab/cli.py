# SPDX-License-Identifier: Apache-2.0
"""The command `functorch-lab`."""

import contextlib
import io
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from importlib import metadata
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from functorch_lab import __version__
from functorch_lab.recipes.digits import Config, Result, find_device, one_of
from functorch_lab.transforms import jit

__all__ = ["main"]

_LAB = ("tyro", "rich", "matplotlib", "scikit-learn", "safetensors")
_RUNTIME = ("torch", "optree", "jaxtyping", "beartype")
_BOUNDARY = re.compile(r"[a-z_]+(\.\w+)*: .+: expected ", re.DOTALL)
_PIPE_CLOSED = 141  # what a shell reports of a command that SIGPIPE has ended
_INSTALL = "pip install 'functorch-lab[lab]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the command's name; those of the process if None.

    Returns:
        The exit status: 0; 1 if training failed; 2 if the user asked for what is not
        there, with one line on standard error; 130 after Ctrl-C; 141 if nobody reads
        the output to its end, as in `| head`.

    Example:
        >>> from functorch_lab import cli
        >>> cli.main(["train", "digits", "--epochs", "0"])
        2
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv == ["--version"]:
            _say(f"functorch-lab {__version__}")
        else:
            _parse(argv or ["--help"])()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python flushes once more at exit,
        # into nothing then.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        sys.stderr.write("\nfunctorch-lab: interrupted\n")
        return 130
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        sys.stderr.write(f"functorch-lab: error: {_one_line(str(error))}\n")
        return status
    return 0


def _status(error: Exception) -> int | None:
    """The exit status for an error of the user's; None for a defect of ours."""
    if isinstance(error, FloatingPointError):
        return 1
    # At its boundary the library says "namespace.function: argument: expected ...".
    bad_input = isinstance(error, ValueError) and _BOUNDARY.match(str(error))
    missing = isinstance(error, ModuleNotFoundError) and _INSTALL in str(error)
    return 2 if isinstance(error, _Usage) or bad_input or missing else None


class _Usage(Exception):
    """The command line cannot be understood."""


def train(dataset: str, /, config: Config = Config()) -> Callable[[], None]:  # noqa: B008
    """Train a classifier with one compiled step, then test it.

    Args:
        dataset: What to train on: digits.
        config: The settings.
    """
    return partial(_train, dataset, config)


def doctor() -> Callable[[], None]:
    """Say what is installed, which devices are there, and if the compiler works."""
    return _doctor


def _parse(argv: list[str]) -> Callable[[], None]:
    # The command, ready to run.
    commands = {"train": train, "doctor": doctor}
    if not argv[0].startswith("-"):
        one_of("cli: command", argv[0], commands)
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise _Usage(
            f"tyro, which reads the command line, is not installed. Run: {_INSTALL}"
        ) from error
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="functorch-lab",
                description="Pure functions, trees and keys for PyTorch. "
                "`functorch-lab --version` prints the version.",
                args=argv,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:  # after --help
            return lambda: None
        _refuse(argv)
        raise _Usage(_first_complaint(said.getvalue())) from None


def _refuse(argv: list[str]) -> None:
    """Raise for what is wrong in a refused command line, where we know better."""
    command, *rest = argv
    if command.startswith("-"):
        one_of("cli: option", command, ["--help", "--version"])
    elif command == "train":
        _refuse_train(rest)
    elif rest:
        raise _Usage(
            f"cli.{command}: options: expected none, got {' '.join(rest)}. "
            f"Run: functorch-lab {command}"
        )


def _refuse_train(words: list[str]) -> None:
    kinds = get_type_hints(Config)
    defaults = {"--" + f.name.replace("_", "-"): f.default for f in fields(Config)}
    switches = ["--compile", "--no-compile", "--help"]
    options = [name for name in defaults if name not in switches] + switches
    datasets: list[str] = []
    while words:
        word, *words = words
        if not word.startswith("-"):
            datasets.append(word)
            continue
        option, joined, value = word.partition("=")
        option = option.replace("_", "-")
        one_of("cli.train: option", option, options)
        if option in switches:
            continue
        if not joined:
            value, words = (words[0], words[1:]) if words else ("", [])
        name = option[2:].replace("-", "_")
        kind = kinds[name]
        if value and get_origin(kind) is Literal:
            one_of(f"recipes.digits: {name}", value, get_args(kind))
            continue
        try:
            if not value or value.startswith("--"):
                raise ValueError(value)  # the next option, or the end of the line
            kind(value)
        except ValueError:
            raise _Usage(
                f"cli.train: {option}: expected {_VALUES.get(kind, 'a word')}, got "
                f"{value or 'nothing'}. Give e.g. {option} {defaults[option]}."
            ) from None
    if len(datasets) != 1:
        raise _Usage(
            "cli.train: dataset: expected one, got "
            f"{' '.join(datasets) or 'none'}. Run: functorch-lab train digits"
        )


_VALUES = {int: "a whole number", float: "a number"}


def _first_complaint(box: str) -> str:
    """The first sentence in the frame that tyro draws around an error."""
    title, *rows = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines() or [""]
    body: list[str] = []
    for row in rows:
        if row.strip(" │|╭╮╰╯─-+"):
            body.append(row.strip(" │|"))
        elif body:  # a rule, or the frame's lower edge
            break
    return " ".join(body) or title or "the arguments are not understood"


def _train(dataset: str, config: Config) -> None:
    from functorch_lab.recipes import digits

    one_of("cli.train: dataset", dataset, ["digits"])
    config.check()
    device = find_device(config.device)
    how = "compiled" if config.compile else "not compiled"
    _say(f"{config.model} on {dataset}, {config.epochs} epochs, on {device}, {how}")
    result = digits.train(config)
    _say(f"\ntest accuracy {result.accuracy:.4f}\n")
    _say("confusion matrix (row: true digit, column: predicted)")
    _say(f"{_matrix(result.confusion)}\n\n{_times(result)}")


def _times(result: Result) -> str:
    rows = result.history.epochs
    text = f"{rows[-1]['step']} steps in {rows[-1]['seconds']:.1f} s"
    if len(rows) > 1:
        first, last = rows[0]["seconds"], rows[-1]["seconds"]
        each = 1e3 * (last - first) / (len(rows) - 1)
        text += f" (first epoch {first:.1f} s, then {each:.0f} ms each)"
    return f"{text}; with data and test {result.seconds:.1f} s"


def _matrix(counts: Tensor) -> str:
    header = "    " + "".join(f"{j:4d}" for j in range(counts.shape[1]))
    lines = [
        f"{i:4d}" + "".join(f"{n:4d}" if n else "   ." for n in row)
        for i, row in enumerate(counts.long().tolist())
    ]
    return "\n".join([header, *lines])


def _doctor() -> None:
    _say(f"functorch-lab {__version__}, Python {platform.python_version()}")
    _say(f"{platform.platform()}, {torch.get_num_threads()} threads")
    for name in (*_RUNTIME, *_LAB):
        _say(f"  {name:<14}{_version(name) or 'missing'}")
    _say("extras")
    for extra, names in _extras().items():
        missing = [name for name in names if _version(name) is None]
        how = f"pip install 'functorch-lab[{extra}]'"
        state = f"missing: {', '.join(missing)}. Run: {how}" if missing else "complete"
        _say(f"  {f'[{extra}]':<10}{state}")
    _say("devices")
    for device in _devices():
        _say(f"  {device}")
    _say(f"compiler\n  {_compiler()}")


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
            return f"fails: {_one_line(str(error)):.200}. {_COMPILER_REMEDY}"
    if not torch.allclose(y, x.sin() * 3 + x):
        return "gives wrong results. Train with --no-compile, and report it."
    eager = [str(w.message) for w in caught if "compil" in str(w.message)]
    if eager:
        return f"does not work: {_one_line(eager[0]):.200}. {_COMPILER_REMEDY}"
    return f"works: first call {first:.1f} s, then {1e6 * each:.0f} us per call"


_COMPILER_REMEDY = "Install a C++ compiler (g++ or clang), or train with --no-compile."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
