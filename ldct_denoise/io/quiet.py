"""Suppress library warnings and shorten error messages."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress warnings about invalid values: the caller either uses a value or skips its file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def short_message(error: Exception) -> str:
    """Message of an error as one line of at most 240 characters; the name of its type where it has none."""
    return (" ".join(str(error).split()) or type(error).__name__)[:240]
