"""Suppress library warnings and shorten error messages."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """No warnings of values that break a rule: they are either used, or their file is set aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short_message(error: Exception) -> str:
    """What an error says, in one short line; its name where it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:240]
