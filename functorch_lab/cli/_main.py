# SPDX-License-Identifier: Apache-2.0
"""The command line: what was asked for, run; how it ends."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence

from functorch_lab import __version__
from functorch_lab.cli import _lesson, _train
from functorch_lab.cli._doctor import doctor
from functorch_lab.cli._lesson import lesson
from functorch_lab.cli._output import INSTALL, Usage, one_line, say
from functorch_lab.cli._train import train
from functorch_lab.recipes.digits import one_of

_BOUNDARY = re.compile(r"[a-z_]+(\.\w+)*: .+: expected ", re.DOTALL)
_PIPE_CLOSED = 141  # what a shell reports of a command that SIGPIPE has ended


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
            say(f"functorch-lab {__version__}")
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
        sys.stderr.write(f"functorch-lab: error: {one_line(str(error))}\n")
        return status
    return 0


def _status(error: Exception) -> int | None:
    """The exit status for an error of the user's; None for a defect of ours."""
    if isinstance(error, FloatingPointError):
        return 1
    # At its boundary the library says "namespace.function: argument: expected ...".
    bad_input = isinstance(error, ValueError) and _BOUNDARY.match(str(error))
    missing = isinstance(error, ModuleNotFoundError) and INSTALL in str(error)
    return 2 if isinstance(error, Usage) or bad_input or missing else None


def _parse(argv: list[str]) -> Callable[[], None]:
    # The command, ready to run.
    commands = {"train": train, "lesson": lesson, "doctor": doctor}
    if not argv[0].startswith("-"):
        one_of("cli: command", argv[0], commands)
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise Usage(
            f"tyro, which reads the command line, is not installed. Run: {INSTALL}"
        ) from error
    off = tyro.conf.FlagCreatePairsOff
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                # Switches are off, and have no --no-form.
                commands | {"lesson": tyro.conf.configure(off)(lesson)},
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
        raise Usage(_first_complaint(said.getvalue())) from None


def _refuse(argv: list[str]) -> None:
    """Raise for what is wrong in a refused command line, where we know better."""
    command, *rest = argv
    if command.startswith("-"):
        one_of("cli: option", command, ["--help", "--version"])
    elif command == "train":
        _train.refuse(rest)
    elif command == "lesson":
        _lesson.refuse(rest)
    elif rest:
        raise Usage(
            f"cli.{command}: options: expected none, got {' '.join(rest)}. "
            f"Run: functorch-lab {command}"
        )


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
