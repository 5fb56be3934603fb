"""Ctrl-C during training: the current step is finished first, so that a consistent state is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed.

    Parameters
    ----------
    requested : bool
        Set by the first signal.
    """

    requested: bool = False

    def handle(self, *_signal: object) -> None:
        """Remember the first signal; the second one interrupts at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def defer_sigint() -> Iterator[Interrupt]:
    """Context manager that records Ctrl-C (SIGINT); at its end a recorded signal raises KeyboardInterrupt.

    Nothing is changed outside the main thread, which alone receives signals, and where SIGINT is ignored (nohup).

    Yields
    ------
    Interrupt
    """
    interrupt, before = Interrupt(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt.handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupt.requested:
        raise KeyboardInterrupt
