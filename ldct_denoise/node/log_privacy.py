"""Keep patient data out of the log: the libraries' own messages quote what they read."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("ldct_denoise.node")


@contextmanager
def suppress_library_logs() -> Iterator[None]:
    """Silence pydicom and pynetdicom, and log crashed threads by name and exception type only."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pynetdicom")]
    levels = [logger.level for logger in loggers]
    hook, threading.excepthook = threading.excepthook, _log_crashed_thread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _log_crashed_thread(crash: threading.ExceptHookArgs) -> None:
    name = crash.thread.name if crash.thread else "?"
    log.error("thread %s crashed: %s", name.partition("@")[0], crash.exc_type.__name__)
