# SPDX-License-Identifier: Apache-2.0
"""`functorch-lab report`: the page of a run, written again."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import functorch_lab as fl
from functorch_lab.cli._output import say
from functorch_lab.cli._page import write_report


def report(run: Path, /) -> Callable[[], None]:
    """Write the figures and the page of a run, also of one that is not finished.

    Args:
        run: The folder of the run.
    """
    return partial(_report, run)


def _report(run: Path) -> None:
    say(f"report in {write_report(fl.train.read_run(run))}")
