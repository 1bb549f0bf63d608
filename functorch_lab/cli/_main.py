# SPDX-License-Identifier: Apache-2.0
"""The command line: what was asked for, run; how it ends."""

import contextlib
import errno
import io
import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import functorch_lab as fl
from functorch_lab.cli import _train
from functorch_lab.cli._compare import compare
from functorch_lab.cli._doctor import doctor
from functorch_lab.cli._lesson import lesson
from functorch_lab.cli._output import INSTALL, Usage, note, one_line, say
from functorch_lab.cli._predict import predict
from functorch_lab.cli._report import report
from functorch_lab.cli._words import check
from functorch_lab.recipes.settings import one_of

_BOUNDARY = re.compile(r"[a-z_]+(\.\w+)*: (.+: )?expected ", re.DOTALL)
# What a disk says of itself, wherever a file of a recipe is written.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
_PIPE_CLOSED = 141  # what a shell reports of a command that SIGPIPE has ended
_COMMANDS = {
    "train": _train.train,
    "report": report,
    "compare": compare,
    "predict": predict,
    "lesson": lesson,
    "doctor": doctor,
}

_ABOUT = {
    "": "Pure functions, trees and keys for PyTorch. `functorch-lab --version` prints "
    "the version.",
    "train": "Train one of the recipes. `functorch-lab train digits --help` lists the "
    "settings of one.",
}


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
    # What the library says besides, such as of a damaged checkpoint it passed over.
    logging.basicConfig(format="functorch-lab: %(message)s")
    try:
        if argv == ["--version"]:
            say(f"functorch-lab {fl.__version__}")
        else:
            _parse(argv or ["--help"])()
        say("", end="")  # flushes what others have printed
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return _PIPE_CLOSED
    except fl.train.Interrupted:
        words = [word for word in argv if word != "--resume"]
        again = shlex.join(["functorch-lab", *words, "--resume"])
        note(f"interrupted, and saved. Go on with: {again}")
        return 130
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        # A module that is being imported can make an ImportError of Ctrl-C.
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return _interrupted()
        status = _status(error)
        if status is None:
            raise
        note(f"error: {one_line(str(error))}")
        return status
    return 0


def _interrupted() -> int:
    sys.stderr.write("\n")
    note("interrupted")
    return 130


def _status(error: Exception) -> int | None:
    """The exit status for an error of the user's; None for a defect of ours."""
    if isinstance(error, FloatingPointError):
        return 1
    # At its boundary the library says "namespace.function: argument: expected ...".
    at_boundary = bool(_BOUNDARY.match(str(error)))
    bad_input = isinstance(error, (ValueError, OSError)) and at_boundary
    no_disk = isinstance(error, OSError) and error.errno in _DISK
    missing = isinstance(error, ModuleNotFoundError) and INSTALL in str(error)
    is_users = isinstance(error, Usage) or bad_input or no_disk or missing
    return 2 if is_users else None


def _parse(argv: list[str]) -> Callable[[], None]:
    # The command, ready to run.
    command, *words = argv
    if not command.startswith("-"):
        one_of("cli: command", command, _COMMANDS)
    if command == "train" and words:
        _train.check_recipe(words)
        return _read(words, _train.commands(), ["train"])
    return _read(argv, _COMMANDS, [])


def _read(
    argv: list[str], commands: Mapping[str, Callable[..., Any]], before: list[str]
) -> Callable[[], None]:
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise Usage(
            f"tyro, which reads the command line, is not installed. Run: {INSTALL}"
        ) from error
    said = io.StringIO()
    # A switch that is off has no --no-form.
    for function in (_train.Keep, *_COMMANDS.values()):
        tyro.conf.configure(tyro.conf.FlagCreatePairsOff)(function)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                dict(commands),
                prog=" ".join(["functorch-lab", *before]),
                description=_ABOUT[" ".join(before)],
                args=argv,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:  # after --help
            return lambda: None
        _refuse(argv, commands, before)
        raise Usage(_first_complaint(said.getvalue())) from None


def _refuse(
    argv: list[str], commands: Mapping[str, Callable[..., Any]], before: list[str]
) -> None:
    """Raise for what is wrong in a refused command line, where we know better."""
    name, *words = argv
    if name.startswith("-"):
        one_of("cli: option", name, ["--help", "--version"])
    else:
        check([*before, name], words, commands[name])


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
