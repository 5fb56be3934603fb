"""The denoising methods. Every file of this folder is one, found by its name; there is no list to edit.

``lir.py`` is the method ``lir`` and ``anscombe_bm3d.py`` is ``anscombe-bm3d``: each has one class, named by
``METHOD``. ``base.py`` and files that begin with an underscore are not methods.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldct_denoise.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ldct_denoise.intensity import Scale
    from ldct_denoise.methods.base import Method


class Supervision(StrEnum):
    """Training data that a method requires."""

    NONE = "none"  # no training: each image is denoised on its own
    SELF = "self"  # low-dose images only
    NOISE2NOISE = "noise2noise"  # two noise realisations of the same anatomy
    UNPAIRED = "unpaired"  # a low-dose and a normal-dose pool, no pairs
    SUPERVISED = "supervised"  # low-dose images, each with its normal-dose image


@dataclass(frozen=True)
class MethodInfo:
    """Catalogue entry of a method.

    Parameters
    ----------
    name : str
        Name on the command line and in configurations.
    title : str
        The method in a few words.
    supervision : Supervision
        Training data that it requires.
    reference : str
        Publication that describes it.
    """

    name: str
    title: str
    supervision: Supervision
    reference: str


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted, without importing them."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in files if name != "base" and not name.startswith("_")))


def describe(name: str) -> MethodInfo:
    """Return the catalogue entry of a method, from the docstring of its file.

    The title is the first line. The paragraphs ``Supervision:`` and ``Reference:`` follow. The file is read and
    not imported, since importing it imports torch, which takes seconds.

    Raises
    ------
    ModelError
        If there is no such method, or its docstring lacks a paragraph.
    """
    spec = importlib.util.find_spec(_module(name))
    assert spec is not None
    path = Path(str(spec.origin))
    docstring = path.read_text(encoding="utf-8").split('"""')[1]
    fields = {
        key: " ".join(text.split()).removesuffix(".")
        for key, text in re.findall(r"^(Supervision|Reference): (.+?)(?=\n\w+: |\n\n|\Z)", docstring, re.M | re.S)
    }
    try:
        supervision, reference = Supervision(fields["Supervision"]), fields["Reference"]
    except (KeyError, ValueError):
        raise ModelError(
            f"{path}: the docstring needs 'Supervision: {' | '.join(Supervision)}' and 'Reference: …'"
        ) from None
    return MethodInfo(name, docstring.strip().splitlines()[0].removesuffix("."), supervision, reference)


def find(name: str) -> type[Method[Any]]:
    """Import a method and return its class.

    Raises
    ------
    ModelError
        If there is no such method.
    """
    method: type[Method[Any]] = importlib.import_module(_module(name)).METHOD
    return method


def _module(name: str) -> str:
    if name not in names():
        raise ModelError(f"no method is called {name!r}; there are {', '.join(names())}")
    return f"{__name__}.{name.replace('-', '_')}"


def build(name: str, settings: Mapping[str, object], scale: Scale, *, for_training: bool = False) -> Method[Any]:
    """Build a method with freshly initialised weights.

    Parameters
    ----------
    name : str
        A method's name.
    settings : mapping
        Its settings; those that are not given have their defaults.
    scale : Scale
        HU range of its network units.
    for_training : bool
        Also build the networks that only training uses.

    Returns
    -------
    Method
        The method, on the CPU, in training mode.

    Raises
    ------
    ModelError
        If there is no such method.
    ConfigError
        If a setting is unknown or has an impossible value.
    """
    from pydantic import ValidationError

    from ldct_denoise.errors import setting_problem

    cls = find(name)
    try:
        validated = cls.Settings(**settings)
    except ValidationError as error:
        raise ConfigError(setting_problem(error, cls.Settings, prefix="settings", owner=name)) from None
    method = cls(validated, scale)
    if for_training:
        method.add_training_networks()
    return method
