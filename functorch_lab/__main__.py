# SPDX-License-Identifier: Apache-2.0
"""`python -m functorch_lab` is the command `functorch-lab`."""

import sys

from functorch_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
