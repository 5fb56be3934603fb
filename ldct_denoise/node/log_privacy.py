"""Silence of the libraries: their own remarks quote what they read, names included."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("ldct_denoise.node")


@contextmanager
def suppress_library_logs() -> Iterator[None]:
    """No remark of pydicom's or pynetdicom's is let out; a thread that ends is told of by name and error alone."""
    quiet = [logging.getLogger(name) for name in ("pydicom", "pynetdicom")]
    levels = [logger.level for logger in quiet]
    hook, threading.excepthook = threading.excepthook, _thread_ended
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in quiet:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            threading.excepthook = hook
            for logger, level in zip(quiet, levels, strict=True):
                logger.setLevel(level)


def _thread_ended(what: threading.ExceptHookArgs) -> None:
    name = what.thread.name if what.thread else "?"
    log.error("thread %s ended: %s", name.partition("@")[0], what.exc_type.__name__)
