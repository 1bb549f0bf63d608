# SPDX-License-Identifier: Apache-2.0
"""The command `functorch-lab`: one file per subcommand, read by tyro."""

from functorch_lab.cli._main import main

__all__ = ["main"]
