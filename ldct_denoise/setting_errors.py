"""Problems of settings in plain words, with the file's line or the option that they come from."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ldct_denoise.errors import ConfigError, did_you_mean

Key = tuple[str, ...]

#: Words for pydantic's types of errors; a name in braces is a value of the error's context.
_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a section of settings",
    "model_type": "must be a section of settings",
    "model_attributes_type": "must be a section of settings",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "too_long": "must have at most {max_length} values, not {actual_length}",
    "too_short": "must have at least {min_length} values, not {actual_length}",
}


class SettingError(ConfigError):
    """A setting is unknown or has an impossible value.

    Parameters
    ----------
    key : tuple of str
        Sections and name of the setting.
    problem : str
        The problem; with the key before it, the message.
    """

    def __init__(self, key: Key, problem: str) -> None:
        super().__init__(f"{'.'.join(key)}: {problem}")
        self.key = key


class SettingSources:
    """Where each setting comes from: a line of a file, or an option of the command line.

    Parameters
    ----------
    default : str
        Source of a setting that was not noted, such as the name of a method.
    """

    def __init__(self, default: str) -> None:
        self._default = default
        self._by_key: dict[Key, str] = {}

    def add_file(self, path: Path) -> None:
        """Note the lines of a YAML file that was read without an error."""
        root = yaml.compose(path.read_text(encoding="utf-8"))
        for key, line in _lines(root, ()):
            self._by_key[key] = f"{path}, line {line}"

    def add(self, key: Key, source: str) -> None:
        """Note one setting."""
        self._by_key = {known: text for known, text in self._by_key.items() if known[: len(key)] != key}
        self._by_key[key] = source

    def of(self, key: Sequence[str]) -> str:
        """Source of a setting; of a part of a list or section, the nearest one above it that is known."""
        for end in range(len(key), 0, -1):
            if (source := self._by_key.get(tuple(key[:end]))) is not None:
                return source
        return self._default


def _lines(node: yaml.Node | None, key: Key) -> Iterator[tuple[Key, int]]:
    """Every key below a node of YAML, with its line."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            below = (*key, str(name.value))
            yield below, name.start_mark.line + 1
            yield from _lines(value, below)


def setting_problem(
    error: ValidationError, model: type[BaseModel], *, prefix: str = "", owner: str = ""
) -> SettingError:
    """The first problem that pydantic found, in one line.

    Parameters
    ----------
    error : pydantic.ValidationError
        Raised by building ``model``.
    model : type of pydantic.BaseModel
        Its fields are listed where a key is unknown.
    prefix : str
        Section that the settings belong to, put before the key.
    owner : str
        Method or file that the settings belong to, named in the list of known keys.

    Returns
    -------
    SettingError
        Its text is ``key: problem``.
    """
    first = error.errors()[0]
    *section, key = [*([prefix] if prefix else []), *map(str, first["loc"])] or ["settings"]
    path = (*section, key)
    if first["type"] != "extra_forbidden":
        return SettingError(path, _plain_words(first))
    label = f"{'.'.join(section) or 'settings'} of {owner}" if owner else "known"
    known = _known_keys(model, first["loc"][:-1])
    meant = did_you_mean(key, known) or _elsewhere(key, model)
    return SettingError(path, f"no such setting{meant} ({label}: {', '.join(known)})")


def _plain_words(error: Mapping[str, Any]) -> str:
    context, given = error.get("ctx", {}), error["input"]
    if error["type"] == "missing":
        return "is missing"
    words = _WORDS.get(error["type"])
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    numbers = {name: f"{value:g}" for name, value in context.items() if isinstance(value, float)}
    text = words.format(**{**context, **numbers})
    if error["type"] == "literal_error":
        names = [part.strip("'") for part in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{text}, not {reprlib.repr(given)}{did_you_mean(str(given), names)}"
    return text if "{actual_length}" in words else f"{text}, not {reprlib.repr(given)}"


def _elsewhere(key: str, model: type[BaseModel]) -> str:
    """A suggestion where the setting is one of another section."""
    for name, field in model.model_fields.items():
        inside = _model_inside(field.annotation)
        if inside is not None and key in inside.model_fields:
            return f"; did you mean '{name}.{key}'?"
    return ""


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
