"""List the settings of a run with type, default, value and description."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ldct_denoise import methods
from ldct_denoise.config import Config
from ldct_denoise.errors import ConfigError

_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "section", Path: "path"}
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of"}


@dataclass(frozen=True)
class Setting:
    """One setting of a configuration.

    Parameters
    ----------
    key : str
        As ``--set`` takes it, for example ``data.patch_size``.
    type : str
        Type and limits.
    default : object
        Default value.
    value : object
        Value in the configuration.
    description : str
        Meaning and unit.
    is_required : bool
        Whether it has no default.
    """

    key: str
    type: str
    default: object
    value: object
    description: str
    is_required: bool = False

    def describe(self, width: int = 80) -> str:
        """Text of several lines, each at most ``width`` characters long."""
        value = "" if self.value == self.default else f"; here: {_as_text(self.value)}"
        head = f"{self.type}; default: {_as_text(self.default)}{value}"
        wrapper = textwrap.TextWrapper(
            width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )
        return "\n".join([self.key, *wrapper.wrap(head), *wrapper.wrap(self.description)])


def explain_settings(config: Config, key: str = "") -> list[Setting]:
    """Settings of a run and of its method.

    Parameters
    ----------
    config : Config
        Configuration; it decides on the method and the values.
    key : str
        Narrows the list to a section (``data``, ``loss_weights``) or a setting (``data.patch_size`` or
        ``patch_size``); empty: all settings.

    Returns
    -------
    list of Setting

    Raises
    ------
    ConfigError
        If there is no such section or setting.
    """
    values = config.model_dump(mode="json")
    method = methods.find(config.method).Settings
    found = list(settings_of(Config, values, {"settings": method}))
    if not key:
        return found
    kept = [one for one in found if f".{key}." in f".{one.key}."]
    if not kept:
        sections = dict.fromkeys(one.key.partition(".")[0] for one in found)
        raise ConfigError(f"--explain {key!r}: no such section or setting; sections: {', '.join(sections)}")
    return kept


def settings_of(
    model: type[BaseModel],
    values: Mapping[str, Any] | None = None,
    sections: Mapping[str, type[BaseModel]] | None = None,
    prefix: str = "",
) -> Iterator[Setting]:
    """Settings of a model and of the models inside it.

    Parameters
    ----------
    model : type of BaseModel
        Its fields are the settings.
    values : mapping, optional
        Values by name; a setting without one has its default.
    sections : mapping, optional
        Models of fields whose annotation names none, by field.
    prefix : str
        Text before every key.
    """
    values, sections = values or {}, sections or {}
    for name, field in model.model_fields.items():
        inner = sections.get(name) or field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings_of(inner, values.get(name), prefix=f"{prefix}{name}.")
        else:
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            default = json.loads(json.dumps(default, default=str))
            text = field.description or ""
            value = values.get(name, default)
            yield Setting(f"{prefix}{name}", _type_text(field), default, value, text, field.is_required())


def _type_text(field: FieldInfo) -> str:
    """Type of a field in words, with its limits."""
    limits = [
        f"{sign} {getattr(constraint, limit):g}"
        for constraint in field.metadata
        for limit, sign in _LIMITS.items()
        if getattr(constraint, limit, None) is not None
    ]
    return ", ".join([_annotation_text(field.annotation), *limits])


def _annotation_text(annotation: Any) -> str:
    inside = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, inside))
    if get_origin(annotation) is tuple and inside[-1] is Ellipsis:
        return f"list of {_annotation_text(inside[0])}s"
    if get_origin(annotation) is tuple:
        return f"{len(inside)} {_annotation_text(inside[0])}s"
    if NoneType in inside:
        return f"{' or '.join(_annotation_text(one) for one in inside if one is not NoneType)}, or null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    origin = get_origin(annotation)
    if inside and origin is not dict:  # Annotated
        return _annotation_text(inside[0])
    return _TYPES.get(origin or annotation, "value")


def _as_text(value: object) -> str:
    """A value as YAML's flow style has it."""
    return json.dumps(value, ensure_ascii=False)
