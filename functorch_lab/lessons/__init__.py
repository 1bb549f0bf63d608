# SPDX-License-Identifier: Apache-2.0
"""The course: each lesson a file that reads from top to bottom, and runs.

A lesson is a script in cells, prose and code in turn: `run` executes it, `script` and
`notebook` hand it out, and the docs show it executed.
"""

from functorch_lab.lessons._files import NAMES, notebook, script, title
from functorch_lab.lessons._run import figures, run

__all__ = ["NAMES", "figures", "notebook", "run", "script", "title"]
