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

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


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


def setting_problem(error: ValidationError, model: type[BaseModel], *, prefix: str = "", owner: str = "") -> str:
    """The first problem that pydantic found, in one line.

    Parameters
    ----------
    error : pydantic.ValidationError
        What building ``model`` raised.
    model : type of pydantic.BaseModel
        Its fields are listed where a key is unknown.
    prefix : str
        Section that the settings belong to, put before the key.
    owner : str
        Method or file that the settings belong to, named in the list of known keys.

    Returns
    -------
    str
        ``key: problem``.
    """
    first = error.errors()[0]
    *section, key = [*([prefix] if prefix else []), *map(str, first["loc"])] or ["settings"]
    path = ".".join([*section, key])
    if first["type"] != "extra_forbidden":
        return f"{path}: {first['msg'].removeprefix('Value error, ')}"
    label = f"{'.'.join(section) or 'settings'} of {owner}" if owner else "known"
    return f"{path}: no such setting ({label}: {', '.join(_known_keys(model, first['loc'][:-1]))})"


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Fields of the model at a location inside a model."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_inside(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as ``Model``, ``Model | None`` or ``tuple[Model, ...]``."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_model_inside, get_args(annotation))), None)
