# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM ask a run to stop at its next step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """`fit` stopped where it was asked to, and saved its run before."""


class Stop:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_signals(active: bool) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM set the flag; the second one does what it always does.

    Only the main thread gets signals: elsewhere, and if not active, nothing changes.
    """
    stop = Stop()
    if not active or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # A process that was told to ignore one (nohup, `&` of a script) still does.
    former: dict[int, Any] = {
        s: signal.getsignal(s)
        for s in _SIGNALS
        if signal.getsignal(s) is not signal.SIG_IGN
    }
    own = os.getpid()

    def restore() -> None:
        for number, handler in former.items():
            # A handler that was not set from Python is None and can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def ask(number: int, frame: FrameType | None) -> None:
        restore()
        if os.getpid() != own:
            # A terminal sends Ctrl-C to the processes of a loader too: the step that
            # is to be finished may wait for them.
            if number != signal.SIGINT:
                os.kill(os.getpid(), number)
            return
        stop.asked = True
        with suppress(OSError):
            os.write(2, b"\nstopping after this step; once more stops at once\n")

    for number in former:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
