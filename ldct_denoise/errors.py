"""Errors that a user can correct.

::

    LdctDenoiseError
    ├── InputError     a file, folder or series that cannot be used
    ├── ConfigError    a setting that is unknown, impossible or contradicts another
    ├── OutputError    a place that cannot be written, or must not be overwritten
    ├── ModelError     a trained model or method that cannot be found, read or used here
    ├── TrainingError  a run that cannot go on: it diverged
    └── PartialError   some of the work was done; ``failures`` lists what was not, ``written`` what was written

Every message is one line that names the file or setting, what is wrong and what would be right. The command
line prints it as ``error: …``; status 2 when nothing was done, 1 for :class:`PartialError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class LdctDenoiseError(Exception):
    """Base of every error raised on purpose by this package.

    Attributes
    ----------
    failures : tuple of str
        Where many things were to be done: a line for each that was not.
    """

    failures: tuple[str, ...] = ()


class InputError(LdctDenoiseError):
    """A file, folder or series that cannot be used as it is."""


class ConfigError(LdctDenoiseError):
    """A setting that is unknown, impossible, or contradicts another."""


class OutputError(LdctDenoiseError):
    """A place that cannot be written to, or holds something that must not be overwritten."""


class ModelError(LdctDenoiseError):
    """A trained model or a method that cannot be found, read, or used on this input."""


class TrainingError(LdctDenoiseError):
    """A training run that cannot go on."""


class PartialError(LdctDenoiseError):
    """Part of the work was done.

    Parameters
    ----------
    message : str
        One line: how much was done and how much was not.
    failures : sequence of str
        One line for each thing that was not done, with its reason.
    written : sequence of Path
        What lies there now, as the work would have returned it.
    """

    def __init__(self, message: str, failures: Sequence[str], written: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.failures, self.written = tuple(failures), tuple(written)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt name, to be put behind a message; empty where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
