# SPDX-License-Identifier: Apache-2.0
"""What the command says: lines on standard output, and the line that ends it."""

import sys

INSTALL = "pip install 'functorch-lab[lab]'"


class Usage(Exception):
    """The command line cannot be understood."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def one_line(text: str) -> str:
    return " ".join(text.split())
